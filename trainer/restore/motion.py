"""How pixels move from one frame of a film to another: dense optical flow, on any device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

_COARSEST = 32
"""Pixels of the shorter side below which a frame is not halved again."""
_FINEST = 1 << 19
"""Pixels of the finest level that is compared: of larger frames half the size, a quarter of the work."""
_WARPS = 3
"""Steps on each level."""
_RADIUS = 4
"""Of the window whose pixels are taken to move alike."""
_DAMPING = 1e-4
"""Added to the energy of gradients, so that flat places stay where they are."""


def box(values: Tensor, radius: int) -> Tensor:
    """Mean over a square of 2 `radius` + 1 pixels, over what of it lies inside: N,C,H,W -> the same."""
    side = 2 * radius + 1
    rows = functional.avg_pool2d(values, (side, 1), 1, (radius, 0), count_include_pad=False)
    return functional.avg_pool2d(rows, (1, side), 1, (0, radius), count_include_pad=False)


def warp(values: Tensor, flow: Tensor, mode: str = "bilinear") -> Tensor:
    """N,C,H,W as seen from where the flow starts: the value at each pixel is that at pixel + flow.

    Args:
        flow: N,2,H,W, pixels to the right and down.
        mode: `bilinear`, or `bicubic`, which keeps details.
    """
    height, width = values.shape[2:]
    y = torch.arange(height, device=values.device) + 0.5
    x = torch.arange(width, device=values.device) + 0.5
    across, down = (x + flow[:, 0]) * (2 / width) - 1, (y[:, None] + flow[:, 1]) * (2 / height) - 1
    places = torch.stack((across, down), -1)
    return functional.grid_sample(values, places, mode=mode, padding_mode="border", align_corners=False)


def find_flow(start: Tensor, end: Tensor) -> Tensor:
    """Flow N,2,H,W in pixels from one frame to another, both N,1,H,W in [0,1]: warp(end, flow) is like start.

    The iterative method of Lucas and Kanade (IJCAI 1981), dense and from coarse to fine: within a window all
    pixels move alike, by what takes the difference away to first order.
    """
    shape = start.shape[2:]
    if shape.numel() > _FINEST:
        start, end = functional.avg_pool2d(start, 2), functional.avg_pool2d(end, 2)
    levels = [(start, end)]
    while min(levels[-1][0].shape[2:]) >= _COARSEST:
        start, end = functional.avg_pool2d(start, 2), functional.avg_pool2d(end, 2)
        levels.append((start, end))
    flow = torch.zeros_like(levels[-1][0]).expand(-1, 2, -1, -1)
    for start, end in reversed(levels):
        flow = _resize(flow, start.shape[2:])
        for _ in range(_WARPS):
            step = _step(start, warp(end, flow))
            flow = box(flow + step.clamp(-1, 1), 1)
    return _resize(flow, shape)


def _step(start: Tensor, there: Tensor) -> Tensor:
    middle = functional.pad((start + there) / 2, (1, 1, 1, 1), mode="replicate")
    right = (middle[:, :, 1:-1, 2:] - middle[:, :, 1:-1, :-2]) / 2
    down = (middle[:, :, 2:, 1:-1] - middle[:, :, :-2, 1:-1]) / 2
    change = there - start
    products = torch.cat((right * right, right * down, down * down, right * change, down * change), 1)
    xx, xy, yy, xd, yd = torch.split(box(products, _RADIUS), 1, 1)
    xx, yy = xx + _DAMPING, yy + _DAMPING
    return torch.cat((xy * yd - yy * xd, xy * xd - xx * yd), 1) / (xx * yy - xy * xy)


def _resize(flow: Tensor, shape: torch.Size) -> Tensor:
    height, width = flow.shape[2:]
    if (height, width) == tuple(shape):
        return flow
    factors = flow.new_tensor((shape[1] / width, shape[0] / height)).view(1, 2, 1, 1)
    return functional.interpolate(flow, tuple(shape), mode="bilinear", align_corners=False) * factors
