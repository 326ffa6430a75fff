"""Data sets as they are published, in miniature: each image's brightness says which truth it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from rgsud_core.errors import RgsudError
from trainer.data.catalogue import FoundSet, _plain, find, lookup
from trainer.data.checks import check_training_data
from trainer.data.folders import ImageFolder
from trainer.data.pairing import PairedFolder
from trainer.data.published import PUBLISHED
from trainer.data.sets import KNOWN_SETS
from trainer.errors import TrainerError


def scene(number: int, rainy: bool) -> np.ndarray:
    """A scene of its own for each number; rain is bright columns."""
    image = np.full((40, 48, 3), 20 * number, np.uint8)
    image[5:9] += 7
    if rainy:
        image[:, number::6] += 90
    return image


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path, quality=100, subsampling=0)


def two(root: Path, rainy: str, clean: str, each: int = 1) -> None:
    """Files of rainy images and of their truths: ``{n}`` is the scene's number, ``{k}`` counts its rains."""
    for n in (1, 2, 3):
        save(root / clean.format(n=n), scene(n, False))
        for k in range(1, each + 1):
            save(root / rainy.format(n=n, k=k), scene(n, True))


def beside(root: Path, name: str, rainy_first: bool) -> None:
    for n in (1, 2, 3):
        sides = [scene(n, rainy_first), scene(n, not rainy_first)]
        save(root / name.format(n=n), np.concatenate(sides, 1))


