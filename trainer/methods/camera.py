"""What a camera makes of a scene in rain: done to pseudo rainy crops and to their truth alike.

Real rainy photographs are pale, noisy and compressed, the clean ones that rain is laid over mostly are not. A
derainer that never saw compressed rain takes it for texture, and one that saw compression only where there
was rain takes compression for rain.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from rgsud_core.settings import Percentage, Settings

_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantisation of luma at quality 50: ITU-T T.81, table K.1."""
_CHROMA = tuple(
    tuple(int(v) for v in row)
    for row in (
        (17, 18, 24, 47, 99, 99, 99, 99),
        (18, 21, 26, 66, 99, 99, 99, 99),
        (24, 26, 56, 99, 99, 99, 99, 99),
        (47, 66, 99, 99, 99, 99, 99, 99),
        *(((99,) * 8,) * 4),
    )
)
"""The same for chroma: table K.2."""
_TO_YCC = torch.tensor(
    ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)), dtype=torch.float32
)
_TO_RGB = torch.linalg.inv(_TO_YCC)  # here, since on a device it would be waited for


def _dct() -> Tensor:
    """The orthonormal cosine transform of 8 values, 8,8."""
    k, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    matrix = torch.cos(math.pi * (2 * x + 1) * k / 16) / 2
    matrix[0] /= math.sqrt(2)
    return matrix


_DCT = _dct()


class CameraSettings(Settings):
    """How scenes and pseudo rainy crops are photographed."""

    pale: Percentage = Percentage(0.4)
    """Share of the scenes whose contrast is lowered, to 40 % at the least, as in mist."""
    dark: Percentage = Percentage(0.3)
    """Share of the scenes that are darkened by a power of 1 to 2.5, as at dusk."""
    noisy: Percentage = Percentage(0.3)
    """Share of the scenes with noise of up to 5 levels of 255, standard deviation."""
    tinted: float = Field(0.06, ge=0, le=1)
    """How much less light, at most, rain has in one colour than in another."""
    sharpened: Percentage = Percentage(0.5)
    """Share of the crops that are softened or sharpened, rainy crop and truth alike. Cameras sharpen what
    they take, so that a bright streak has dark borders."""
    compressed: Percentage = Percentage(0.5)
    """Share of the crops that are compressed, rainy crop and truth each at the same quality."""
    lowest_quality: int = Field(40, ge=1, le=100)
    """Lowest quality of JPEG; the highest is 97."""


