"""What papers report of derainers on the data sets of the catalogue, to stand beside one's own figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figures:
    """The row of one derainer in a paper's table."""

    method: str
    source: str
    psnr: float | None = None
    """dB."""
    ssim: float | None = None
    daclip: float | None = None
    """Mean DACLIP-IQA, the probability of rain, 0 to 1: lower is better."""


_RGSUD = "arXiv 2605.00719"
_TABLE = {
    "Rain100L": ((31.82, 0.941), (33.28, 0.954), (34.41, 0.967)),
    "Rain200L": ((31.37, 0.934), (33.31, 0.959), (33.89, 0.961)),
    "DDN-Data": ((28.66, 0.878), (28.92, 0.882), (29.59, 0.898)),
    "SPA-Data": ((34.16, 0.943), (34.78, 0.949), (35.50, 0.957)),
    "RealRain-1k-L": ((30.49, 0.939), (32.71, 0.959), (32.88, 0.955)),
    "Night-Rain": ((28.68, 0.867), (29.90, 0.879), (30.54, 0.897)),
}
PUBLISHED: dict[str, tuple[Figures, ...]] = {
    name: tuple(
        Figures(method, _RGSUD, *figures)
        for method, figures in zip(("DCD-GAN", "CSUD", "RGSUD"), row, strict=True)
    )
    for name, row in _TABLE.items()
} | {"Real3000": (Figures("CSUD", _RGSUD, daclip=0.042), Figures("RGSUD", _RGSUD, daclip=0.018))}
"""By the name of the data set. The paper does not say whether its PSNR and SSIM are of luma or of RGB."""
