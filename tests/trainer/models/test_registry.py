import contextlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import save_file

from trainer.errors import TrainerError
from trainer.kinds import AnySettings
from trainer.models.nafnet import PUBLISHED, NAFNetSettings
from trainer.models.registry import (
    begin_from,
    build_derainer,
    load_derainer,
    serialise_derainer,
    shipped_models,
)

SMALL = NAFNetSettings(width=4, encoder=(1, 1), middle=1, decoder=(1, 1))


def test_a_name_and_its_sizes_are_the_same():
    named, sized = build_derainer("nafnet-tiny"), build_derainer(PUBLISHED["nafnet-tiny"])
    assert [value.shape for value in named.parameters()] == [value.shape for value in sized.parameters()]


def test_an_unknown_name_gets_the_nearest_known_one():
    with pytest.raises(ValueError, match=r"unknown derainer 'nafnet-tin': did you mean 'nafnet-tiny'\?"):
        build_derainer("nafnet-tin")


def test_identity_start_reaches_the_network():
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(build_derainer(SMALL, identity_start=True)(image), image)


WIDE = """
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

class Wide(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = torch.nn.Conv2d(3, 3, width, padding=width // 2)

    def forward(self, image):
        return self.net(image)
"""


class TestFile:
    def test_a_file_runs_no_code_that_it_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "strange.py").write_text("raise SystemExit('imported')\n")
        monkeypatch.chdir(tmp_path)
        file = tmp_path / "theirs.safetensors"
        save_file({"weight": torch.zeros(2)}, file, metadata={"derainer": '{"name": "strange:Net"}'})
        with pytest.raises(TrainerError, match=r"names the class strange:Net.*--derainer strange:Net"):
            load_derainer(file)

    def test_a_named_class_is_loaded_where_it_is_allowed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        (tmp_path / "wide_net.py").write_text(WIDE)
        monkeypatch.syspath_prepend(tmp_path)
        settings = AnySettings(name="wide_net:Wide", width=5)
        derainer = build_derainer(settings)
        file = tmp_path / "wide.safetensors"
        file.write_bytes(serialise_derainer(derainer, settings))
        loaded = load_derainer(file, "wide_net:Wide")
        assert torch.equal(loaded.net.weight, derainer.net.weight)

    @pytest.mark.parametrize("settings", ["nafnet-tiny", SMALL], ids=["by name", "by sizes"])
    def test_round_trip(self, tmp_path: Path, settings: str | NAFNetSettings):
        derainer = build_derainer(settings).to(memory_format=torch.channels_last)
        file = tmp_path / "any.safetensors"
        file.write_bytes(serialise_derainer(derainer, settings))
        loaded = load_derainer(file)
        assert not loaded.training
        assert loaded.state_dict().keys() == derainer.state_dict().keys()
        for key, value in derainer.state_dict().items():
            assert torch.equal(loaded.state_dict()[key], value)
        image = torch.rand(1, 3, 37, 53)
        with torch.no_grad():
            assert torch.equal(loaded(image), derainer(image))

    def test_a_runs_folder_is_its_model(self, tmp_path: Path):
        derainer = build_derainer(SMALL)
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "derainer.safetensors").write_bytes(serialise_derainer(derainer, SMALL))
        loaded = load_derainer(tmp_path)
        assert torch.equal(loaded.state_dict()["intro.weight"], derainer.state_dict()["intro.weight"])

    def test_missing(self, tmp_path: Path):
        with pytest.raises(TrainerError, match=r"there is no derainer at .*none\.safetensors"):
            load_derainer(tmp_path / "none.safetensors")
        with pytest.raises(TrainerError, match=r"there is no derainer at .*model.derainer\.safetensors"):
            load_derainer(tmp_path)

    @pytest.mark.parametrize("keep", [0, 5, 200, -1])
    def test_truncated(self, tmp_path: Path, keep: int):
        file = tmp_path / "cut.safetensors"
        file.write_bytes(serialise_derainer(build_derainer(SMALL), SMALL)[:keep])
        with pytest.raises(TrainerError, match=r"cut\.safetensors' as weights \(no whole .+\): "):
            load_derainer(file)

    @pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
    def test_foreign(self, tmp_path: Path, metadata: dict[str, str] | None):
        file = tmp_path / "foreign.safetensors"
        save_file({"weight": torch.zeros(2)}, file, metadata=metadata)
        with pytest.raises(TrainerError, match="does not say which derainer it holds"):
            load_derainer(file)

    @pytest.mark.parametrize(
        "described",
        [
            '{"name": "nafnet", "width": 8, "encoder": [1, 1], "middle": 1, "decoder": [1, 1]}',
            '{"name": "nafnet", "width": 4, "encoder": [1, 1], "middle": 1, "decoder": [1]}',
            '{"name": "restormer"}',
            '{"name": ',
        ],
        ids=["other width", "odd levels", "other network", "broken"],
    )
    def test_weights_that_do_not_fit(self, tmp_path: Path, described: str):
        file = tmp_path / "odd.safetensors"
        save_file(build_derainer(SMALL).state_dict(), file, metadata={"derainer": described})
        with pytest.raises(TrainerError, match=r"odd\.safetensors holds weights that do not fit"):
            load_derainer(file)


