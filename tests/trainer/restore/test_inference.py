import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rgsud_core.images import read_image
from trainer.errors import TrainerError
from trainer.restore.inference import derain_image, derain_path


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


@pytest.fixture
def source(tmp_path):
    for name in ("a.png", "deep/er/b.jpg", "deep/c.bmp"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(photograph(20, 30)).save(path)
    return tmp_path / "in"


def test_a_folder_keeps_its_structure(source, tmp_path):
    calls = []
    count = derain_path(Identity(8), source, tmp_path / "out", on_progress=lambda *n: calls.append(n))
    assert count == 3
    assert calls == [(1, 3), (2, 3), (3, 3)]
    written = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*"))
    assert written == ["a.png", "deep/c.png", "deep/er/b.png"]
    assert np.array_equal(read_image(tmp_path / "out/a.png"), photograph(20, 30))


def test_a_single_file_goes_where_it_is_told(source, tmp_path):
    assert derain_path(Identity(), source / "a.png", tmp_path / "x" / "result.tif") == 1
    assert PIL.Image.open(tmp_path / "x" / "result.tif").format == "TIFF"
    derain_path(Identity(), source / "a.png", tmp_path / "x")
    derain_path(Identity(), source / "a.png", tmp_path / "new")
    assert np.array_equal(read_image(tmp_path / "x" / "a.png"), read_image(tmp_path / "new" / "a.png"))
    with pytest.raises(TrainerError, match="names no known image format"):
        derain_path(Identity(), source / "a.png", tmp_path / "x.doc")


def test_unreadable_files_are_told_after_the_others_are_done(source, tmp_path):
    (source / "b.jpg").write_text("hello")
    (source / "deep" / "d.png").write_bytes((source / "a.png").read_bytes()[:300])
    with pytest.raises(TrainerError) as caught:
        derain_path(Identity(), source, tmp_path / "out")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("2 of 5 images failed, 3 are done")
    assert "b.jpg is not an image" in lines[1]
    assert "d.png cannot be read" in lines[2]
    assert len(lines) == 3
    assert len(list((tmp_path / "out").rglob("*.*"))) == 3


def test_results_that_cannot_be_written_are_told(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deep").write_text("in the way")
    with pytest.raises(TrainerError, match=r"2 of 3 images failed, 1 are done:\n.*c\.png cannot be written"):
        derain_path(Identity(), source, tmp_path / "out")


def test_sources_are_never_overwritten(source, tmp_path):
    with pytest.raises(TrainerError, match=r"would overwrite .*a\.png"):
        derain_path(Identity(), source / "a.png", source)
    with pytest.raises(TrainerError, match="lies within"):
        derain_path(Identity(), source, source / "out")
    with pytest.raises(TrainerError, match="is a file name"):
        derain_path(Identity(), source, tmp_path / "out.png")
    with pytest.raises(TrainerError, match="does not exist"):
        derain_path(Identity(), tmp_path / "none.png", tmp_path / "out")
