import hashlib
from pathlib import Path

import numpy as np
import pytest

from rgsud_core.errors import FileError
from trainer.data.checks import check_training_data
from trainer.data.demo import DemoData, write_demo_data
from trainer.data.folders import ImageFolder
from trainer.data.pairing import PairedFolder
from trainer.errors import TrainerError
from trainer.restore.evaluation import psnr_y


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> DemoData:
    return write_demo_data(tmp_path_factory.mktemp("demo") / "data")


def digest(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


def test_the_data_pass_the_check_and_are_enough_to_train_on(demo):
    report = check_training_data(
        demo.rainy, demo.clean, 128, validation=(demo.validation_rainy, demo.validation_clean)
    )
    assert 12 <= report.rainy <= 24
    assert 12 <= report.clean <= 24
    assert len(PairedFolder(demo.validation_rainy, demo.validation_clean)) == 8
    assert report.leaked == ()


def test_the_three_parts_share_no_photograph(demo):
    folders = (demo.rainy, demo.clean, demo.validation_clean)
    parts = [{name.rsplit("-", 1)[0] for name in ImageFolder(folder).ids} for folder in folders]
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]


def test_validation_rain_costs_what_rain100l_costs(demo):
    pairs = PairedFolder(demo.validation_rainy, demo.validation_clean)
    assert 25 < np.mean([psnr_y(*pairs.load(index)) for index in range(len(pairs))]) < 28


def test_writing_again_changes_nothing_and_the_seed_decides(demo, tmp_path):
    stamps = {path: path.stat().st_mtime_ns for path in demo.rainy.rglob("*")}
    assert write_demo_data(demo.rainy.parent) == demo
    assert stamps == {path: path.stat().st_mtime_ns for path in demo.rainy.rglob("*")}
    assert digest(write_demo_data(tmp_path / "same").rainy) == digest(demo.rainy)
    other = write_demo_data(tmp_path / "other", seed=1)
    assert digest(other.rainy) != digest(demo.rainy)
    assert digest(other.clean) == digest(demo.clean)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "same"]


def test_other_folders_are_left_alone(demo, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(TrainerError, match="something other"):
        write_demo_data(tmp_path)
    with pytest.raises(TrainerError, match="another version or seed"):
        write_demo_data(demo.rainy.parent, seed=7)
    (tmp_path / "empty").mkdir()
    assert len(ImageFolder(write_demo_data(tmp_path / "empty").clean)) >= 12


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.data.demo._VALIDATION", (("skimage", "data/none.png", 1, 1),))
    with pytest.raises(FileError, match=r"none\.png does not exist"):
        write_demo_data(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []
