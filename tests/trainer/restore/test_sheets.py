import numpy as np
import PIL.Image
import pytest

from trainer.data.pairing import PairedFolder
from trainer.errors import TrainerError
from trainer.restore.evaluation import psnr_y
from trainer.restore.sheets import Panel, compare, contact_sheet


@pytest.fixture
def pairs(tmp_path):
    rng = np.random.default_rng(0)
    for side in ("rainy", "clean"):
        (tmp_path / side).mkdir()
        for number in range(3):
            image = rng.integers(0, 256, (40, 50 + number, 3), dtype=np.uint8)
            PIL.Image.fromarray(image).save(tmp_path / side / f"{number}.png")
    return PairedFolder(tmp_path / "rainy", tmp_path / "clean")


def test_a_contact_sheet_shows_every_panel(pairs, tmp_path):
    rows = compare([255 - pairs.load(index)[0] for index in range(2)], pairs)
    assert [len(row) for row in rows] == [3, 3]
    rainy, truth = pairs.load(1)
    assert f"{psnr_y(rainy, truth):.2f} dB" in rows[1][0].caption
    assert np.array_equal(rows[1][1].image, 255 - rainy)
    assert np.array_equal(rows[1][2].image, truth)
    flat = [[Panel(np.full((20, 30, 3), colour, np.uint8), "x") for colour in (50, 150)]]
    contact_sheet(flat, tmp_path / "new" / "sheet.png", width=60)
    sheet = np.asarray(PIL.Image.open(tmp_path / "new" / "sheet.png"))
    assert sheet.shape[1] == 10 + 2 * 70
    assert (sheet == 50).all(axis=2).sum() >= 60 * 40
    assert (sheet == 150).all(axis=2).sum() >= 60 * 40
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.png"]
    with pytest.raises(TrainerError, match="one row"):
        contact_sheet([], tmp_path / "none.png")


@pytest.mark.parametrize("shape", [(1, 5000, 3), (5000, 1, 3), (1, 1, 3)])
@pytest.mark.parametrize("caption", ["", "caf\udce9 $x_", "a\nb"])
def test_strips_and_odd_names_are_drawn(shape, caption, tmp_path):
    contact_sheet([[Panel(np.zeros(shape, np.uint8), caption)]], tmp_path / "sheet.png", width=60)
    assert max(PIL.Image.open(tmp_path / "sheet.png").size) < 300
