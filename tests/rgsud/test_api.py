"""The Python interface: what goes in comes out, of the same kind; bad input is one sentence."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from torch import nn

import rgsud
from trainer.models.registry import build_derainer, serialise_derainer

DOCS = Path(__file__).parents[2] / "docs"


class Darker(nn.Module):
    """Takes a tenth of the light away, so that nothing can be mistaken for its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.9


@pytest.fixture
def derainer() -> rgsud.Derainer:
    return rgsud.Derainer(Darker(), device="cpu")


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)


def test_the_package_is_imported_without_torch() -> None:
    script = "import sys, rgsud; assert 'Derainer' in dir(rgsud); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
    with pytest.raises(AttributeError, match="no attribute 'Deriner'"):
        _ = rgsud.Deriner  # type: ignore[attr-defined]


def test_arrays_come_back_as_arrays(derainer: rgsud.Derainer, image: np.ndarray) -> None:
    expected = np.rint(np.float32(image) / np.float32(255) * np.float32(0.9) * 255)
    derained = derainer(image)
    assert derained.dtype == np.uint8
    np.testing.assert_array_equal(derained, expected)
    for dtype in (np.float16, np.float32, np.float64):
        fraction = (image / 255).astype(dtype)
        derained = derainer(fraction)
        assert derained.dtype == dtype
        np.testing.assert_allclose(derained, fraction * 0.9, atol=1e-3 if dtype == np.float16 else 1e-6)


def test_tensors_come_back_as_tensors(derainer: rgsud.Derainer, image: np.ndarray) -> None:
    whole = torch.from_numpy(image).permute(2, 0, 1)
    assert torch.equal(derainer(whole), torch.from_numpy(derainer(image)).permute(2, 0, 1))
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        batch = torch.stack([whole, whole.flip(1)]).to(dtype) / 255
        derained = derainer(batch)
        assert (derained.shape, derained.dtype) == (batch.shape, dtype)
        torch.testing.assert_close(derained, batch * 0.9, atol=4e-3, rtol=0)
    assert derainer(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)


def test_pictures_and_files_come_back_as_pictures(
    derainer: rgsud.Derainer, image: np.ndarray, tmp_path: Path
) -> None:
    picture = PIL.Image.fromarray(image)
    picture.save(tmp_path / "photo.png")
    for given in (picture, picture.convert("RGBA"), tmp_path / "photo.png", str(tmp_path / "photo.png")):
        derained = derainer(given)
        assert isinstance(derained, PIL.Image.Image)
        np.testing.assert_array_equal(np.asarray(derained), derainer(image))


def test_tiles_and_precision_are_those_asked_for(image: np.ndarray) -> None:
    sizes, types = [], []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            sizes.append(tuple(x.shape[2:]))
            types.append(self.layer(x).dtype)
            return x

    derainer = rgsud.Derainer(Watched(), device="cpu", tile=6, overlap=2, precision="bfloat16")
    np.testing.assert_array_equal(derainer(image), image)
    assert max(max(size) for size in sizes) == 6
    assert set(types) == {torch.bfloat16}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((4, 4), np.uint8), r"ndarray \(4, 4\) is no RGB image"),
        (np.zeros((4, 4, 4), np.uint8), "is no RGB image"),
        (np.zeros((0, 4, 3), np.uint8), "is no RGB image"),
        (torch.zeros(4, 4, 3), r"Tensor \(4, 4, 3\) is no RGB image"),
        (None, "NoneType .* is no RGB image"),
        (np.full((4, 4, 3), 1.5), r"float64 must be in \[0,1\]"),
        (np.full((4, 4, 3), np.nan), r"must be in \[0,1\]"),
        (np.zeros((4, 4, 3), np.int64), "int64 must be"),
        (PIL.Image.new("F", (4, 4), 300), "of mode F cannot be taken"),
        ("nowhere.png", "nowhere.png"),
    ],
)
def test_what_is_no_image_is_one_sentence(derainer: rgsud.Derainer, given: Any, said: str) -> None:
    with pytest.raises(rgsud.RgsudError, match=said):
        derainer(given)


def test_models_are_found_by_path_and_by_name(tmp_path: Path, image: np.ndarray) -> None:
    file = tmp_path / "small.safetensors"
    file.write_bytes(serialise_derainer(build_derainer("nafnet-tiny", identity_start=True), "nafnet-tiny"))
    for model in (file, str(file)):
        np.testing.assert_array_equal(rgsud.Derainer.load(model, device="cpu")(image), image)
    with pytest.raises(rgsud.RgsudError, match=r"no derainer at rgsud-bas: give .* \(rgsud-base\)"):
        rgsud.Derainer.load("rgsud-bas")
    assert rgsud.Derainer.load(device="cpu")(image).shape == image.shape
    with pytest.raises(rgsud.RgsudError, match="no precision 'int8'"):
        rgsud.Derainer.load(file, precision="int8")  # type: ignore[arg-type]
    with pytest.raises(rgsud.RgsudError, match="'cuda:99' cannot be used"):
        rgsud.Derainer.load(file, device="cuda:99")


def test_a_scorer_takes_what_a_derainer_takes(image: np.ndarray) -> None:
    truth = PIL.Image.fromarray(image)
    tensor = torch.from_numpy(image).permute(2, 0, 1)
    with rgsud.Scorer.open("local:daclip-lite") as scorer:
        first = scorer(image)
        assert isinstance(first, float)
        assert scorer.batch([truth, tensor, tensor / 255, image / 255]) == pytest.approx(
            [first] * 4, abs=1e-3
        )
        assert scorer.batch([]) == []
        with pytest.raises(rgsud.RgsudError, match="1 images and 2 rainy images"):
            scorer.batch([image], [image, image])
    with rgsud.Scorer.open("local:daclip-lite?consistency=1") as scorer:
        assert scorer(255 - image, image) < scorer(image, image)


def test_an_evaluation_measures_and_draws(derainer: rgsud.Derainer, photographs: Path) -> None:
    val, calls = photographs / "val", []
    measured = rgsud.evaluate(
        derainer,
        val / "rainy",
        val / "clean",
        sheet=photographs / "sheet.png",
        progress=lambda *numbers: calls.append(numbers),
    )
    assert calls == [(1, 2), (2, 2)]
    assert measured.output.psnr_y != measured.input.psnr_y
    assert PIL.Image.open(photographs / "sheet.png").width > 3 * 300
    with pytest.raises(rgsud.RgsudError, match="there is no protocol 'C'"):
        rgsud.evaluate(derainer, val / "rainy", val / "clean", protocol="C")  # type: ignore[arg-type]


def test_the_example_of_the_documentation_runs(
    tree: dict[str, object],
    photographs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)
    monkeypatch.chdir(photographs)
    Path("small.yaml").write_text(yaml.safe_dump(tree))
    PIL.Image.open("rainy/0.png").save("photo.jpg")
    names: dict[str, Any] = {}
    exec(example.replace('"rain100l-mini"', '"small.yaml"'), names)
    assert names["summary"].folder == Path(str(tree["runs"])) / "mine"
    assert Path("derained.png").exists()
    out = capsys.readouterr().out
    assert " dB" in out
    assert "(64, 72, 3)" in out
