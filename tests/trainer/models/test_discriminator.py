import pytest
import torch
from torch import nn

from trainer.models.blur import gaussian_blur
from trainer.models.discriminator import Discriminator, DiscriminatorSettings


def discriminator(**changes: object) -> Discriminator:
    torch.manual_seed(0)
    return Discriminator(DiscriminatorSettings.model_validate({"width": 8, "layers": 2, **changes}))


IMAGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 0.5
SHIFT = torch.tensor([0.3, -0.1, 0.2]).view(1, 3, 1, 1)


@pytest.mark.parametrize(("sees", "channels"), [("image", 3), ("highpass", 3), ("both", 6)])
def test_channels_fed(sees: str, channels: int):
    d = discriminator(sees=sees)
    first = d.net[0]
    assert isinstance(first, nn.Conv2d)
    assert first.in_channels == channels


@pytest.mark.parametrize(("sees", "blind"), [("image", False), ("highpass", True), ("both", False)])
@torch.no_grad()
def test_only_high_frequencies_are_blind_to_a_colour_shift(sees: str, blind: bool):
    d = discriminator(sees=sees)
    change = (d(IMAGE + SHIFT) - d(IMAGE)).abs().max().item()
    assert change < 1e-4 if blind else change > 1e-2


@pytest.mark.parametrize("sees", ["image", "highpass", "both"])
@torch.no_grad()
def test_every_view_sees_a_thin_streak(sees: str):
    d = discriminator(sees=sees)
    streak = IMAGE.clone()
    streak[..., 8:24, 15] += 0.3
    assert (d(streak) - d(IMAGE)).abs().max() > 1e-2


@torch.no_grad()
def test_what_is_fed_is_scaled():
    """The first convolution gets the image and the amplified high frequencies, in this order."""
    d = discriminator(sees="both", highpass_gain=5.0)
    fed: list[torch.Tensor] = []
    d.net.register_forward_pre_hook(lambda _, args: fed.append(args[0]))
    d(IMAGE)
    high = 5 * (IMAGE - gaussian_blur(IMAGE, 15, 9.0))
    torch.testing.assert_close(fed[0], torch.cat((IMAGE, high), dim=1))


@pytest.mark.parametrize(("layers", "field"), [(2, 22), (3, 46), (4, 94)])
def test_receptive_field(layers: int, field: int):
    d = discriminator(sees="image", layers=layers, width=2)
    # Instance normalisation joins every pixel; the field is that of the convolutions.
    net = nn.Sequential(*(m for m in d.net if not isinstance(m, nn.InstanceNorm2d)))
    image = torch.rand(1, 3, 256, 256, requires_grad=True)
    out = net(image)
    out[0, 0, out.shape[2] // 2, out.shape[3] // 2].backward()
    assert image.grad is not None
    touched = image.grad.abs().sum(dim=(0, 1)) > 0
    assert touched.any(dim=0).sum() == touched.any(dim=1).sum() == field


@torch.no_grad()
def test_an_images_verdict_does_not_depend_on_its_batch():
    d = discriminator()
    torch.testing.assert_close(d(IMAGE)[:1], d(IMAGE[:1]))


@torch.no_grad()
def test_shape_is_one_verdict_a_patch():
    assert discriminator(layers=2)(IMAGE).shape == (2, 1, 7, 7)
    assert discriminator(layers=3)(IMAGE).shape == (2, 1, 3, 3)


def test_width_stops_at_eight_times():
    d = discriminator(layers=6, width=2)
    widths = [m.out_channels for m in d.net if isinstance(m, nn.Conv2d)]
    assert widths == [2, 4, 8, 16, 16, 16, 1]
