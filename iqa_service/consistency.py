"""Consistency with the rainy image: rain adds light to some of the pixels and changes nothing else.

No scorer that sees a derained image alone can tell a cast or a drift of brightness from the photograph's own
light. Beside the rainy image both are plain.
"""

from __future__ import annotations

import numpy as np

from iqa_service.errors import ScorerError
from iqa_service.views import Image, check_image


def inconsistency(image: Image, rainy: Image) -> float:
    """How far rainy - image is from rain, in levels of 0..255; 0 for what only takes light from some pixels.

    The median of the difference in each channel, absolute, mean over channels (rain covers less than half of
    the pixels, so the rest says what colour shifted), and the root mean square of its negative part.

    Args:
        image: derained, uint8 H,W,3.
        rainy: what it was made from, the same shape.

    Raises:
        ScorerError: either is no image, or their shapes differ.
    """
    check_image(image)
    check_image(rainy, "rainy image")
    if image.shape != rainy.shape:
        raise ScorerError(
            f"the image has the shape {image.shape} and its rainy image {rainy.shape}: derain at native size"
        )
    taken = rainy.astype(np.float32) - image
    shift = np.abs(np.median(taken, axis=(0, 1))).mean()
    added = np.sqrt(np.square(np.minimum(taken, 0)).mean())
    return float(shift + added)