LAYOUTS = {
    "Rain100L": [
        lambda at: two(at, "Rain100L/rain/rain-00{n}.png", "Rain100L/norain/norain-00{n}.png"),
        lambda at: two(at, "Rain100L/rainy/rain-00{n}.png", "Rain100L/norain-00{n}.png"),
        lambda at: two(at, "Rain100L/rain-00{n}.png", "Rain100L/norain-00{n}.png"),
        lambda at: two(at, "Rain100L/input/{n}.png", "Rain100L/target/{n}.png"),
        lambda at: two(
            at,
            "Rain100L/rain_data_test_Light/rain/X2/norain-00{n}x2.png",
            "Rain100L/rain_data_test_Light/norain/norain-00{n}.png",
        ),
    ],
    "Rain200L": [
        lambda at: two(at, "Rain200L/test/rain/X2/norain-{n}x2.png", "Rain200L/test/norain/norain-{n}.png"),
        lambda at: two(at, "Rain200L/test/input/{n}.png", "Rain200L/test/target/{n}.png"),
    ],
    "Rain12": [
        lambda at: two(at, "Rain12/00{n}_in.png", "Rain12/00{n}_GT.png"),
        lambda at: two(at, "Rain12/input/00{n}_in.png", "Rain12/groundtruth/00{n}_GT.png"),
    ],
    "Rain800": [
        lambda at: beside(at, "Rain800/test_syn/{n}.jpg", True),
        lambda at: beside(at, "Rain800/test_syn/{n}.jpg", False),
        lambda at: two(at, "Rain800/test/rain/{n}.jpg", "Rain800/test/norain/{n}.jpg"),
    ],
    "DDN-Data": [
        lambda at: two(
            at, "DDN/testing/rainy_image/90{n}_{k}.jpg", "DDN/testing/ground_truth/90{n}.jpg", each=14
        ),
        lambda at: two(at, "Rain1400/rainy_image/90{n}_{k}.jpg", "Rain1400/ground_truth/90{n}.jpg", each=3),
    ],
    "DID-Data": [
        lambda at: beside(at, "DID-MDN/DID-MDN-test/{n}.jpg", True),
        lambda at: two(at, "DID-Data/test/input/{n}.jpg", "DID-Data/test/target/{n}.jpg"),
    ],
    "SPA-Data": [
        lambda at: two(at, "SPA/real_test_1000/rain/00{n}.png", "SPA/real_test_1000/gt/00{n}gt.png"),
        lambda at: two(
            at, "SPA/Testing/real_test_1000/rain/00{n}.png", "SPA/Testing/real_test_1000/gt/00{n}.png"
        ),
        lambda at: two(at, "real_test_1000/rain/00{n}.png", "real_test_1000/gt/00{n}gt.png"),
        lambda at: two(
            at,
            "SPA-Data/Testing/real_test_1000/real_test_1000/rain/00{n}.png",
            "SPA-Data/Testing/real_test_1000/real_test_1000/gt/00{n}gt.png",
        ),
        lambda at: (
            two(
                at, "SPANet/real_world/00{n}/00{n}-{k}/00{n}-{k}_0_0.png", "SPANet/real_world_gt/00{n}.png", 2
            ),
            two(at, "SPANet/real_test_1000/rain/00{n}.png", "SPANet/real_test_1000/gt/00{n}gt.png"),
        ),
    ],
    "GT-RAIN": [
        lambda at: two(
            at,
            "GT-RAIN/GT-RAIN_test/Scene_{n}-0/Scene_{n}-0-Webcam-R-00{k}.png",
            "GT-RAIN/GT-RAIN_test/Scene_{n}-0/Scene_{n}-0-Webcam-C-000.png",
            each=4,
        ),
        lambda at: [  # one scene has a truth for each of its frames
            two(
                at,
                "GT-RAIN/GT-RAIN_test/a-{n}/a-{n}-R-00{k}.png",
                "GT-RAIN/GT-RAIN_test/a-{n}/a-{n}-C-000.png",
                3,
            ),
            two(at, "GT-RAIN/GT-RAIN_test/b/b-R-00{n}.png", "GT-RAIN/GT-RAIN_test/b/b-C-00{n}.png"),
        ],
    ],
    "HQ-RAIN": [lambda at: two(at, "HQ-RAIN/test/input/{n}.png", "HQ-RAIN/test/target/{n}.png")],
    "Night-Rain": [lambda at: two(at, "NightRain/test/input/{n}.png", "NightRain/test/target/{n}.png")],
    "GTAV-NightRain": [
        lambda at: two(
            at, "GTAV-NightRain/test/rainy/000{n}_0{k}.png", "GTAV-NightRain/test/gt/000{n}.png", each=9
        ),
    ],
    "GTAV-NightRain-set1": [
        lambda at: (
            two(
                at,
                "GTAV-NightRain/set1/Test/Rainy/000{n}_0{k}.png",
                "GTAV-NightRain/set1/Test/GT/000{n}.png",
                9,
            ),
            two(
                at, "GTAV-NightRain/set1/Train/Rainy/{n}_0{k}.png", "GTAV-NightRain/set1/Train/GT/{n}.png", 9
            ),
        ),
    ],
    "GTAV-NightRain-set3": [
        lambda at: (
            two(at, "GTAV-NightRain/set3/Test/Rainy/000{n}_00.png", "GTAV-NightRain/set3/Test/GT/000{n}.png"),
            two(at, "GTAV-NightRain/set3/Rainy/0{n}_0{k}.png", "GTAV-NightRain/set3/GT/0{n}.png", 9),
        ),
    ],
    "Test100": [
        lambda at: two(at, "Rain13K/test/Test100/input/{n}.png", "Rain13K/test/Test100/target/{n}.png"),
        lambda at: two(at, "test/Test100/input/{n}.png", "test/Test100/target/{n}.png"),
    ],
    "Test2800": [
        lambda at: two(at, "test/Test2800/input/90{n}_{k}.jpg", "test/Test2800/target/90{n}_1.jpg"),
        lambda at: two(at, "Test2800/input/90{n}_{k}.jpg", "Test2800/target/90{n}.jpg", each=2),
    ],
}


@pytest.mark.parametrize(
    ("name", "make"), [(name, make) for name, makes in LAYOUTS.items() for make in makes]
)
def test_each_rainy_image_is_measured_against_its_truth(name, make, tmp_path):
    make(tmp_path)
    found = find(name, tmp_path)
    assert found.test is not None
    pairs = PairedFolder(*found.test)
    assert len(pairs) >= 3
    for index in range(len(pairs)):
        rainy, truth = (image.astype(int) for image in pairs.load(index))
        assert abs(np.median(rainy) - np.median(truth)) < 6
        assert np.abs(np.diff(rainy, axis=1)).mean() > 5 > np.abs(np.diff(truth, axis=1)).mean()


