import io
from typing import Any

import numpy as np
import PIL.Image
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from trainer.methods.camera import Camera, CameraSettings, _tables, compress, sharpen


def scene(size: int = 64) -> Tensor:
    """A smooth scene with an edge and some texture, 1,3,size,size in [0,1], in levels of 8 bits."""
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    texture = 0.1 * torch.rand(3, size, size, generator=torch.Generator().manual_seed(1))
    image = torch.stack((x, y, (x > 0.5).float())) * 0.8 + texture
    return (255 * image.clamp(0, 1)).round()[None] / 255


def camera(**changes: Any) -> Camera:
    off = {"pale": "0%", "dark": "0%", "noisy": "0%", "tinted": 0, "sharpened": "0%", "compressed": "0%"}
    return Camera(CameraSettings.model_validate(off | changes))


def test_nothing_asked_for_is_nothing_done():
    image = scene()
    assert torch.equal(camera().scene(image, 3), image)
    assert torch.equal(camera().tint(2, 3), torch.ones(2, 3, 1, 1))
    assert torch.equal(camera().photograph(image, image, 3)[0], image)


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_compression_is_that_of_libjpeg(quality: int):
    image = scene()
    pixels = (255 * image[0]).permute(1, 2, 0).numpy().round().astype(np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    theirs = np.asarray(PIL.Image.open(file), np.float64)
    ours = 255 * compress(image, _tables(torch.tensor([float(quality)])))[0].permute(1, 2, 0).numpy()
    lost = np.sqrt(np.mean((theirs - pixels) ** 2))
    assert lost > 1
    assert np.sqrt(np.mean((ours - theirs) ** 2)) < 0.5 * lost


@pytest.mark.parametrize("size", [(13, 17), (8, 64)])
def test_any_size_keeps_its_shape(size: tuple[int, int]):
    image = torch.rand(2, 3, *size)
    assert compress(image, _tables(torch.tensor([50.0, 80.0]))).shape == image.shape


def test_a_pair_without_rain_stays_a_pair_without_rain():
    image = torch.cat([scene()] * 8)
    rainy, clean = camera(compressed="50%").photograph(image, image, 5)
    assert torch.equal(rainy, clean)
    changed = (rainy != image).flatten(1).any(1)
    assert changed.any()
    assert not changed.all()


def test_compression_is_as_fine_in_half_precision():
    image, one = torch.cat([scene()] * 4), camera(compressed="100%")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = one.photograph(image, image, 5)[0]
    assert torch.equal(half, one.photograph(image, image, 5)[0])


def test_a_step_draws_the_same_whenever_it_is_taken():
    image, one = torch.cat([scene()] * 4), camera(pale="50%", noisy="50%")
    assert torch.equal(one.scene(image, 7), one.scene(image, 7))
    assert not torch.equal(one.scene(image, 7), one.scene(image, 8))


def test_sharpening_is_an_unsharp_mask():
    image, sigma = torch.cat([scene()] * 3), torch.tensor([0.5, 1.0, 1.5])
    blurred = scipy.ndimage.gaussian_filter(
        scene()[0].numpy(), (0, 1.0, 1.0), mode="nearest", radius=(0, 4, 4)
    )
    soft, same, sharp = (sharpen(image, torch.full((3,), gain), sigma)[1] for gain in (-1.0, 0.0, 1.5))
    assert torch.equal(same, image[1])
    assert np.allclose(soft.numpy(), blurred, atol=1e-5)
    assert np.allclose(sharp.numpy(), np.clip(2.5 * scene()[0].numpy() - 1.5 * blurred, 0, 1), atol=1e-5)


def test_a_sharpened_streak_has_dark_borders_and_its_truth_has_none():
    clean = torch.full((8, 3, 32, 32), 0.4)
    rainy = clean.clone()
    rainy[..., 15:17] = 0.9
    taken, truth = camera(sharpened="100%").photograph(rainy, clean, 3)
    assert torch.allclose(truth, clean, atol=1e-5)
    assert (taken.amin(dim=(1, 2, 3)) < 0.39).any()
    assert (taken.amax(dim=(1, 2, 3)) < 0.89).any()  # others are softened


def test_dark_scenes_have_less_light_and_stay_in_range():
    image = torch.cat([scene()] * 6)
    dark = camera(dark="100%").scene(image, 0)
    assert (dark <= image + 1e-6).all()
    assert (dark.mean(dim=(1, 2, 3)) < image.mean(dim=(1, 2, 3))).all()
    assert dark.amin() >= 0


def test_pale_scenes_have_less_contrast():
    image = torch.cat([scene()] * 6)
    pale = camera(pale="100%").scene(image, 0)
    assert (pale.flatten(1).std(1) < image.flatten(1).std(1)).all()
    assert (pale.flatten(1).std(1) > 0.39 * image.flatten(1).std(1)).all()
