import pytest
import torch

from trainer.models.generator import Generator, GeneratorSettings


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """An image, and rain information of both signs."""
    return torch.rand(2, 3, 32, 48), torch.rand(2, 3, 32, 48) - 0.5


def settings(**changes: object) -> GeneratorSettings:
    return GeneratorSettings.model_validate({"width": 8, "blocks": 2, **changes})


@pytest.mark.parametrize("downscale", [1, 2])
@torch.no_grad()
def test_untrained_returns_the_image(downscale: int):
    image, information = inputs()
    assert torch.equal(Generator(settings(downscale=downscale))(image, information), image)


@pytest.mark.parametrize("downscale", [1, 2])
@torch.no_grad()
def test_untrained_adds_explicit_rain(downscale: int):
    image, information = inputs()
    g = Generator(settings(downscale=downscale, explicit_rain=True))
    torch.testing.assert_close(g(image, information), image + g.rain(information))


@torch.no_grad()
def test_explicit_rain_brightens_and_is_nearly_grey():
    g = Generator(settings(explicit_rain=True, negative_slope=0.25, chroma=0.5))
    information = torch.tensor([0.9, 0.3, 0.0, -0.9, -0.3, 0.0]).view(2, 3, 1, 1)
    expected = torch.tensor([0.65, 0.35, 0.2, -0.1625, -0.0875, -0.05]).view(2, 3, 1, 1)
    torch.testing.assert_close(g.rain(information), expected)


@pytest.mark.parametrize("downscale", [1, 2])
@torch.no_grad()
def test_the_residual_depends_on_both_inputs(downscale: int):
    g = Generator(settings(downscale=downscale))
    torch.nn.init.normal_(g.tail.weight, std=0.1)
    image, information = inputs()
    residual = g(image, information) - image
    assert residual.shape == image.shape
    assert (g(image, -information) - image - residual).abs().mean() > 1e-3
    assert (g(1 - image, information) - (1 - image) - residual).abs().mean() > 1e-3


@torch.no_grad()
def test_downscaled_residual_has_no_checkerboard():
    """A different constant in each of the shuffled positions comes out flat, but for a mild ripple."""
    g = Generator(settings(downscale=2))
    assert g.tail.bias is not None
    g.tail.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(3))
    image, information = inputs()
    inner = (g(image, information) - image)[..., 2:-2, 2:-2]
    assert inner.max() - inner.min() < 0.35


@pytest.mark.parametrize("downscale", [1, 2])
def test_every_weight_learns(downscale: int):
    g = Generator(settings(downscale=downscale))
    torch.nn.init.normal_(g.tail.weight, std=0.1)
    image, information = inputs()
    g(image, information).square().mean().backward()
    for name, parameter in g.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@torch.no_grad()
def test_a_highpass_residual_cannot_shift_brightness():
    g = Generator(settings(residual_highpass=True))
    assert g.tail.bias is not None
    g.tail.bias.copy_(torch.tensor([0.3, -0.2, 0.1]))
    image, information = inputs()
    torch.testing.assert_close(g(image, information), image)
    torch.nn.init.normal_(g.tail.weight, std=0.1)
    assert (g(image, information) - image).abs().mean() > 1e-3
