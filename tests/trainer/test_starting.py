"""A recipe to begin with, from what is measured of two folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from rgsud_core.errors import RgsudError
from rgsud_core.settings import read_yaml
from trainer import starting
from trainer.config import Config
from trainer.data.measuring import jpeg_quality, measure_folder
from trainer.errors import TrainerError
from trainer.starting import starting_recipe


def photograph(path: Path, width: int, height: int, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    PIL.Image.fromarray(noise).save(path, **options)  # type: ignore[arg-type]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for number in range(3):
        photograph(tmp_path / "my rain" / f"{number}.jpg", 90 + number, 80, quality=85)
        photograph(tmp_path / "clean" / f"{number}.png", 100, 70 + number)
    (tmp_path / "my rain" / "notes.txt").write_text("wet")
    return tmp_path / "my rain", tmp_path / "clean"


def flat_rain(path: Path) -> None:
    """Grey streaks before a smooth gradient, with gaps."""
    rng = np.random.default_rng(3)
    image = np.linspace(60, 110, 160)[:, None, None] * np.ones((1, 160, 3))
    for left in range(3, 160, 13):
        top = int(rng.integers(0, 60))
        image[top : top + 90, left : left + 2] += 70
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image.astype(np.uint8)).save(path)


def test_a_folder_is_measured_by_the_heads_of_its_files(folders: tuple[Path, Path]) -> None:
    facts = measure_folder(folders[0])
    assert (facts.images, facts.smallest, facts.largest) == (3, (90, 80), (92, 80))
    assert (facts.formats, facts.quality, facts.left_out) == ((("JPEG", 3),), 85, 1)
    assert measure_folder(folders[1]).quality is None
    (folders[0] / "bad.jpg").write_text("no image")
    with pytest.raises(TrainerError, match=r"bad\.jpg is not an image"):
        measure_folder(folders[0])


@pytest.mark.parametrize("quality", [25, 30, 50, 75, 90, 95, 100])
def test_the_quality_of_jpeg_is_read_from_its_table(quality: int, tmp_path: Path) -> None:
    photograph(tmp_path / "x.jpg", 16, 16, quality=quality)
    with PIL.Image.open(tmp_path / "x.jpg") as image:
        assert isinstance(image, PIL.JpegImagePlugin.JpegImageFile)
        assert abs(jpeg_quality(image) - quality) <= 1


def test_without_rain_that_is_found_it_is_rendered(folders: tuple[Path, Path]) -> None:
    text = starting_recipe(*folders)
    config = Config.model_validate(read_yaml(text))
    assert config.name == "my-rain"
    assert (config.data.rainy, config.data.clean) == (folders[0].resolve(), folders[1].resolve())
    assert config.start == "rgsud-base"
    assert "# rainy: 3 images, 3 JPEG (JPEG quality 85), 90x80 to 92x80; 1 entries are no images" in text
    assert "# clean: 3 images, 3 PNG, 100x70 to 100x72\n" in text
    assert "of 0 of 3 rainy photographs: none, so it is rendered." in text
    sources = config.method.model_dump()["sources"]
    assert [one["name"] for one in sources[1]] == ["rendered"]


def test_rain_that_is_found_is_learned_from(folders: tuple[Path, Path]) -> None:
    for number in range(4):
        flat_rain(folders[0] / f"flat-{number}.png")
    text = starting_recipe(*folders)
    assert "of 4 of 7 rainy photographs: enough to learn from alone." in text
    sources = Config.model_validate(read_yaml(text)).method.model_dump()["sources"]
    assert [one["name"] for one in sources[1]] == ["flat"]


@pytest.mark.parametrize(
    ("found", "searched", "names"),
    [(1, 40, ["flat", "rendered"]), (3, 40, ["flat", "rendered"]), (4, 40, ["flat"])],
)
def test_a_little_rain_is_mixed_with_rendered(
    found: int, searched: int, names: list[str], folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "count_found_rain", lambda *_: (found, searched))
    config = Config.model_validate(read_yaml(starting_recipe(*folders)))
    assert [one["name"] for one in config.method.model_dump()["sources"][1]] == names


def test_crops_fit_into_the_smallest_image(folders: tuple[Path, Path]) -> None:
    photograph(folders[1] / "small.png", 200, 45)
    assert Config.model_validate(read_yaml(starting_recipe(*folders))).data.crop == 40
    photograph(folders[1] / "smaller.png", 31, 200)
    with pytest.raises(TrainerError, match=r"An image of .*clean is 31x200: remove"):
        starting_recipe(*folders)
    with pytest.raises(RgsudError, match="none does not exist"):
        starting_recipe(folders[0], folders[1] / "none")


@pytest.mark.parametrize("name", ["123", "a: b", "# x", "two\nlines: 1", "caf\udce9", "'quoted'", "&a *b"])
def test_folders_of_any_name_are_taken(name: str, folders: tuple[Path, Path]) -> None:
    odd = folders[0].rename(folders[0].with_name(name))
    config = Config.model_validate(read_yaml(starting_recipe(odd, folders[1]).encode().decode()))
    assert config.data.rainy == odd.resolve()


def test_many_photographs_are_derained_more_often(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "_REWARDED", 1)
    text = starting_recipe(*folders)
    assert Config.model_validate(read_yaml(text)).recycling.every == 16
    assert "With 3 rainy images a candidate is made every 16 steps" in text
