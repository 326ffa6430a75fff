"""Headers of DA-CLIP files made to harm: they set sizes in bounds that fit the tensors, or nothing."""

from __future__ import annotations

import contextlib
import copy
import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iqa_service.errors import ScorerError
from iqa_service.scorers.daclip import DaCLIP, Rule
from iqa_service.scorers.daclip_files import load_daclip, load_rule, save_daclip
from iqa_service.scorers.daclip_iqa import open_daclip
from rgsud_core.errors import RgsudError
from tests.iqa_service.conftest import CONFIG, make_daclip

RULE = Rule(words=("rainy", "clean"), degraded=("rainy",))


def changed(**changes: Any) -> str:
    """The configuration of the file with changes, by dotted keys with _ for the dot."""
    config: dict[str, Any] = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        group, _, name = key.partition("__")
        if name:
            config[f"{group}_cfg"][name] = value
        else:
            config[group] = value
    return json.dumps({"config": config})


HEADERS: dict[str, str] = {
    "a model of the hub": changed(text__hf_model_name="gpt2", text__hf_tokenizer_name="gpt2"),
    "a model of timm": changed(vision__timm_model_name="resnet50", vision__timm_model_pretrained=True),
    "a key that open_clip has": changed(quick_gelu=True),
    "a key that nobody has": changed(embed_dims=16),
    "a ResNet": changed(vision__layers=[2, 2, 2, 2]),
    "a width of a terabyte": changed(vision__width=1 << 40),
    "a width of some gigabytes": changed(vision__width=65536, text__width=65536),
    "a wide text tower": changed(text__width=1024),
    "a million layers": changed(vision__layers=1_000_000),
    "a thousand layers": changed(vision__layers=1000),
    "no layers": changed(vision__layers=0),
    "a context of a million words": changed(text__context_length=1_000_000),
    "a context of a thousand words": changed(text__context_length=1000),
    "no context": changed(text__context_length=0),
    "a vocabulary of a billion": changed(text__vocab_size=1 << 30),
    "a vocabulary of one word": changed(text__vocab_size=1),
    "images of a gigapixel": changed(vision__image_size=32768),
    "patches of no pixels": changed(vision__patch_size=0),
    "patches that do not divide": changed(vision__patch_size=7),
    "heads that do not divide": changed(text__heads=3),
    "heads of no channels": changed(vision__head_width=0),
    "a ratio that is none": changed(vision__mlp_ratio=float("nan")),
    "a huge ratio": changed(vision__mlp_ratio=1e9),
    "a text for a number": changed(embed_dim="16; import os"),
    "a truth for a number": changed(embed_dim=True),
    "a negative number": changed(embed_dim=-16),
    "a list for a group": changed(vision=[1]).replace('"vision"', '"vision_cfg"'),
    "no groups": json.dumps({"config": {"embed_dim": 16}}),
    "a text": json.dumps({"config": "ViT-B-32"}),
    "no mapping": "[]",
    "no JSON": "{",
    "lists in lists": "[" * 100_000,
    "a number of 10,000 digits": '{"config": {"embed_dim": ' + "9" * 10_000 + "}}",
}
RULES: dict[str, Any] = {
    "a million words": {"words": ["rainy"] * 1_000_000},
    "a word of a megabyte": {"words": ["rainy", "x" * (1 << 20)]},
    "an empty word": {"words": ["rainy", ""]},
    "words that are none": {"words": 3},
    "a text": "rainy",
    "a list": [],
    "a key that nobody has": {"code": "print(1)"},
}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: object, **__: object) -> None:
        pytest.fail("a header made the program fetch a model")

    for name in ("hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, fetch)


def written(model: DaCLIP, header: str, file: Path) -> Path:
    state = {key: value.contiguous().clone() for key, value in model.scoring_state().items()}
    state |= {key: model.logit_scale.detach().clone() for key in ("logit_scale", "clip.logit_scale")}
    safetensors.torch.save_file(state, file, metadata={"daclip": header})
    return file


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_configuration_ends_in_a_sentence(daclip: DaCLIP, tmp_path: Path, name: str) -> None:
    file = written(daclip, HEADERS[name], tmp_path / "theirs.safetensors")
    with pytest.raises(ScorerError, match=r"theirs\.safetensors") as caught:
        open_daclip("theirs", file)
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", RULES)
def test_a_hostile_rule_ends_in_a_sentence(daclip: DaCLIP, tmp_path: Path, name: str) -> None:
    header = json.dumps({"config": CONFIG, "rule": RULES[name]})
    file = written(daclip, header, tmp_path / "theirs.safetensors")
    with pytest.raises(ScorerError, match=r"the scoring rule in .*theirs\.safetensors") as caught:
        load_rule(file)
    assert len(str(caught.value)) < 1000


def test_the_untouched_header_is_taken(daclip: DaCLIP, tmp_path: Path) -> None:
    loaded = load_daclip(written(daclip, changed(), tmp_path / "ours.safetensors"))
    assert loaded.config == CONFIG


STATES: dict[str, Any] = {
    "a billionth layer": {"clip.transformer.resblocks.999999999.ln_1.weight": torch.zeros(32)},
    "a layer of 5,000 digits": {f"clip.transformer.resblocks.{'9' * 5000}.ln_1.weight": torch.zeros(32)},
    "a long context": {"clip.positional_embedding": torch.zeros(100_000, 32)},
    "no channels": {"clip.positional_embedding": torch.zeros(77, 0)},
    "patches of a gigapixel": {"visual_control.conv1.weight": torch.zeros(0, 3, 1 << 20, 1 << 20)},
    "positions of two dimensions too few": {"visual_control.positional_embedding": torch.zeros(64)},
    "no positions": {"visual_control.positional_embedding": torch.zeros(0, 64)},
    "a vocabulary of one word": {"clip.token_embedding.weight": torch.zeros(1, 32)},
    "another width": {"visual_control.ln_pre.weight": torch.zeros(63)},
    "a tensor too many": {"visual_control.more": torch.zeros(1)},
}


@pytest.mark.parametrize("name", STATES)
def test_tensors_that_are_none_of_a_daclip_end_in_a_sentence(
    daclip: DaCLIP, tmp_path: Path, name: str
) -> None:
    torch.save(daclip.state_dict() | STATES[name], tmp_path / "theirs.pt")
    with pytest.raises(ScorerError, match=r"theirs\.pt"):
        load_daclip(tmp_path / "theirs.pt")


@pytest.mark.parametrize("content", [[], "text", {"state_dict": [1]}, {"state_dict": {1: torch.ones(1)}}, {}])
def test_files_without_tensors_by_name_end_in_a_sentence(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "theirs.pt")
    with pytest.raises(ScorerError, match=r"theirs\.pt' is no DA-CLIP"):
        load_daclip(tmp_path / "theirs.pt")


@pytest.fixture(scope="module")
def compact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("daclip") / "ours.safetensors"
    save_daclip(make_daclip(), RULE, file)
    return file.read_bytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_header_with_flipped_bytes_is_read_or_refused_in_a_sentence(
    tmp_path: Path, compact: bytes, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(compact)
    header = 8 + int.from_bytes(data[:8], "little")
    for place, value in changes:
        data[int(place * (header - 1))] = value
    (tmp_path / "flipped.safetensors").write_bytes(data)
    with contextlib.suppress(RgsudError):
        load_rule(tmp_path / "flipped.safetensors")
        load_daclip(tmp_path / "flipped.safetensors")