def test_sizes_are_checked():
    with pytest.raises(ValidationError, match="did you mean 'middle'"):
        NAFNetSettings.model_validate({"midle": 3})


class TestStart:
    def test_a_network_begins_from_the_weights_of_a_file(self, tmp_path: Path):
        trained, fresh = build_derainer(SMALL), build_derainer(SMALL)
        file = tmp_path / "trained.safetensors"
        file.write_bytes(serialise_derainer(trained, SMALL))
        begin_from(fresh, file)
        for key, value in trained.state_dict().items():
            assert torch.equal(fresh.state_dict()[key], value)
        assert fresh.training

    def test_of_another_size_it_is_refused_with_the_sizes_that_the_file_has(self, tmp_path: Path):
        file = tmp_path / "trained.safetensors"
        file.write_bytes(serialise_derainer(build_derainer(SMALL), SMALL))
        with pytest.raises(TrainerError, match=r'no derainer of this size; its settings are .*"width":4'):
            begin_from(build_derainer("nafnet-tiny"), file)

    def test_a_class_of_ones_own_begins_from_a_file_of_the_same_class(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        (tmp_path / "wide_start.py").write_text(WIDE)
        monkeypatch.syspath_prepend(tmp_path)
        settings = AnySettings(name="wide_start:Wide", width=5)
        trained, fresh = build_derainer(settings), build_derainer(settings)
        (tmp_path / "wide.safetensors").write_bytes(serialise_derainer(trained, settings))
        begin_from(fresh, tmp_path / "wide.safetensors")
        assert torch.equal(fresh.net.weight, trained.net.weight)

    def test_shipped_models_are_known_by_name(self):
        for name in shipped_models():
            assert load_derainer(name).training is False
        with pytest.raises(TrainerError, match="there is no derainer at rgsud-bose"):
            load_derainer("rgsud-bose")


HUGE = {"name": "nafnet", "width": 1024, "encoder": [1000] * 8, "middle": 1000, "decoder": [1000] * 8}
HEADERS = {
    "a network of a million tensors": json.dumps(HUGE),
    "a network of a terabyte": json.dumps(HUGE | {"encoder": [1] * 8, "middle": 1, "decoder": [1] * 8}),
    "more blocks than there are": json.dumps(HUGE | {"middle": 10**9}),
    "no channels": json.dumps(SMALL.model_dump() | {"width": 0}),
    "a negative number of blocks": json.dumps(SMALL.model_dump() | {"middle": -1}),
    "a number of 10,000 digits": '{"name": "nafnet", "width": ' + "9" * 10_000 + "}",
    "lists in lists": "[" * 100_000,
    "a list": "[]",
    "a name that is none": '{"name": {"a": 1}}',
    "nothing": "null",
}


@pytest.mark.parametrize("described", HEADERS)
def test_a_hostile_header_ends_in_a_sentence(tmp_path: Path, described: str):
    file = tmp_path / "theirs.safetensors"
    save_file(build_derainer(SMALL).state_dict(), file, metadata={"derainer": HEADERS[described]})
    with pytest.raises(TrainerError, match=r"theirs\.safetensors holds weights that do not fit"):
        load_derainer(file)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_a_header_with_flipped_bytes_is_read_or_refused_in_a_sentence(
    tmp_path: Path, changes: list[tuple[float, int]]
):
    data = bytearray(serialise_derainer(build_derainer(SMALL), SMALL))
    header = 8 + int.from_bytes(data[:8], "little")
    for place, value in changes:
        data[int(place * (header - 1))] = value
    (tmp_path / "flipped.safetensors").write_bytes(data)
    with contextlib.suppress(TrainerError):
        load_derainer(tmp_path / "flipped.safetensors")
