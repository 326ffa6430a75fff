"""`rgsud export`: derainers as ONNX files, which onnxruntime runs at any size."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from rgsud import Derainer, RgsudError
from rgsud.export import TOLERANCE, export_onnx
from tests.rgsud.command import rgsud
from trainer.models.nafnet import NAFNetSettings
from trainer.models.registry import build_derainer, serialise_derainer
from trainer.restore.inference import derain_pixels

PAGE = Path(__file__).parents[2] / "docs" / "speed.md"
SETTINGS = NAFNetSettings(width=4, encoder=(1, 1), middle=1, decoder=(1, 1))


def network(settings: NAFNetSettings = SETTINGS) -> nn.Module:
    """A network none of whose parts is idle: some weights are zero before training."""
    torch.manual_seed(0)
    made = build_derainer(settings)
    for name, parameter in made.named_parameters():
        if name.endswith(("beta", "gamma")):
            nn.init.normal_(parameter)
    return made


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model and the file that the command made of it."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "small.safetensors").write_bytes(serialise_derainer(network(), SETTINGS))
    with pytest.MonkeyPatch.context() as patch:
        assert rgsud(patch, "export", folder / "small.safetensors", folder / "small.onnx") == 0
    return folder


def run(file: Path, rainy: np.ndarray) -> np.ndarray:
    (derained,) = onnxruntime.InferenceSession(file).run(["derained"], {"rainy": rainy})
    return derained


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 2, 3), (1, 5, 40), (3, 64, 64), (2, 37, 91), (1, 200, 121)], ids=str
)
def test_any_size_and_number_of_images_gives_the_results_of_torch(
    exported: Path, shape: tuple[int, int, int]
) -> None:
    count, *size = shape
    rainy = np.random.default_rng(1).random((count, 3, *size), np.float32)
    found = run(exported / "small.onnx", rainy)
    net = Derainer.load(exported / "small.safetensors").network
    wanted = np.stack([derain_pixels(net, image.transpose(1, 2, 0)) for image in rainy])
    assert found.dtype == np.float32
    assert found.shape == rainy.shape
    assert np.abs(found - wanted.transpose(0, 3, 1, 2)).max() <= TOLERANCE
    assert np.abs(found - rainy).max() > 100 * TOLERANCE


def test_the_file_says_what_it_is(exported: Path) -> None:
    model = onnx.load(exported / "small.onnx")
    onnx.checker.check_model(model, full_check=True)
    notes = {prop.key: prop.value for prop in model.metadata_props}
    assert notes["model"] == "small"
    assert NAFNetSettings.model_validate_json(notes["derainer"]) == SETTINGS
    assert (notes["multiple"], float(notes["tolerance"])) == ("4", TOLERANCE)
    assert "licence" not in notes
    for value in (model.graph.input[0], model.graph.output[0]):
        axes = value.type.tensor_type.shape.dim
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert [axis.dim_value for axis in axes] == [0, 3, 0, 0]
        assert all(axes[number].dim_param for number in (0, 2, 3))


def test_the_model_that_comes_with_rgsud_is_exported_with_its_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert rgsud(monkeypatch, "export", "base.onnx") == 0
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"base\.onnx written \(5\.\d MB\): its results differ from torch's by at most", said)
    notes = {prop.key: prop.value for prop in onnx.load("base.onnx").metadata_props}
    assert (notes["model"], notes["licence"], notes["multiple"]) == ("rgsud-base", "Apache-2.0", "16")
    assert json.loads(notes["derainer"])["width"] == 16


def test_the_example_of_the_page_runs(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert "torch" not in example
    assert len(example.strip().splitlines()) <= 10
    monkeypatch.chdir(tmp_path)
    Path("rgsud-base.onnx").symlink_to(exported / "small.onnx")
    rainy = np.random.default_rng(2).integers(0, 256, (45, 70, 3), np.uint8)
    PIL.Image.fromarray(rainy).save("photo.png")
    exec(example.replace("photo.jpg", "photo.png"), {})
    wanted = Derainer.load(exported / "small.safetensors")(rainy)
    # Once rounded: values on the edge of a grey level may fall to either side.
    assert np.abs(np.subtract(PIL.Image.open("derained.png"), wanted, dtype=float)).max() <= 1


class Several(nn.Module):
    """Its first output counts, and leaves [0,1]."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.gain * x, x]


def test_a_network_of_ones_own_is_exported_as_it_is(tmp_path: Path) -> None:
    derainer = Derainer(Several().train())
    derainer.network.train()
    assert derainer.export(tmp_path / "several.onnx") <= TOLERANCE
    assert derainer.network.training
    rainy = np.full((1, 3, 4, 6), 0.9, np.float32)
    assert np.array_equal(run(tmp_path / "several.onnx", rainy), np.ones_like(rainy))


class Branching(nn.Module):
    """Does another thing with large images than with small ones."""

    def forward(self, x: Tensor) -> Tensor:
        return x if max(x.shape[-2:]) <= 500 else 1 - x


class Values(nn.Module):
    """Does another thing with bright images."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.mean() > 0.5 else 1 - x


class Fixed(nn.Module):
    """Knows one size."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.zeros(67, 52)


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (Values(), "cannot be exported to ONNX"),
        (Fixed(), "cannot be exported to ONNX"),
        (Branching(), "differs from torch"),
        (network(SETTINGS.model_copy(update={"surroundings": 64})), "with the setting 'surroundings' cannot"),
    ],
    ids=["by value", "one size", "by size", "surroundings"],
)
def test_a_network_that_is_not_the_same_at_all_sizes_is_refused(
    net: nn.Module, said: str, tmp_path: Path
) -> None:
    with pytest.raises(RgsudError, match=said) as refused:
        export_onnx(net, tmp_path / "x.onnx", {})
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_a_file_unlike_torch_takes_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.onnx").write_text("before")
    monkeypatch.setattr("rgsud.export.TOLERANCE", -1.0)
    with pytest.raises(RgsudError, match=r"x\.onnx is not written: .* differs from torch by"):
        export_onnx(nn.Identity(), tmp_path / "x.onnx", {})
    assert [file.read_text() for file in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("FOLDER/derainer.pt", "derainer.pt is no name of an ONNX file: end it in .onnx, derainer.onnx for"),
        ("FOLDER/folder.onnx", "folder.onnx is a folder"),
        ("FOLDER/file/x.onnx", "file cannot be written"),
        ("none FOLDER/x.onnx", "there is no derainer at none"),
        ("FOLDER/file FOLDER/x.onnx", "no whole safetensors file"),
        ("a b FOLDER/x.onnx", "3 paths were given: export takes [MODEL] OUT.onnx"),
        ("--model rgsud-base a FOLDER/x.onnx", "2 paths were given: export takes [MODEL] OUT.onnx"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").write_text("no model")
    assert rgsud(monkeypatch, "export", *words.replace("FOLDER", str(tmp_path)).split()) == 2
    assert said in " ".join(capsys.readouterr().err.replace(str(tmp_path) + "/", "").split())
    assert {file.name for file in tmp_path.iterdir()} == {"folder.onnx", "file"}


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_its_extra(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("rgsud.export", missing):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    assert rgsud(monkeypatch, "export", tmp_path / "x.onnx") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"this needs {missing}, which is not installed: pip install 'rgsud[onnx]'." in said