@pytest.mark.parametrize(
    ("name", "said"),
    [("GTAV-NightRain", "GTAV-NightRain-set1, GTAV-NightRain-set3"), ("GTAV-NightRain-set2", "is not below")],
)
def test_a_set_of_several_is_named_by_its_part(name, said, tmp_path):
    for part in (1, 3):
        at = f"GTAV-NightRain/set{part}/Test"
        two(tmp_path, at + "/Rainy/{n}_00.png", at + "/GT/{n}.png")
    with pytest.raises(TrainerError, match=said):
        find(name, tmp_path)


def test_photographs_in_one_folder_are_told_apart_by_their_numbers(tmp_path):
    for number in (1, 1704, 1705, 1800, 2004, 2005, 3000):
        save(tmp_path / "real3000" / f"{number}.png", scene(1, True))
    found = find("Real3000", tmp_path)
    assert found.test is None
    assert found.photographs is not None
    assert ImageFolder(found.photographs).ids == ["1705", "1800", "2004"]
    assert found.train_rainy is not None
    assert ImageFolder(found.train_rainy).ids == ["1", "1704", "2005", "3000"]
    save(tmp_path / "some" / "real3000" / "2.png", scene(1, True))
    assert find("Real3000", tmp_path / "some").photographs == tmp_path / "some" / "real3000"
    save(tmp_path / "split" / "real3000" / "test" / "1800.png", scene(1, True))
    found = find("Real3000", tmp_path / "split")
    assert (found.train_rainy, found.photographs) == (None, tmp_path / "split" / "real3000" / "test")
    with pytest.raises(RgsudError, match="no image whose number is of 7-8"):
        ImageFolder(tmp_path / "some" / "real3000::7-8")


def test_each_set_is_described():
    names = [_plain(name) for known in KNOWN_SETS for name in (known.name, *known.aliases)]
    assert len(set(names)) == len(names)
    for known in KNOWN_SETS:
        assert known.layout
        assert known.tested == bool(known.test) or known.test is None or not known.paired
        assert known.source.startswith("http") or known.name == "Night-Rain"
    assert {*PUBLISHED} <= {known.name for known in KNOWN_SETS}


TRAINING = {
    "Rain100H": lambda at: two(at, "Rain100H/train/rain-{n}.png", "Rain100H/train/norain-{n}.png"),
    "Rain200H": lambda at: two(
        at, "Rain200H/train/rain/X2/norain-{n}x2.png", "Rain200H/train/norain/norain-{n}.png"
    ),
    "DID-Data": lambda at: beside(at, "DID-MDN/DID-MDN-training/Rain_Heavy/train2018new/{n}.jpg", True),
    "SPA-Data": lambda at: two(
        at, "SPA/training/real_world/00{n}/00{n}_{k}.png", "SPA/training/real_world_gt/00{n}.png", each=3
    ),
    "GT-RAIN": lambda at: two(
        at,
        "GT-RAIN/GT-RAIN_train/s{n}/s{n}-R-00{k}.png",
        "GT-RAIN/GT-RAIN_train/s{n}/s{n}-C-000.png",
        each=3,
    ),
    "GTAV-NightRain": lambda at: two(
        at, "GTAV-NightRain/train/rainy/000{n}_0{k}.png", "GTAV-NightRain/train/gt/000{n}.png", each=3
    ),
    "SPANet": lambda at: two(
        at, "SPANet/real_world/00{n}/00{n}-{k}/00{n}-{k}_0_0.png", "SPANet/real_world_gt/00{n}.png", each=2
    ),
    "DDN-Data": lambda at: two(
        at, "DDN/training/rainy_image/{n}_{k}.jpg", "DDN/training/ground_truth/{n}.jpg", each=14
    ),
    "Rain13K": lambda at: two(
        at, "Rain13K/train/Rain13K/input/{n}.jpg", "Rain13K/train/Rain13K/target/{n}.jpg"
    ),
}


