import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from rgsud_core.errors import FileError
from rgsud_core.images import list_images
from trainer.data.checks import check_training_data
from trainer.data.folders import ImageFolder
from trainer.data.pairing import PairedFolder
from trainer.errors import TrainerError


def photograph(seed: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number in range(3):
        save(tmp_path / "rainy" / f"r{number}.png", photograph(number))
        save(tmp_path / "clean" / f"c{number}.png", photograph(10 + number, 50, 50))
        save(tmp_path / "val" / "rainy" / f"v{number}.png", photograph(20 + number))
        save(tmp_path / "val" / "clean" / f"v{number}.png", photograph(30 + number))
    return tmp_path


def check(data: Path, crop: int = 32):
    return check_training_data(
        data / "rainy", data / "clean", crop, validation=(data / "val/rainy", data / "val/clean")
    )


def test_ids_are_relative_posix_paths_without_suffix_in_order(tmp_path):
    save(tmp_path / "b.png", photograph(1))
    save(tmp_path / "a" / "deep" / "x.y.JPG", photograph(2))
    (tmp_path / "notes.txt").write_text("none")
    save(tmp_path / ".hidden.png", photograph(3))
    folder = ImageFolder(tmp_path)
    assert folder.ids == ["a/deep/x.y", "b"]
    assert len(list_images(tmp_path)) == 2
    assert np.array_equal(folder.load(1), photograph(1))
    assert np.array_equal(folder.load_id("b"), photograph(1))
    with pytest.raises(TrainerError, match="has no image 'c'"):
        folder.load_id("c")


def test_folders_that_are_missing_empty_or_ambiguous_are_refused(tmp_path):
    with pytest.raises(FileError, match="nowhere does not exist"):
        ImageFolder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileError, match="empty holds no image"):
        ImageFolder(tmp_path / "empty")
    file = save(tmp_path / "twice" / "a.png", photograph(0))
    with pytest.raises(FileError, match="is a file, not a folder"):
        ImageFolder(file)
    save(tmp_path / "twice" / "a.jpg", photograph(0))
    with pytest.raises(FileError, match="differ in their suffix alone"):
        ImageFolder(tmp_path / "twice")


def test_pairs_match_by_name_whatever_the_suffix(tmp_path):
    save(tmp_path / "rainy" / "s" / "1.jpg", photograph(0))
    save(tmp_path / "clean" / "s" / "1.png", photograph(1))
    pairs = PairedFolder(tmp_path / "rainy", tmp_path / "clean")
    assert pairs.ids == ["s/1"]
    assert np.array_equal(pairs.load(0)[1], photograph(1))
    save(tmp_path / "clean" / "s" / "1.png", photograph(1, 41, 60))
    with pytest.raises(TrainerError, match="'s/1' is 60x40 on its degraded side and 60x41"):
        pairs.load(0)
    save(tmp_path / "clean" / "2.png", photograph(2))
    with pytest.raises(TrainerError, match=r"1 images of .*clean have no partner .*: 2\."):
        PairedFolder(tmp_path / "rainy", tmp_path / "clean")


def test_good_data_is_reported(data):
    report = check(data)
    assert (report.rainy, report.clean) == (3, 3)
    assert report.leaked == ()
    assert check_training_data(data / "rainy", data / "clean", 32) == report


def test_what_is_left_out_is_said(data):
    (data / "rainy" / "notes.txt").write_text("none")
    (data / "rainy" / "linked").symlink_to(data / "clean")
    pages = [PIL.Image.fromarray(photograph(50 + number)) for number in range(3)]
    pages[0].save(data / "clean" / "pages.tif", save_all=True, append_images=pages[1:])
    frames, others = check(data).left_out
    assert "Of 1 images of" in frames
    assert "the first frame is used: pages" in frames
    assert "2 entries of" in others
    assert "linked, notes.txt" in others


def test_validation_images_that_are_trained_on_are_counted(data):
    shutil.copy(data / "val/clean/v1.png", data / "clean/other.png")
    assert check(data).leaked == ("v1",)


def test_all_problems_come_in_one_error(data):
    for number in range(5):
        save(data / "rainy" / f"small{number}.png", photograph(50 + number, 20, 31))
    (data / "rainy" / "text.jpg").write_text("hello")
    PIL.Image.fromarray(photograph(0)).save(data / "clean" / "renamed.bmp")
    save(data / "val/rainy/v0.png", photograph(20, 39, 60))
    (data / "val/clean/v1.png").unlink()
    with pytest.raises(TrainerError) as caught:
        check(data)
    message = str(caught.value)
    for part in (
        "text.jpg is not an image",
        "5 images of",
        "smaller than the crop of 32x32: small0 (31x20), small1 (31x20), small2 (31x20) and 2 more",
        "1 photographs are both in",
        "r0 = renamed",
        "v0 (60x39 and 60x40)",
        "have no partner of the same name",
        ": v1.",
    ):
        assert part in message
    assert len(message.splitlines()) == 5


def test_missing_and_thin_folders_are_problems_of_the_check(data):
    for number in (1, 2):
        (data / "clean" / f"c{number}.png").unlink()
    shutil.rmtree(data / "rainy")
    with pytest.raises(TrainerError, match="rainy does not exist") as caught:
        check(data)
    assert "holds 1 image, and 2 are needed" in str(caught.value)


def test_hidden_folders_are_left_out(tmp_path):
    save(tmp_path / "a.png", photograph(1))
    save(tmp_path / ".ipynb_checkpoints" / "a-checkpoint.png", photograph(2))
    assert ImageFolder(tmp_path).ids == ["a"]


def test_rainy_images_that_the_pool_cannot_name_are_told(data):
    save(data / "rainy" / "what\\.png", photograph(5))
    save(data / "clean" / "what\\.png", photograph(6))
    with pytest.raises(TrainerError, match=r"rainy/what\\\.png: .*cannot name an image.*: rename it") as told:
        check(data)
    assert "clean/what" not in str(told.value)
