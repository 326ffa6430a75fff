"""A small data set made of photographs that come with installed packages: a trial without a download."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from rgsud_core.degradation.rendered import RainLayer, RainLook, add_rain
from rgsud_core.files import check_writable
from rgsud_core.images import Image, read_image
from trainer.errors import TrainerError

VERSION = 2
_MARKER = "demo.json"

_Photograph = tuple[str, str, int, int]
"""Package, file in it, and into how many columns and rows it is cut."""
# No photograph is in two of the three: domains that share a scene would not be unpaired.
_RAINY: tuple[_Photograph, ...] = (
    ("sklearn", "datasets/images/china.jpg", 2, 2),
    ("skimage", "data/motorcycle_left.png", 2, 2),
    ("skimage", "data/coffee.png", 2, 2),
)
_CLEAN: tuple[_Photograph, ...] = (
    ("sklearn", "datasets/images/flower.jpg", 2, 2),
    ("skimage", "data/astronaut.png", 2, 2),
    ("skimage", "data/chelsea.png", 2, 1),
    ("skimage", "data/camera.png", 2, 2),
)
_VALIDATION: tuple[_Photograph, ...] = (
    ("skimage", "data/rocket.jpg", 2, 2),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", 2, 2),
)


@dataclass(frozen=True)
class DemoData:
    """Folders of the demonstration data."""

    rainy: Path
    clean: Path
    validation_rainy: Path
    validation_clean: Path


def _read(package: str, file: str) -> Image:
    # Found without an import, which would cost seconds.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise TrainerError(f"The demonstration needs the package '{package}': pip install 'rgsud[train]'.")
    return read_image(Path(spec.submodule_search_locations[0]) / file)


def _regions(photographs: Sequence[_Photograph]) -> Iterator[tuple[str, Image]]:
    """Names and disjoint equal parts of photographs."""
    for package, file, columns, rows in photographs:
        image = _read(package, file)
        height, width = image.shape[0] // rows, image.shape[1] // columns
        for part in range(rows * columns):
            row, column = divmod(part, columns)
            region = image[row * height : (row + 1) * height, column * width : (column + 1) * width]
            yield f"{Path(file).stem}-{part}.png", region


def _shower(rng: np.random.Generator) -> RainLook:
    """Fine rain before finer rain, of one kind over all photographs: a few minutes teach no wider range."""
    wind = rng.uniform(-25, 25)
    far = RainLayer(length=18, width=1.2, angle=wind, density=16, blur=0.3, brightness=0.55)
    near = RainLayer(length=28, width=1.6, angle=wind, density=5, blur=0.3, brightness=0.65)
    return RainLook((far, near))


def _write(folder: Path, seed: int) -> None:
    for name in ("rainy", "clean", "val/rainy", "val/clean"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(seed)

    def save(image: Image, path: Path) -> None:
        PIL.Image.fromarray(image).save(path)

    for name, image in _regions(_CLEAN):
        save(image, folder / "clean" / name)
    for name, image in _regions(_RAINY):
        save(add_rain(image, _shower(rng), rng), folder / "rainy" / name)
    for name, image in _regions(_VALIDATION):
        save(image, folder / "val/clean" / name)
        save(add_rain(image, _shower(rng), rng), folder / "val/rainy" / name)


def _is_complete(folder: Path, wanted: dict[str, int]) -> bool:
    """Whether the folder is these data; False where it is free; TrainerError where it is something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        found = json.loads((folder / _MARKER).read_text())
    except (OSError, ValueError):
        raise TrainerError(
            f"{folder} holds something other than demonstration data: name another folder."
        ) from None
    if found != wanted:
        raise TrainerError(
            f"{folder} holds demonstration data of another version or seed: remove it or name another folder."
        )
    return True


def write_demo_data(folder: Path | str, seed: int = 0) -> DemoData:
    """Writes 12 rainy, 14 clean and 8 validation images (about 300x220) and returns their folders.

    Rainy, clean and validation images come from different photographs; the rain is rendered, and costs about
    as much PSNR as that of Rain100L. Does nothing where the folder holds these data already, and appears
    whole or not at all. TrainerError where the folder holds anything else, FileError where nothing can be
    written.
    """
    folder = Path(folder)
    wanted = {"version": VERSION, "seed": seed}
    if not _is_complete(folder, wanted):
        check_writable(folder.parent)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            _write(partial, seed)
            (partial / _MARKER).write_text(json.dumps(wanted))
            partial.chmod(0o755)
            os.replace(partial, folder)
        except OSError:
            # Another process was faster, which is as good.
            if not _is_complete(folder, wanted):
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return DemoData(folder / "rainy", folder / "clean", folder / "val/rainy", folder / "val/clean")
