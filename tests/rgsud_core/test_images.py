from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from rgsud_core.errors import FileError
from rgsud_core.images import images_below, list_images, read_image, save_image


def photograph(seed: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path)
    return path


def test_every_kind_of_file_becomes_upright_rgb(tmp_path):
    grey = photograph(0)[..., 0]
    rgb = photograph(1)

    PIL.Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(read_image(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, axis=2))

    PIL.Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    assert np.array_equal(read_image(tmp_path / "deep.png"), np.repeat(grey[..., None], 3, axis=2))

    PIL.Image.fromarray(np.dstack([rgb, grey])).save(tmp_path / "alpha.png")
    assert np.array_equal(read_image(tmp_path / "alpha.png"), rgb)

    palette = PIL.Image.fromarray(rgb).quantize(16)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(read_image(tmp_path / "palette.png"), np.array(palette.convert("RGB")))

    for name, image in (("turned.png", rgb), ("turned16.png", grey.astype(np.uint16) * 257)):
        exif = PIL.Image.Exif()
        exif[0x0112] = 6  # turn clockwise to see it upright
        PIL.Image.fromarray(image).save(tmp_path / name, exif=exif)
        upright = np.rot90(rgb if image.ndim == 3 else np.repeat(grey[..., None], 3, axis=2), -1)
        assert np.array_equal(read_image(tmp_path / name), upright)
    result = read_image(tmp_path / "turned.png")
    assert result.dtype == np.uint8
    assert result.flags.c_contiguous


def test_unreadable_files_are_named(tmp_path):
    whole = save(tmp_path / "whole.jpg", photograph(0, 200, 200)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    png = save(tmp_path / "whole.png", photograph(0, 200, 200)).read_bytes()
    (tmp_path / "cut.png").write_bytes(png[: len(png) // 2])
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    PIL.Image.fromarray(np.full((4, 4), 300, np.float32)).save(tmp_path / "float.tif")
    for name in ("cut.jpg", "cut.png", "text.jpg", "empty.png", "float.tif"):
        with pytest.raises(FileError, match=name) as caught:
            read_image(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileError, match=r"gone\.png does not exist"):
        read_image(tmp_path / "gone.png")


def test_what_is_saved_is_read_again(tmp_path):
    save_image(photograph(3), tmp_path / "new" / "image.png")
    assert np.array_equal(read_image(tmp_path / "new" / "image.png"), photograph(3))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["image.png"]
    with pytest.raises(FileError, match="no suffix of an image format"):
        save_image(photograph(3), tmp_path / "image.txt")


def test_images_are_listed_by_path_without_hidden_ones(tmp_path):
    for name in ("b/1.png", "a.JPG", ".hidden/2.png", ".3.png"):
        save(tmp_path / name, photograph(0))
    (tmp_path / "notes.txt").write_text("no image")
    assert list_images(tmp_path) == [tmp_path / "a.JPG", tmp_path / "b" / "1.png"]
    assert images_below(tmp_path) == {"a": tmp_path / "a.JPG", "b/1": tmp_path / "b" / "1.png"}
    save(tmp_path / "a.png", photograph(0))
    with pytest.raises(FileError, match="differ in their suffix alone"):
        images_below(tmp_path)
