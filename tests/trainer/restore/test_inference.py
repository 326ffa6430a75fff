import tracemalloc

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer.errors import TrainerError
from trainer.restore.inference import TILE, WHOLE, derain_image


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class Identity(nn.Module):
    """Takes only sizes that divide by its multiple, as networks that downscale do."""

    def __init__(self, multiple: int = 1) -> None:
        super().__init__()
        self.multiple = multiple
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x):
        assert x.shape[2] % self.multiple == x.shape[3] % self.multiple == 0
        assert 0 <= x.min() <= x.max() <= 1
        self.seen.append(tuple(x.shape))
        return x


class Blur(nn.Module):
    """A local operator of radius 3."""

    def forward(self, x):
        return F.avg_pool2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), 7, stride=1)


class Pool(Identity):
    """An operator that depends on where its 4x4 grid lies."""

    def forward(self, x):
        return F.interpolate(F.avg_pool2d(super().forward(x), 4), scale_factor=4.0)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 8), (33, 47)])
@pytest.mark.parametrize("multiple", [1, 8, 16])
def test_any_size_is_padded_to_the_multiple_and_cut_back(size, multiple):
    net = Identity(multiple)
    image = photograph(*size)
    assert np.array_equal(derain_image(net, image), image)
    assert net.seen[0][2:] == tuple(-(-n // multiple) * multiple for n in size)


@pytest.mark.parametrize(("tile", "overlap"), [(32, 12), (40, 16), (64, 12), (24, 12)])
def test_a_local_operator_gives_the_same_tiled_as_whole(tile, overlap):
    image = photograph(101, 83)
    whole = derain_image(Blur(), image)
    assert np.array_equal(derain_image(Blur(), image, tile=tile, overlap=overlap), whole)


@pytest.mark.parametrize("tile", [30, 32, 41])
def test_tiles_keep_the_grid_of_a_network_that_downscales(tile):
    image = photograph(75, 102)
    net = Pool(4)
    whole = derain_image(net, image).astype(int)
    net.seen.clear()
    tiled = derain_image(net, image, tile=tile, overlap=12)
    # Means of 16 pixels often end in a half, where the last bit decides the rounding.
    assert np.abs(tiled - whole)[:72, :100].max() <= 1
    assert len(net.seen) > 4
    assert all(max(shape) <= tile + 3 for shape in net.seen)


@pytest.mark.parametrize(
    ("multiple", "tile", "overlap"), [(32, 40, 20), (32, 16, 8), (16, 24, 12), (1, 2, 1)]
)
def test_tiles_leave_no_hole_however_small(multiple, tile, overlap):
    image = photograph(70, 101)
    assert np.array_equal(derain_image(Identity(multiple), image, tile=tile, overlap=overlap), image)


@pytest.mark.parametrize("length", [65, 128, 129, 200, 1000, 1504, 2000, 4000, 6000])
@pytest.mark.parametrize(("multiple", "tile", "overlap"), [(16, 512, 32), (1, 64, 12), (32, 64, 32)])
def test_little_is_derained_twice(length, multiple, tile, overlap):
    net = Identity(multiple)
    image = photograph(length, 3)
    assert np.array_equal(derain_image(net, image, tile=tile, overlap=overlap), image)
    heights = [shape[2] for shape in net.seen]
    assert max(heights) <= tile + multiple - 1
    # But for the overlap, less than a multiple for each tile, and the last is as large as the others.
    assert sum(heights) <= length + len(heights) * (overlap + 2 * multiple)


def test_tiles_that_disagree_are_blended_without_a_seam():
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(dim=(2, 3), keepdim=True).expand_as(x)

    image = np.repeat(np.linspace(0, 255, 200).astype(np.uint8)[None, :, None], 40, axis=0).repeat(3, axis=2)
    steps = np.abs(np.diff(derain_image(Mean(), image, tile=64, overlap=32)[20, :, 0].astype(int)))
    # The tiles are 40 grey levels apart; the ramp between two is 16 pixels long.
    assert 0 < steps.max() < 8
    assert steps.sum() > 100


def test_values_are_clamped_and_rounded_once():
    class Constant(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value

        def forward(self, x):
            return torch.full_like(x, self.value)

    image = photograph(4, 4)
    for value, expected in ((-0.3, 0), (1.7, 255), (100.4 / 255, 100), (100.6 / 255, 101)):
        assert (derain_image(Constant(value), image) == expected).all()


def test_the_first_of_several_outputs_counts_and_the_mode_is_restored():
    class Stages(nn.Module):
        def forward(self, x):
            assert not self.training
            assert not torch.is_grad_enabled()
            return [x, x[:, :, ::2, ::2], torch.zeros_like(x)]

    net = Stages().train()
    image = photograph(9, 6)
    assert np.array_equal(derain_image(net, image), image)
    assert net.training


def test_broken_networks_and_settings_are_told():
    class Broken(nn.Module):
        def forward(self, x):
            return x * torch.nan

    class Shrinking(nn.Module):
        def forward(self, x):
            return x[:, :, 1:]

    with pytest.raises(TrainerError, match="not finite"):
        derain_image(Broken(), photograph(4, 4))
    with pytest.raises(TrainerError, match="must keep the shape"):
        derain_image(Shrinking(), photograph(4, 4))
    with pytest.raises(TrainerError, match="cannot overlap by 20"):
        derain_image(Identity(), photograph(4, 4), tile=32, overlap=20)


def test_large_images_are_derained_in_tiles_by_themselves(monkeypatch):
    monkeypatch.setattr("trainer.restore.inference.WHOLE", 60 * 80)
    monkeypatch.setattr("trainer.restore.inference.TILE", 40)
    for size, tile, tiled in (((60, 80), None, False), ((61, 80), None, True), ((61, 80), 0, False)):
        net, image = Identity(), photograph(*size)
        assert np.array_equal(derain_image(net, image, tile=tile, overlap=12), image)
        assert (len(net.seen) > 1) == tiled
    assert 2 * 32 <= TILE < WHOLE


def test_sixteen_bits_are_kept():
    image = np.random.default_rng(0).integers(0, 65536, (50, 60, 3), dtype=np.uint16)
    for tile in (None, 32):
        derained = derain_image(Identity(), image, tile=tile, overlap=8)
        assert derained.dtype == np.uint16
        assert np.array_equal(derained, image)


def test_memory_grows_by_the_result_alone_with_the_height_of_the_image():
    held = []
    for height in (300, 1200):
        image = photograph(height, 400)
        tracemalloc.start()
        derain_image(Identity(), image, tile=64, overlap=16)
        held.append(tracemalloc.get_traced_memory()[1] - image.nbytes)
        tracemalloc.stop()
    # Sums for the whole image would be 12 bytes a pixel.
    assert held[1] - held[0] < 900 * 400
    assert held[0] > 64 * 400 * 12
