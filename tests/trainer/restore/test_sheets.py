import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pytest

from trainer.data.pairing import PairedFolder
from trainer.errors import TrainerError
from trainer.restore.evaluation import psnr_y
from trainer.restore.sheets import Panel, compare, contact_sheet, read_sheet


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


def test_a_sheet_says_where_its_pictures_are(pairs, tmp_path):
    rows = compare([255 - pairs.load(index)[0] for index in range(2)], pairs)
    contact_sheet(rows, tmp_path / "sheet.png", width=50)
    back = read_sheet(tmp_path / "sheet.png")
    assert [[panel.caption for panel in row] for row in back] == [[p.caption for p in row] for row in rows]
    assert np.array_equal(back[0][2].image, rows[0][2].image)  # 50 pixels wide, as the sheet's
    assert all(panel.image.shape[1] == 50 for row in back for panel in row)
    contact_sheet(rows, tmp_path / "sheet.jpg", width=50)
    assert [[panel.caption for panel in row] for row in read_sheet(tmp_path / "sheet.jpg")] == [[""]]


@pytest.mark.parametrize(
    "note",
    [
        *("", "{", "[]", "[[]]", '[[[0, 0, 99999, 5, "beyond"]]]', '[[[5, 5, 5, 9, "empty"]]]'),
        *('[[[-4, 0, 5, 5, "before"]]]', '[[[1e99, 0, 5, 5, "no length"]]]', "[" * 5000, "7"),
    ],
)
def test_a_sheet_that_says_nonsense_is_one_picture(note, tmp_path):
    info = PIL.PngImagePlugin.PngInfo()
    info.add_text("rgsud:panels", note)
    PIL.Image.new("RGB", (20, 10)).save(tmp_path / "sheet.png", pnginfo=info)
    assert [[panel.image.shape for panel in row] for row in read_sheet(tmp_path / "sheet.png")] == [
        [(10, 20, 3)]
    ]
