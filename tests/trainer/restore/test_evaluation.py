import io
import json
import math

import numpy as np
import PIL.Image
import pytest
import scipy.signal
from rich.console import Console
from skimage.metrics import structural_similarity

from rgsud_core.errors import RgsudError
from rgsud_core.quality import luma, psnr
from trainer.data.pairing import PairedFolder
from trainer.errors import TrainerError
from trainer.restore.evaluation import Evaluation, evaluate_pairs, psnr_y, score_pair, ssim_rgb, ssim_y


def noisy_pair(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    base = (
        128
        + 70 * np.sin(x / 9)[..., None] * np.cos(y / 13)[..., None]
        + rng.normal(0, 10, (height, width, 3))
    )
    degraded = base + rng.normal(0, 25, (height, width, 3))
    return tuple(np.clip(np.rint(image), 0, 255).astype(np.uint8) for image in (degraded, base))


def wang_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """SSIM written out after the 2004 paper, with two-dimensional convolutions."""
    y, x = np.mgrid[-5:6, -5:6]
    window = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(image: np.ndarray) -> np.ndarray:
        return scipy.signal.convolve2d(image, window, mode="valid")

    c1, c2 = 0.01**2 * 255**2, 0.03**2 * 255**2
    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma**2, mean(b * b) - mb**2, mean(a * b) - ma * mb
    return float(((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())


@pytest.mark.parametrize(
    ("colour", "expected"),
    [
        ((0, 0, 0), 16),
        ((255, 255, 255), 235),
        ((255, 0, 0), 81),
        ((0, 255, 0), 145),
        ((0, 0, 255), 41),
        ((255, 255, 0), 210),
        ((0, 255, 255), 170),
        ((255, 0, 255), 106),
        ((128, 128, 128), 126),
    ],
)
def test_luma_is_that_of_rgb2ycbcr(colour, expected):
    image = np.full((2, 2, 3), colour, np.uint8)
    assert np.array_equal(luma(image, rounded=True), np.full((2, 2), expected))
    assert luma(image)[0, 0] == pytest.approx(expected, abs=0.5)


def test_only_protocol_b_keeps_fractions_of_luma():
    image, _ = noisy_pair(20, 20)
    assert np.array_equal(luma(image, rounded=True), np.rint(luma(image)))
    assert not np.array_equal(luma(image, rounded=True), luma(image))


def test_psnr_of_a_known_difference():
    truth = np.full((16, 16, 3), 100, np.uint8)
    image = truth.copy()
    image[..., 1] += 30
    assert psnr(image, truth) == pytest.approx(10 * math.log10(255**2 / 300))
    # 30 / 255 * 128.553 = 15.12 of luma, 15 from rounded to rounded.
    assert psnr_y(image, truth) == pytest.approx(20 * math.log10(255 / 15))
    assert psnr_y(image, truth, "B") == pytest.approx(20 * math.log10(255 / (30 / 255 * 128.553)))
    assert psnr_y(truth, truth) == psnr(truth, truth) == math.inf


@pytest.mark.parametrize("size", [(64, 48), (11, 30), (97, 321)])
def test_ssim_agrees_with_the_written_out_formula_and_with_skimage(size):
    image, truth = noisy_pair(*size)
    assert ssim_y(image, truth) == pytest.approx(
        wang_ssim(luma(image, rounded=True), luma(truth, rounded=True)), abs=1e-9
    )
    by_channel = [wang_ssim(image[..., c].astype(float), truth[..., c].astype(float)) for c in range(3)]
    assert ssim_rgb(image, truth) == pytest.approx(np.mean(by_channel), abs=1e-9)
    if min(size) > 11:
        _, full = structural_similarity(
            luma(image, rounded=True),
            luma(truth, rounded=True),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=255,
            full=True,
        )
        assert ssim_y(image, truth) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-9)


@pytest.mark.parametrize(
    ("size", "factor"), [((300, 330), 1), ((384, 500), 2), ((520, 600), 2), ((700, 640), 3)]
)
def test_protocol_b_filters_and_decimates_large_images(size, factor):
    image, truth = noisy_pair(*size)

    def decimated(plane: np.ndarray) -> np.ndarray:
        before, after = (factor - 1) // 2, factor // 2
        padded = np.pad(plane, (before, after), mode="symmetric")
        windows = np.lib.stride_tricks.sliding_window_view(padded, (factor, factor))
        return windows.mean(axis=(2, 3))[::factor, ::factor]

    expected = wang_ssim(decimated(luma(image)), decimated(luma(truth)))
    assert ssim_y(image, truth, "B") == pytest.approx(expected, abs=1e-9)
    if factor > 1:
        assert ssim_y(image, truth, "B") > ssim_y(image, truth, "A") + 0.05


def test_equal_images_are_alike_and_unequal_sizes_are_refused():
    image, truth = noisy_pair(30, 40)
    assert ssim_y(image, image) == pytest.approx(1)
    with pytest.raises(
        TrainerError, match=r"\(30, 40, 3\) cannot be measured against a truth uint8 \(30, 39, 3\)"
    ):
        score_pair(image, truth[:, :39])
    with pytest.raises(RgsudError, match="10x30 is too small for SSIM"):
        score_pair(image[:, :10], truth[:, :10])


@pytest.fixture
def pairs(tmp_path):
    for number in range(3):
        for side, image in zip(("rainy", "clean"), noisy_pair(40, 50 + number, seed=number), strict=True):
            (tmp_path / side).mkdir(exist_ok=True)
            PIL.Image.fromarray(image).save(tmp_path / side / f"{number}.png")
    return PairedFolder(tmp_path / "rainy", tmp_path / "clean")


def test_a_set_is_measured_image_by_image(pairs):
    def blur(image: np.ndarray) -> np.ndarray:
        return np.rint(scipy.ndimage.gaussian_filter(image.astype(float), (1, 1, 0))).astype(np.uint8)

    result = evaluate_pairs(map(blur, pairs.degraded.images()), pairs)
    assert [row.id for row in result.rows] == ["0", "1", "2"]
    rainy, truth = pairs.load(1)
    assert result.rows[1].input.psnr_y == psnr_y(rainy, truth)
    assert result.rows[1].output.ssim_rgb == ssim_rgb(blur(rainy), truth)
    assert result.output.psnr_y == pytest.approx(np.mean([row.output.psnr_y for row in result.rows]))
    assert result.gain_db > 3
    assert Evaluation.model_validate_json(result.model_dump_json()) == result
    out = io.StringIO()
    Console(file=out, width=140).print(result.table())
    assert f"{result.input.psnr_y:.2f} -> {result.output.psnr_y:.2f}" in out.getvalue()
    assert f"{result.input.ssim_y:.4f} -> {result.output.ssim_y:.4f}" in out.getvalue()


def test_a_perfect_derainer_survives_json(pairs):
    result = evaluate_pairs(pairs.clean.images(), pairs)
    assert result.output.psnr_y == math.inf
    assert json.loads(result.model_dump_json())["rows"][0]["output"]["psnr_y"] == math.inf
    assert Evaluation.model_validate_json(result.model_dump_json()) == result


def test_a_derainer_that_changes_the_size_is_refused(pairs):
    with pytest.raises(TrainerError, match=r"^'0': An image .* cannot be measured"):
        evaluate_pairs((image[1:] for image in pairs.degraded.images()), pairs)
