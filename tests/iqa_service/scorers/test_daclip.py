import hashlib
import math

import pytest
import safetensors.torch
import torch

from iqa_service.errors import ScorerError
from iqa_service.scorers import daclip_files as module
from iqa_service.scorers.daclip import WORDS, Rule
from iqa_service.scorers.daclip_files import load_daclip, load_rule, save_daclip


@pytest.fixture
def golden(shared):
    expected = torch.load(shared / "conformance/daclip_golden_expected.pt", weights_only=True)
    model = load_daclip(shared / "conformance/daclip_golden.pt", expected["config"])
    return model, expected


@torch.no_grad()
def test_features_tokens_and_probabilities_are_those_of_the_original_code(golden):
    model, expected = golden
    image, degradation = model.encode_image(model.normalise(expected["image_uint8"]))
    torch.testing.assert_close(image, expected["image_features_controlled"], atol=1e-4, rtol=0)
    torch.testing.assert_close(degradation, expected["degradation_features"], atol=1e-4, rtol=0)
    assert tuple(expected["prompts"]) == WORDS
    assert torch.equal(model.tokenize(WORDS), expected["tokens"])
    torch.testing.assert_close(
        model.encode_text(expected["tokens"]), expected["text_features"], atol=1e-4, rtol=0
    )
    probabilities = model.degradation_probabilities(expected["image_uint8"])
    torch.testing.assert_close(probabilities, expected["probabilities"], atol=1e-4, rtol=0)


def test_probabilities_see_the_shrunk_centre(daclip, china):
    image = torch.tensor(china).permute(2, 0, 1)[None]
    beside = image.clone()
    beside[..., :30] = 0  # outside the centre square and the reach of the filter
    probabilities = daclip.degradation_probabilities(torch.cat([image, beside]))
    assert probabilities.shape == (2, 10)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(probabilities[0], probabilities[1], atol=1e-5, rtol=1e-4)


def test_the_controller_steers_the_image_tower_from_its_last_block_to_the_first(full_daclip):
    pixels = torch.randn(2, 3, 32, 32)
    zero = full_daclip.visual_control.transformer.zero_modules
    with torch.no_grad():
        for layer in zero[1].parameters():
            layer.zero_()
        x = full_daclip.visual._embeds(pixels)
        y = full_daclip.visual_control._embeds(pixels)
        first = zero[0](full_daclip.visual_control.transformer.transformer.resblocks[0](y))
        blocks = full_daclip.visual.transformer.resblocks
        by_hand = full_daclip.visual._pool(blocks[1](blocks[0](x)) + first)[0] @ full_daclip.visual.proj
        torch.testing.assert_close(full_daclip.encode_image(pixels)[0], by_hand)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_full_model_and_its_controller_alone_tell_the_same(full_daclip, china, tmp_path, suffix):
    state = full_daclip.state_dict()
    parts = {k: v.clone() for k, v in state.items() if not k.startswith(("visual.", "clip.visual."))}
    lean = {k: v for k, v in parts.items() if "zero_modules" not in k}
    path = tmp_path / f"lean{suffix}"
    if suffix == ".pt":
        torch.save(lean, path)
    else:
        safetensors.torch.save_file(lean, path)
    loaded = load_daclip(path, full_daclip.config)
    assert loaded.visual is None
    image = torch.tensor(china).permute(2, 0, 1)[None]
    assert torch.equal(loaded.degradation_probabilities(image), full_daclip.degradation_probabilities(image))
    with pytest.raises(ScorerError, match="no image tower"):
        loaded.encode_image(torch.zeros(1, 3, 32, 32))


