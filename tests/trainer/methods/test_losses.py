import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from trainer.methods.losses import (
    lsgan_loss,
    psnr_loss,
    reinforcement_loss,
    ssim_loss,
    ssim_of_each,
)
from trainer.models.blur import gaussian_blur


def ssim(image: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over the images."""
    return ssim_of_each(image, target).mean()


def pair(noise: float, n: int = 3, height: int = 33, width: int = 41, seed: int = 0):
    """A smooth image and a noisy copy of it, n,3,height,width in float64."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.random((n, 3, height, width)), (0, 0, 2, 2))
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    noisy = (smooth + noise * rng.standard_normal(smooth.shape)).clip(0, 1)
    return torch.from_numpy(smooth), torch.from_numpy(noisy)


class TestPSNRLoss:
    def test_is_minus_the_mean_of_the_images_psnr(self):
        clean, noisy = pair(0.03)
        noisy[0] = clean[0] + 0.5  # a bad image: the mean of dB is not the dB of the mean
        expected = -np.mean(
            [
                peak_signal_noise_ratio(a, b, data_range=1.0)
                for a, b in zip(clean.numpy(), noisy.numpy(), strict=True)
            ]
        )
        # The 1e-8 beside an MSE of 1e-3 is 4e-5 dB.
        assert psnr_loss(noisy, clean).item() == pytest.approx(expected, abs=1e-4)

    def test_ends_at_minus_80_db_with_a_finite_gradient(self):
        clean, _ = pair(0.0)
        image = clean.clone().requires_grad_()
        loss = psnr_loss(image, clean)
        loss.backward()
        assert loss.item() == pytest.approx(-80.0)
        assert image.grad is not None
        assert torch.equal(image.grad, torch.zeros_like(image))


class TestSSIM:
    @pytest.mark.parametrize("noise", [0.01, 0.05, 0.3])
    def test_equals_skimage(self, noise: float):
        """skimage truncates at 3.5 sigma, 11 pixels, and averages the region that no padding reaches."""
        clean, noisy = pair(noise)
        expected = np.mean(
            [
                structural_similarity(
                    a,
                    b,
                    channel_axis=0,
                    data_range=1.0,
                    gaussian_weights=True,
                    sigma=1.5,
                    use_sample_covariance=False,
                )
                for a, b in zip(clean.numpy(), noisy.numpy(), strict=True)
            ]
        )
        assert ssim(noisy, clean).item() == pytest.approx(expected, abs=1e-9)
        assert ssim(noisy.float(), clean.float()).item() == pytest.approx(expected, abs=1e-4)

    def test_keeps_its_precision_under_autocast(self):
        clean, noisy = (image.float() for image in pair(0.01))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            lowered = ssim(noisy, clean)
        assert lowered.item() == ssim(noisy, clean).item() < 1

    def test_loss_is_minus_the_decimal_logarithm(self):
        clean, noisy = pair(0.1)
        of_each = [
            -math.log10(ssim(a, b).item()) for a, b in zip(noisy.split(1), clean.split(1), strict=True)
        ]
        assert ssim_loss(noisy, clean).item() == pytest.approx(np.mean(of_each))

    def test_loss_is_zero_for_equal_images(self):
        clean, _ = pair(0.0)
        assert ssim_loss(clean, clean).item() == pytest.approx(0.0, abs=1e-12)

    def test_loss_ends_at_4_where_ssim_is_negative(self):
        clean, _ = pair(0.0)
        inverted = (1 - clean).requires_grad_()
        assert ssim(inverted, clean).item() < 0
        loss = ssim_loss(inverted, clean)
        loss.backward()
        assert loss.item() == pytest.approx(4.0)
        assert inverted.grad is not None
        assert inverted.grad.isfinite().all()


@pytest.mark.parametrize(("kernel", "sigma"), [(15, 9.0), (11, 1.5)])
def test_blur_equals_scipy(kernel: int, sigma: float):
    image, _ = pair(0.0)
    expected = gaussian_filter(
        image.numpy(), (0, 0, sigma, sigma), mode="mirror", radius=(0, 0, *[kernel // 2] * 2)
    )
    np.testing.assert_allclose(gaussian_blur(image, kernel, sigma).numpy(), expected, atol=1e-12)


def test_blur_keeps_its_precision_under_autocast():
    image = pair(0.0)[0].float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lowered = gaussian_blur(image, 15, 9.0)
    assert torch.equal(lowered, gaussian_blur(image, 15, 9.0))


@pytest.mark.parametrize(("real", "goal"), [(True, 1.0), (False, 0.0)])
def test_lsgan_is_the_mean_squared_distance_from_the_label(real: bool, goal: float):
    realness = torch.tensor([[-1.0, 0.0], [0.5, 3.0]])
    assert lsgan_loss(realness, real=real).item() == pytest.approx(np.mean((realness.numpy() - goal) ** 2))


class TestReinforcementLoss:
    def test_mean_is_over_every_pixel(self):
        image, reward = pair(0.1)
        expected = np.mean((image.numpy() - reward.numpy()) ** 2)
        assert reinforcement_loss(image, reward, "mean").item() == pytest.approx(expected)

    def test_sum_is_over_an_images_pixels_and_averaged_over_images(self):
        image, reward = pair(0.1)
        expected = np.mean([np.sum((a - b) ** 2) for a, b in zip(image.numpy(), reward.numpy(), strict=True)])
        assert reinforcement_loss(image, reward, "sum").item() == pytest.approx(expected)

    def test_psnr_is_the_logarithm_of_each_images_error(self):
        image, reward = pair(0.1)
        reward[1] = image[1] + 0.5
        errors = np.mean((image.numpy() - reward.numpy()) ** 2, axis=(1, 2, 3))
        expected = np.mean(10 * np.log10(errors + 1e-8))
        assert reinforcement_loss(image, reward, "psnr").item() == pytest.approx(expected)