def sides(found: FoundSet) -> tuple[Path, Path]:
    assert found.train_rainy is not None
    assert found.train_clean is not None
    return found.train_rainy, found.train_clean


@pytest.mark.parametrize("name", TRAINING)
def test_each_set_can_be_trained_on(name, tmp_path):
    TRAINING[name](tmp_path)
    for extra in ("rainregion", "rainstreak"):  # what Yang et al. publish beside the images
        for folder in tmp_path.rglob("train"):
            if any(folder.glob("norain-*")):
                save(folder / f"{extra}-1.png", scene(1, True))
    found = find(name, tmp_path)
    assert found.test is None
    rainy, clean = sides(found)
    report = check_training_data(rainy, clean, 16, paired=True)
    assert report.clean == 3
    assert report.rainy % 3 == 0
    pairs = PairedFolder(rainy, clean)
    for index in range(len(pairs)):
        image, truth = (side.astype(int) for side in pairs.load(index))
        assert abs(np.median(image) - np.median(truth)) < 6


@pytest.mark.parametrize(
    ("rainy", "clean", "lonely"),
    [
        (["1", "2", "3"], ["1", "2"], "1 images of .*rainy have no partner of the same name in .*clean: 3"),
        (
            ["rain-1", "rain-2"],
            ["norain-1", "norain-3"],
            "no partner by the names rain-N, norain-N .*: rain-2",
        ),
        (["1_1", "1_2", "2_1"], ["1"], "no partner by the names N_1, N in .*clean: 2_1"),
        (["a", "b"], ["x", "y"], "2 images of .*rainy have no partner of the same name"),
        (["x/1", "y/2"], ["a/1", "b/1"], "no partner"),
    ],
)
def test_what_is_left_over_is_said(rainy, clean, lonely, tmp_path):
    for side, names in (("rainy", rainy), ("clean", clean)):
        for name in names:
            save(tmp_path / side / f"{name}.png", scene(1, False))
    with pytest.raises(TrainerError, match=lonely):
        PairedFolder(tmp_path / "rainy", tmp_path / "clean")


def test_names_that_fit_by_themselves_need_no_rule(tmp_path):
    for name in ("1_1", "1_2", "2", "rain-3", "norain-3"):
        for side in ("rainy", "clean"):
            save(tmp_path / side / f"{name}.png", scene(1, False))
    assert PairedFolder(tmp_path / "rainy", tmp_path / "clean").partners == {
        name: name for name in ("1_1", "1_2", "2", "rain-3", "norain-3")
    }


def test_accents_are_the_same_in_one_character_or_two(tmp_path):
    save(tmp_path / "rainy" / "caf\u00e9.png", scene(1, True))
    save(tmp_path / "clean" / "cafe\u0301.png", scene(1, False))
    assert len(PairedFolder(tmp_path / "rainy", tmp_path / "clean")) == 1


def test_parts_of_a_folder_are_named(tmp_path):
    beside(tmp_path, "beside/{n}.png", True)
    assert ImageFolder(tmp_path / "beside::left").load(0).shape == (40, 48, 3)
    save(tmp_path / "odd" / "1.png", scene(1, True)[:, :47])
    with pytest.raises(TrainerError, match=r"odd/1\.png has no halves: it is 47 pixels wide"):
        ImageFolder(tmp_path / "odd::right").load(0)
    with pytest.raises(RgsudError, match="holds no image whose name says norain"):
        ImageFolder(tmp_path / "odd::norain")
    with pytest.raises(RgsudError, match="odd::top does not exist"):
        ImageFolder(tmp_path / "odd::top")
    save(tmp_path / "real::left" / "1.png", scene(1, True))
    assert ImageFolder(tmp_path / "real::left").load(0).shape == (40, 48, 3)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("Rain100", "did you mean 'Rain100L' or 'Rain100H'"),
        ("SPA-Dat", "did you mean 'SPA-Data'"),
        ("Rain14", "did you mean 'Rain1400'"),
        ("Snow100K", "known are Rain100L, "),
    ],
)
def test_a_hint_names_all_that_may_be_meant(given, meant):
    with pytest.raises(TrainerError, match=meant):
        lookup(given)
