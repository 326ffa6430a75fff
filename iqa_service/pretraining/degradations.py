"""Rendered degradations: an example of each word of DA-CLIP.

Every degradation takes a photograph, uint8 H,W,3 RGB, and a random generator for its kind and strength, and
returns an image of the same shape and type.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
from numpy.typing import NDArray
from scipy import ndimage

from rgsud_core.degradation.rendered import add_rain, random_look
from rgsud_core.images import Image

Float = NDArray[np.floating]
Degradation = Callable[[Image, np.random.Generator], Image]


def to_uint8(image: NDArray[Any]) -> Image:
    """The nearest uint8 image of values meant for 0..255."""
    rounded: Image = np.rint(np.clip(image, 0, 255)).astype(np.uint8)
    return rounded


def smooth_field(image: NDArray[Any], scale: float, rng: np.random.Generator) -> Float:
    """A random field H,W in [0,1] over an image H,W,3 that varies within about ``scale`` pixels."""
    height, width = image.shape[:2]
    coarse = rng.uniform(0, 1, (int(height / scale) + 3, int(width / scale) + 3)).astype(np.float32)
    # Inside the border, where the interpolation has neighbours on all sides.
    box = (1, 1, coarse.shape[1] - 1, coarse.shape[0] - 1)
    fine = PIL.Image.fromarray(coarse).resize((width, height), PIL.Image.Resampling.BICUBIC, box)
    values = np.asarray(fine)
    field: Float = (values - values.min()) / max(float(np.ptp(values)), 1e-6)
    return field


def gaussian(image: Float, sigma: float) -> Float:
    """Each channel of float H,W,3 blurred by ``sigma`` pixels."""
    blurred: Float = ndimage.gaussian_filter(image, (sigma, sigma, 0), truncate=3)
    return blurred


def as_taken(image: Image, rng: np.random.Generator) -> Image:
    """A clean photograph with another exposure, and with the grain and JPEG of common cameras."""
    pixels = 255 * (image / 255.0) ** rng.uniform(0.8, 1.25)
    if rng.uniform() < 0.6:
        pixels = pixels + rng.normal(0, rng.uniform(0.5, 4), (*image.shape[:2], int(rng.choice([1, 3]))))
    taken = to_uint8(pixels)
    return _jpeg(taken, int(rng.integers(80, 99))) if rng.uniform() < 0.4 else taken


def motion_blurry(image: Image, rng: np.random.Generator) -> Image:
    """Blurred along a line, out of focus, or smeared by a median filter."""
    pixels = image.astype(np.float32)
    kind = rng.integers(3)
    if kind == 0:
        length = int(rng.integers(5, 17))
        kernel = np.zeros((length, length), np.float32)
        angle, steps = rng.uniform(0, np.pi), np.linspace(-0.5, 0.5, 4 * length) * (length - 1)
        rows, columns = (
            np.rint(length // 2 + steps * f(angle)).astype(int).clip(0, length - 1) for f in (np.sin, np.cos)
        )
        kernel[rows, columns] = 1
        kernel /= kernel.sum()
        return to_uint8(np.stack([ndimage.convolve(pixels[..., c], kernel) for c in range(3)], axis=-1))
    if kind == 1:
        return to_uint8(gaussian(pixels, rng.uniform(0.8, 3)))
    size = int(rng.choice([3, 5]))
    return to_uint8(ndimage.median_filter(pixels, (size, size, 1)))


def _jpeg(image: Image, quality: int) -> Image:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "jpeg", quality=quality)
    return np.asarray(PIL.Image.open(buffer))


def hazy(image: Image, rng: np.random.Generator) -> Image:
    """Air light over a transmission that varies with a random depth."""
    depth = smooth_field(image, 100, rng)
    transmission = np.exp(-rng.uniform(0.3, 1.0) - rng.uniform(0, 0.8) * depth)[..., None]
    air = rng.uniform(170, 250) * rng.uniform(0.97, 1.03, 3)
    return to_uint8(image * transmission + air * (1 - transmission))


def jpeg_compressed(image: Image, rng: np.random.Generator) -> Image:
    """JPEG compression at a quality of 5 to 40."""
    return _jpeg(image, int(rng.integers(5, 41)))


def low_light(image: Image, rng: np.random.Generator) -> Image:
    """Underexposed by a factor of 2 to 8, with noise."""
    dark = 255 * (image / 255.0) ** rng.uniform(1.2, 2.0) * rng.uniform(0.15, 0.5)
    return to_uint8(dark + rng.normal(0, rng.uniform(0, 3), image.shape))


def noisy(image: Image, rng: np.random.Generator) -> Image:
    """Gaussian noise of 5 to 40 levels, per channel or equal in all."""
    noise = rng.normal(0, rng.uniform(5, 40), (*image.shape[:2], int(rng.choice([1, 3]))))
    return to_uint8(image + noise)


def raindrop(image: Image, rng: np.random.Generator) -> Image:
    """Drops on the lens: each shows the scene upside down, out of focus and brighter at one edge."""
    height, width = image.shape[:2]
    pixels = image.astype(np.float32)
    inside = gaussian(pixels[::-1, ::-1], 3) * rng.uniform(0.7, 1.1) + rng.uniform(0, 40)
    mask, glint = np.zeros((2, height, width), np.float32)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    for _ in range(max(2, int(rng.poisson(height * width / 2500)))):
        top, left, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(3, 14)
        distance = np.hypot((y - top) / rng.uniform(0.8, 1.5), x - left) / radius
        np.maximum(mask, np.clip((1 - distance) * radius / 2, 0, 1), out=mask)
        np.maximum(glint, np.clip(1 - distance, 0, 1) * np.clip((top - y) / radius, 0, 1), out=glint)
    mixed = pixels + mask[..., None] * (inside - pixels) * rng.uniform(0.6, 1)
    return to_uint8(mixed + 120 * glint[..., None])


def rainy(image: Image, rng: np.random.Generator) -> Image:
    """A shower, from light to heavy."""
    return add_rain(image, random_look(rng, rng.uniform(0.3, 2)), rng)


def shadowed(image: Image, rng: np.random.Generator) -> Image:
    """A shadow with a soft edge."""
    field = smooth_field(image, rng.uniform(40, 120), rng)
    shade = np.clip((field - np.quantile(field, rng.uniform(0.3, 0.7))) * rng.uniform(4, 40), 0, 1)
    return to_uint8(image * (1 - rng.uniform(0.4, 0.8) * shade[..., None]))


def snowy(image: Image, rng: np.random.Generator) -> Image:
    """Round flakes of several sizes, near ones large and blurred."""
    height, width = image.shape[:2]
    snow = np.zeros((height, width), np.float32)
    for sigma in rng.uniform(0.6, 2.5, int(rng.integers(1, 4))):
        flakes = (rng.uniform(0, 1, (height, width)) < rng.uniform(0.001, 0.006) / sigma).astype(np.float32)
        blurred = ndimage.gaussian_filter(flakes * rng.uniform(0.4, 1, flakes.shape), sigma)
        snow = np.maximum(snow, np.clip(blurred * 2 * np.pi * sigma**2, 0, 1))
    return to_uint8(image + snow[..., None] * (rng.uniform(220, 255) - image))


def uncompleted(image: Image, rng: np.random.Generator) -> Image:
    """Holes: scribbles and boxes of one flat colour."""
    picture = PIL.Image.fromarray(image)
    draw = PIL.ImageDraw.Draw(picture)
    width, height = picture.size
    fill = tuple(int(v) for v in np.full(3, rng.choice([0, 127, 255])))
    for _ in range(int(rng.integers(2, 9))):
        points = [(rng.uniform(0, width), rng.uniform(0, height)) for _ in range(3)]
        if rng.uniform() < 0.6:
            draw.line(points, fill=fill, width=int(rng.integers(3, 12)), joint="curve")
        else:
            (left, top), size = points[0], rng.uniform(8, 30, 2)
            draw.rectangle((left, top, left + size[0], top + size[1]), fill=fill)
    return np.asarray(picture)


DEGRADATIONS: dict[str, Degradation] = {
    "motion-blurry": motion_blurry,
    "hazy": hazy,
    "jpeg-compressed": jpeg_compressed,
    "low-light": low_light,
    "noisy": noisy,
    "raindrop": raindrop,
    "rainy": rainy,
    "shadowed": shadowed,
    "snowy": snowy,
    "uncompleted": uncompleted,
}
"""The words of DA-CLIP, in their order."""
