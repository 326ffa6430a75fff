import math

import pytest
import torch
from spandrel.architectures.NAFNet.__arch.NAFNet_arch import NAFNet as Published

from trainer.models.nafnet import PUBLISHED, LayerNorm2d, NAFBlock, NAFNet, NAFNetSettings


def randomise(module: torch.nn.Module, seed: int) -> None:
    """Weights that leave nothing unused: beta, gamma and biases start at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            # Of a convolution's fan-in, so that activations keep their scale.
            fan_in = math.prod(parameter.shape[1:]) or 1
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / math.sqrt(fan_in))


@pytest.mark.parametrize("size", [(32, 32), (37, 53)])
@pytest.mark.parametrize(
    "settings",
    [
        NAFNetSettings(width=8, encoder=(1, 2, 1), middle=2, decoder=(2, 1, 1)),
        NAFNetSettings(width=4, encoder=(1, 1, 1, 3), middle=1, decoder=(1, 1, 1, 2)),
    ],
    ids=["three levels", "four levels"],
)
def test_equals_the_published_network(settings: NAFNetSettings, size: tuple[int, int]):
    published = Published(
        width=settings.width,
        middle_blk_num=settings.middle,
        enc_blk_nums=list(settings.encoder),
        dec_blk_nums=list(settings.decoder),
    ).eval()
    randomise(published, seed=1)
    net = NAFNet(settings).eval()
    net.load_state_dict(published.state_dict(), strict=True)
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = published(image)
        out = net(image)
        channels_last = net.to(memory_format=torch.channels_last)(image)
    assert (expected - image).abs().mean() > 0.1
    # Random weights make values beyond [0,1]: the tolerance goes with them.
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    torch.testing.assert_close(channels_last, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize(
    ("settings", "millions"),
    [
        (PUBLISHED["nafnet-32"], 29.16),
        (PUBLISHED["nafnet-64"], 115.98),
        (PUBLISHED["nafnet-gopro-32"], 17.11),
        (PUBLISHED["nafnet-gopro-64"], 67.89),
        (NAFNetSettings(width=16, encoder=(1, 1, 1), middle=1, decoder=(1, 1, 1)), 0.289),
    ],
)
def test_published_configurations_have_the_published_parameter_counts(
    settings: NAFNetSettings, millions: float
):
    with torch.device("meta"):
        net = NAFNet(settings)
    count = sum(p.numel() for p in net.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.005 if millions > 1 else 0.0005)


def test_identity_start_returns_its_input_exactly():
    image = torch.rand(1, 3, 37, 53)
    settings = NAFNetSettings(width=4, encoder=(1, 1), middle=1, decoder=(1, 1))
    net = NAFNet(settings)
    with torch.no_grad():
        assert not torch.equal(net(image), image)
        net.start_as_identity()
        assert torch.equal(net(image), image)


def test_multiple_is_two_to_the_levels():
    assert NAFNet(NAFNetSettings(width=4, encoder=(1, 1, 1), middle=1, decoder=(1, 1, 1))).multiple == 8


def test_layer_norm_is_over_the_channels_of_each_pixel():
    norm = LayerNorm2d(6)
    randomise(norm, seed=3)
    x = torch.randn(2, 6, 5, 7)
    mean = x.mean(dim=1, keepdim=True)
    deviation = (x.var(dim=1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    expected = (x - mean) / deviation * norm.weight.view(1, 6, 1, 1) + norm.bias.view(1, 6, 1, 1)
    torch.testing.assert_close(norm(x), expected)


class TestSurroundings:
    def test_crops_of_their_size_see_whole_means(self):
        torch.manual_seed(0)
        whole = NAFNet(NAFNetSettings(width=4, encoder=(1, 1), middle=1, decoder=(1, 1)))
        local = NAFNet(NAFNetSettings(width=4, encoder=(1, 1), middle=1, decoder=(1, 1), surroundings=32))
        for module in whole.modules():
            if isinstance(module, NAFBlock):
                torch.nn.init.ones_(module.beta)
        local.load_state_dict(whole.state_dict())
        crop, image = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 96, 80)
        with torch.no_grad():
            assert torch.equal(local(crop), whole(crop))
            assert not torch.equal(local(image), whole(image))

    def test_what_is_far_does_not_matter(self):
        torch.manual_seed(0)
        net = NAFNet(NAFNetSettings(width=4, encoder=(1,), middle=1, decoder=(1,), surroundings=16))
        for module in net.modules():
            if isinstance(module, NAFBlock):
                torch.nn.init.ones_(module.beta)
        image = torch.rand(1, 3, 32, 256)
        changed = image.clone()
        changed[..., 192:] = 0
        with torch.no_grad():
            before, after = net(image), net(changed)
        assert torch.equal(before[..., :64], after[..., :64])
        assert not torch.equal(before[..., 192:], after[..., 192:])
