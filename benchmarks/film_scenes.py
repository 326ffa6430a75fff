"""Films whose clean frames are known: photographs, panned and zoomed, with things that move over them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw

from rgsud_core.images import Image, read_image

WIDTH, HEIGHT = 320, 240


@dataclass(frozen=True)
class Scene:
    """A camera that moves over a photograph, and patches of another one that move before it."""

    photograph: tuple[str, str]
    """Package that it comes with, and file in it."""
    patch: tuple[str, str]
    pan: tuple[float, float]
    """Pixels a frame."""
    zoom: float
    """Factor of a frame."""
    speeds: tuple[tuple[float, float], ...]
    """Pixels a frame, of each patch."""


# None of these photographs was among those that rgsud-base was trained on. On the first three the constants
# of the temporal step were chosen, in other rain.
SCENES = {
    "street": Scene(
        ("sklearn", "datasets/images/china.jpg"),
        ("skimage", "data/astronaut.png"),
        pan=(2.3, 0.4),
        zoom=1.0,
        speeds=((5.5, 0.0), (-3.2, 1.1)),
    ),
    "drive": Scene(
        ("skimage", "data/motorcycle_left.png"),
        ("sklearn", "datasets/images/flower.jpg"),
        pan=(0.6, 0.2),
        zoom=1.008,
        speeds=((-7.0, 0.7), (2.0, 2.0)),
    ),
    "tripod": Scene(
        ("skimage", "data/coffee.png"),
        ("skimage", "data/chelsea.png"),
        pan=(0.0, 0.0),
        zoom=1.0,
        speeds=((4.0, -1.0), (12.0, 2.0)),
    ),
    "portrait": Scene(
        ("skimage", "data/astronaut.png"),
        ("skimage", "data/coffee.png"),
        pan=(-1.4, -0.9),
        zoom=0.996,
        speeds=((6.0, 2.0), (-9.0, -0.5)),
    ),
    "cat": Scene(
        ("skimage", "data/chelsea.png"),
        ("sklearn", "datasets/images/china.jpg"),
        pan=(0.2, 0.1),
        zoom=1.003,
        speeds=((-2.5, 1.5), (8.0, 0.0)),
    ),
}


def _read(photograph: tuple[str, str]) -> PIL.Image.Image:
    package, file = photograph
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is missing: install it.")
    return PIL.Image.fromarray(read_image(Path(spec.submodule_search_locations[0]) / file))


def clean_frames(scene: Scene, count: int) -> Iterator[Image]:
    """The frames, uint8 240,320,3 RGB."""
    ground = _read(scene.photograph)
    ground = ground.resize((560, 560 * ground.height // ground.width), PIL.Image.Resampling.LANCZOS)
    source = _read(scene.patch)
    source = source.resize((280, 280 * source.height // source.width), PIL.Image.Resampling.LANCZOS)
    middle = count / 2
    for time in range(count):
        scale = scene.zoom ** (middle - time)
        left = ground.width / 2 - WIDTH / 2 * scale + scene.pan[0] * (time - middle)
        top = ground.height / 2 - HEIGHT / 2 * scale + scene.pan[1] * (time - middle)
        frame = ground.transform(
            (WIDTH, HEIGHT),
            PIL.Image.Transform.AFFINE,
            (scale, 0, left, 0, scale, top),
            PIL.Image.Resampling.BICUBIC,
        )
        for number, (right, down) in enumerate(scene.speeds):
            width, height = 70 - 24 * number, 50 + 10 * number
            x = (30 + 90 * number + right * time) % (WIDTH + width) - width
            y = (40 + 80 * number + down * time) % (HEIGHT + height) - height
            cut = (1.0, 0.0, 60.0 - x + 40 * number, 0.0, 1.0, 40.0 - y + 20 * number)
            size, bicubic = (WIDTH, HEIGHT), PIL.Image.Resampling.BICUBIC
            patch = source.transform(size, PIL.Image.Transform.AFFINE, cut, bicubic)
            big = PIL.Image.new("L", (4 * WIDTH, 4 * HEIGHT))
            box = tuple(4 * side for side in (x, y, x + width, y + height))
            PIL.ImageDraw.Draw(big).ellipse(box, fill=255)
            frame.paste(patch, mask=big.resize(size, PIL.Image.Resampling.BOX))
        yield np.asarray(frame)
