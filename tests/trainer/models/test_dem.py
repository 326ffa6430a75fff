import pytest
import torch

from trainer.models.dem import DEM, DEMSettings

TINY = DEMSettings(width=4, levels=2)


def trained() -> DEM:
    dem = DEM(TINY)
    torch.nn.init.normal_(dem.ending.weight, std=0.1)
    return dem


@pytest.mark.parametrize("size", [(32, 32), (37, 53), (5, 3)])
@torch.no_grad()
def test_untrained_extracts_nothing(size: tuple[int, int]):
    image = torch.rand(2, 3, *size)
    assert torch.equal(DEM(TINY)(image), torch.zeros_like(image))


@pytest.mark.parametrize("size", [(32, 32), (37, 53)])
@torch.no_grad()
def test_extracts_what_the_clean_image_lacks(size: tuple[int, int]):
    dem, image = trained(), torch.rand(2, 3, *size)
    information = dem(image)
    assert information.shape == image.shape
    assert information.abs().mean() > 0.001
    assert torch.equal(information, image - dem.clean(image))


@torch.no_grad()
def test_the_switch_replaces_the_estimate():
    image, reward = torch.rand(2, 2, 3, 32, 32).unbind()
    assert torch.equal(trained()(image, reward), image - reward)


def test_the_switch_leaves_no_gradient_on_the_network():
    dem = trained()
    image = torch.rand(1, 3, 32, 32, requires_grad=True)
    dem(image, torch.rand(1, 3, 32, 32)).sum().backward()
    assert image.grad is not None
    assert all(p.grad is None for p in dem.parameters())


def test_every_weight_learns():
    dem = trained()
    dem(torch.rand(2, 3, 32, 32)).square().mean().backward()
    for name, parameter in dem.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("levels", [1, 3])
@torch.no_grad()
def test_levels_set_the_multiple(levels: int):
    dem = DEM(DEMSettings(width=4, levels=levels))
    assert dem.multiple == 2**levels
    assert dem(torch.rand(1, 3, 17, 19)).shape == (1, 3, 17, 19)