def test_shapes_are_read_from_the_tensors_of_a_training_checkpoint(full_daclip, tmp_path):
    state = {f"module.{key}": value for key, value in full_daclip.state_dict().items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": state}, tmp_path / "epoch_3.pt")
    loaded = load_daclip(tmp_path / "epoch_3.pt")
    assert loaded.image_size == 32
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for ours, theirs in zip(loaded.encode_image(pixels), full_daclip.encode_image(pixels), strict=True):
            assert torch.equal(ours, theirs)


def test_a_file_may_hold_the_image_tower_under_one_name(full_daclip, tmp_path):
    state = {k: v.clone() for k, v in full_daclip.state_dict().items() if not k.startswith("visual.")}
    safetensors.torch.save_file(state, tmp_path / "full.safetensors")
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        loaded = load_daclip(tmp_path / "full.safetensors").encode_image(pixels)[0]
        assert torch.equal(loaded, full_daclip.encode_image(pixels)[0])


def test_the_compact_file_carries_configuration_and_rule(daclip, tmp_path):
    rule = Rule(words=("rainy", "clean"), degraded=("rainy",), views="tiles")
    save_daclip(daclip, rule, tmp_path / "lite.safetensors")
    assert load_rule(tmp_path / "lite.safetensors") == rule
    loaded = load_daclip(tmp_path / "lite.safetensors")
    assert loaded.config == daclip.config
    for name, value in daclip.scoring_state().items():
        torch.testing.assert_close(loaded.scoring_state()[name], value, atol=2e-3, rtol=1e-3)


def test_released_checkpoints_ask_ten_words_whether_it_rains(full_daclip, tmp_path):
    torch.save(full_daclip.state_dict(), tmp_path / "daclip.pt")
    rule = load_rule(tmp_path / "daclip.pt")
    assert (rule.words, rule.degraded, rule.views) == (WORDS, ("rainy",), "centre")


@pytest.fixture
def hub(full_daclip, tmp_path, monkeypatch):
    """The digest of the file that the hub gives, and what it is asked for."""
    torch.save(full_daclip.state_dict(), tmp_path / "daclip.pt")
    asked = []

    def download(repository, file, revision):
        asked.append((repository, file, revision))
        return str(tmp_path / "daclip.pt")

    monkeypatch.setattr(module.huggingface_hub, "hf_hub_download", download)
    return hashlib.sha256((tmp_path / "daclip.pt").read_bytes()).hexdigest(), asked


def test_weights_come_from_the_hub(hub):
    _, asked = hub
    assert load_daclip("hf://weblzw/daclip-uir-ViT-B-32-irsde/daclip_ViT-B-32.pt").visual is not None
    assert asked == [("weblzw/daclip-uir-ViT-B-32-irsde", "daclip_ViT-B-32.pt", None)]


def test_a_pinned_file_of_the_hub_is_of_that_commit_and_digest(hub):
    digest, asked = hub
    assert load_daclip(f"hf://owner/repository@c0ffee/folder/daclip.pt#{digest.upper()}").visual is not None
    assert asked == [("owner/repository", "folder/daclip.pt", "c0ffee")]
    with pytest.raises(ScorerError, match=f"has the digest {digest}: it is another, do not use it"):
        load_daclip(f"hf://owner/repository@c0ffee/folder/daclip.pt#{'0' * 64}")


def test_a_hub_that_does_not_answer_is_named(monkeypatch):
    def download(repository, file, revision):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(module.huggingface_hub, "hf_hub_download", download)
    with pytest.raises(ScorerError, match=r"cannot download 'hf://a/b/c.pt' \(no route to host"):
        load_daclip("hf://a/b/c.pt")


def test_unusable_weights_are_named(full_daclip, tmp_path):
    with pytest.raises(ScorerError, match=r"no DA-CLIP weights at '.*absent.pt'"):
        load_daclip(tmp_path / "absent.pt")
    with pytest.raises(ScorerError, match="names no file on the hub"):
        load_daclip("hf://owner/repository")
    for name in ("text.pt", "text.safetensors"):
        (tmp_path / name).write_text("not weights")
        with pytest.raises(ScorerError, match=f"{name}' (as weights|is not a safetensors)"):
            load_daclip(tmp_path / name)
    (tmp_path / "empty.pt").touch()
    torch.save(full_daclip.state_dict(), tmp_path / "cut.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:100])
    for name in ("empty.pt", "cut.pt"):
        with pytest.raises(ScorerError, match=f"cannot read '.*{name}' as weights"):
            load_daclip(tmp_path / name)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(ScorerError, match="is no DA-CLIP"):
        load_daclip(tmp_path / "other.pt")
    torch.save(full_daclip.state_dict(), tmp_path / "daclip.pt")
    with pytest.raises(ScorerError, match="does not fit its configuration"):
        load_daclip(tmp_path / "daclip.pt", "ViT-B-32")
    with pytest.raises(ScorerError, match="knows no model 'ViT-B-33'"):
        load_daclip(tmp_path / "daclip.pt", "ViT-B-33")
    broken = full_daclip.state_dict() | {"logit_scale": torch.tensor(math.nan)}
    torch.save(broken, tmp_path / "nan.pt")
    with pytest.raises(ScorerError, match="holds NaN"):
        load_daclip(tmp_path / "nan.pt")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    torch.save({"state_dict": print}, tmp_path / "code.pt")
    with pytest.raises(ScorerError, match="cannot read"):
        load_daclip(tmp_path / "code.pt")


@pytest.mark.parametrize("degraded", [(), ("misty",), ("rainy", "clean")])
def test_a_rule_needs_words_on_both_sides(degraded):
    with pytest.raises(ValueError, match="must be some of the words"):
        Rule(words=("rainy", "clean"), degraded=degraded)