class Camera:
    """Draws what happens to each crop from the number of the step alone, on the host."""

    def __init__(self, settings: CameraSettings) -> None:
        self.settings = settings

    def scene(self, clean: Tensor, step: int) -> Tensor:
        """Clean crops N,3,c,c in [0,1] -> the same, some of them darker, paler or noisy."""
        s, draws = self.settings, torch.Generator().manual_seed(2 * step)
        which, amount = (torch.rand(len(clean), 1, 1, 1, generator=draws) for _ in range(2))
        dark = clean ** torch.where(which < s.dark, 1 + 1.5 * amount, 1.0)
        which, amount, light = (torch.rand(len(clean), 1, 1, 1, generator=draws) for _ in range(3))
        contrast = torch.where(which < s.pale, 0.4 + 0.6 * amount, 1.0)
        pale = dark * contrast + (1 - contrast) * (0.2 + 0.7 * light)
        which, amount = (torch.rand(len(clean), 1, 1, 1, generator=draws) for _ in range(2))
        sigma = torch.where(which < s.noisy, amount * 5 / 255, 0.0)
        return (pale + sigma * torch.randn(clean.shape, generator=draws)).clamp(0, 1)

    def tint(self, n: int, step: int) -> Tensor:
        """Factors on the colours of the rain of N crops, N,3,1,1."""
        return 1 - self.settings.tinted * torch.rand(
            n, 3, 1, 1, generator=torch.Generator().manual_seed(2 * step + 1)
        )

    def photograph(self, rainy: Tensor, clean: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Rainy and clean crops N,3,c,c in [0,1], some pairs of them sharpened, softened or compressed."""
        s, draws = self.settings, torch.Generator().manual_seed(3 * step + 2)
        device = rainy.device
        which, gain, sigma = torch.rand(3, len(rainy), generator=draws)
        gain = torch.where(which < s.sharpened, 3 * gain - 1, 0.0).to(device).repeat(2)
        sigma = (0.5 + sigma).to(device).repeat(2)
        which, quality = torch.rand(2, len(rainy), generator=draws)
        quality = s.lowest_quality + (97 - s.lowest_quality) * quality
        chosen = (which < s.compressed)[:, None, None, None].to(device).repeat(2, 1, 1, 1)
        tables = _tables(quality).to(device).repeat(2, 1, 1, 1)
        # In half precision, the levels of JPEG are no levels.
        with torch.autocast(device.type, enabled=False):
            both = sharpen(torch.cat((rainy, clean)).float(), gain, sigma)
            both = torch.where(chosen, compress(both, tables), both)
        rainy, clean = both.chunk(2)
        return rainy, clean


def sharpen(images: Tensor, gain: Tensor, sigma: Tensor) -> Tensor:
    """Images with more or less of what a Gaussian takes from them: an unsharp mask.

    Args:
        images: N,3,H,W in [0,1].
        gain: N; 0 changes nothing, -1 leaves the blurred image, above 0 the image is sharpened.
        sigma: standard deviation of the Gaussian, N, pixels, at most 1.5.
    """
    n, channels = images.shape[:2]
    line = torch.exp(-0.5 * (torch.arange(-4.0, 5.0, device=images.device) / sigma[:, None]).square())
    line = line / line.sum(dim=1, keepdim=True)
    kernel = (line[:, :, None] * line[:, None, :])[:, None].repeat_interleave(channels, dim=0)
    padded = F.pad(images, (4, 4, 4, 4), mode="replicate").reshape(
        1, n * channels, *(d + 8 for d in images.shape[-2:])
    )
    blurred = F.conv2d(padded, kernel, groups=n * channels).view_as(images)
    return (images + gain[:, None, None, None] * (images - blurred)).clamp(0, 1)


def _tables(quality: Tensor) -> Tensor:
    """Quantisation of Y, Cb and Cr at qualities 1 to 100, N -> N,3,8,8; libjpeg's scaling."""
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)[:, None, None, None]
    base = torch.tensor((_LUMA, _CHROMA, _CHROMA), dtype=torch.float32)
    return (base * scale).round().clamp(1, 255)


def compress(images: Tensor, tables: Tensor) -> Tensor:
    """What JPEG leaves of images, without the entropy coding, which loses nothing; chroma is not subsampled.

    Args:
        images: N,3,H,W in [0,1]; H and W are padded to multiples of 8 by repeating the border.
        tables: N,3,8,8, see :func:`_tables`.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, (0, -width % 8, 0, -height % 8), mode="replicate")
    to_ycc, to_rgb, dct = (matrix.to(images.device) for matrix in (_TO_YCC, _TO_RGB, _DCT))
    ycc = torch.einsum("ij,njhw->nihw", to_ycc, padded * 255)
    ycc[:, 0] -= 128
    n, _, rows, columns = ycc.shape
    blocks = ycc.reshape(n, 3, rows // 8, 8, columns // 8, 8).transpose(3, 4)
    table = tables[:, :, None, None]
    quantised = (dct @ blocks @ dct.T / table).round() * table
    back = (dct.T @ quantised @ dct).transpose(3, 4).reshape(n, 3, rows, columns)
    back[:, 0] += 128
    rgb = torch.einsum("ij,njhw->nihw", to_rgb, back)
    return (rgb[..., :height, :width].round() / 255).clamp(0, 1)
