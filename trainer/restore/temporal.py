"""What a film shows of its rain and a single frame does not: a streak lasts one frame, the scene stays.

A derainer sees frames one by one: what it leaves of the rain, and what it takes of the scene, flickers. Here
the frame before and the frame after are aligned with each frame, and three things follow:

- Rain only adds light. Light that the derainer took away, and that the frames before and after show alike in
  the same place, is scene: it comes back. In a downpour all three show some, but not the same.
- A little light that neither of them shows is rain that the derainer left: it goes. Since a thing that moves
  too fast for the alignment looks the same, that is done for faint light only, by 6 levels of 255 at most.
- The result is a mean of the frame and of its neighbours, each pixel weighted by how far it can be relied on:
  less where the derainer took much away, and less where the neighbour differs from the frame around that
  pixel, as it does where things move in ways that the alignment has not found. There the frame stays as it
  is, and nothing ghosts.

The past takes part as a running mean, so that what is steady gets steadier from frame to frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.restore.motion import box, find_flow, warp

# Chosen on eight films of 8 to 16 frames with rendered rain, by PSNR, by flicker, and by the worst frame.
_NOISE = 0.003
"""Standard deviation of a pixel that nothing was taken from, in [0,1]."""
_TAKEN = 0.7
"""Share of the light that was taken from a pixel which is its standard deviation."""
_DRIFT = 0.003
"""Standard deviation that one alignment adds."""
_RADIUS = 5
"""Of the surroundings in which frames are compared."""
_ALIKE = 1.5
"""Squared difference, in that to be expected by chance, up to which frames count as aligned."""
_MISFIT = 4.0
"""Variance that a neighbour gets for each squared difference beyond it."""
_MARGIN = 0.5
"""Standard deviations of a neighbour's misfit by which its light must exceed what is brought back."""
_NEAR, _DIFFER = 2, 1.5
"""Radius in which the darkest of three frames is compared with the middle one, and by how many times their
mean difference its light must exceed what is brought back."""
_SLACK = 0.004
"""Light beyond that of both neighbours that stays, for noise."""
_FAINT = 0.1
"""Light beyond that of both neighbours which is taken for a thing that moves, not for rain."""
_LUMA = (0.299, 0.587, 0.114)


@dataclass
class _Frame:
    rainy: Tensor
    derained: Tensor
    grey: Tensor
    variance: Tensor
    mean: Tensor | None = None
    """The running mean up to this frame, and its variance."""
    mean_variance: Tensor | None = None


class TemporalFilter:
    """Makes the derained frames of a film consistent, one frame behind.

    Args:
        device: where it is worked out.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        self._past: _Frame | None = None
        self._now: _Frame | None = None
        self._type: np.dtype[np.generic] = np.dtype(np.uint8)

    @torch.inference_mode()
    def push(self, rainy: NDArray[np.generic], derained: NDArray[np.generic]) -> NDArray[np.generic] | None:
        """Takes a frame, uint8 or uint16 H,W,3 RGB, as it is and derained; gives the one before it."""
        self._type = derained.dtype
        frame = self._frame(rainy, derained)
        result = self._settle(frame)
        self._now = frame
        return result

    @torch.inference_mode()
    def end(self) -> NDArray[np.generic] | None:
        """The last frame; the next one that is pushed begins another film."""
        result = self._settle(None)
        self._past = self._now = None
        return result

    def _frame(self, rainy: NDArray[np.generic], derained: NDArray[np.generic]) -> _Frame:
        before, after = (
            (torch.from_numpy(pixels).to(self._device).permute(2, 0, 1)[None].float() / self._peak)
            for pixels in (rainy, derained)
        )
        luma = torch.tensor(_LUMA, device=self._device).view(1, 3, 1, 1)
        return _Frame(before, after, (after * luma).sum(1, keepdim=True), _variance(before, after))

    @property
    def _peak(self) -> int:
        return int(2 ** (8 * self._type.itemsize)) - 1

    def _settle(self, future: _Frame | None) -> NDArray[np.generic] | None:
        now = self._now
        if now is None:
            return None
        past, self._past = self._past, now
        neighbours = [_Neighbour(now, other) for other in (past, future) if other is not None]
        derained, variance = now.derained, now.variance
        if len(neighbours) == 2:
            seen = torch.stack((now.rainy, neighbours[0].stays, neighbours[1].stays)).sort(dim=0).values
            # In a downpour all three show rain there, but not the same.
            differ = box((seen[1] - seen[0]).mean(1, keepdim=True), _NEAR)
            derained = torch.maximum(derained, seen[0] - _DIFFER * differ)
            brightest = torch.maximum(neighbours[0].brightest, neighbours[1].brightest)
            beyond = (derained - brightest).clamp(min=0).mean(1, keepdim=True)
            derained = derained - beyond * (1 - beyond / _FAINT).clamp(min=0)
            variance = _variance(now.rainy, derained)
        total, weight = derained / variance, 1 / variance
        now.mean, now.mean_variance = derained, variance
        for other in neighbours:
            total, weight = total + other.mean / other.variance, weight + 1 / other.variance
            if other.is_past:
                now.mean, now.mean_variance = total / weight, 1 / weight
        result = (total / weight).clamp(0, 1) * self._peak
        return result.round()[0].permute(1, 2, 0).cpu().numpy().astype(self._type)


class _Neighbour:
    """A frame beside another one, aligned with it."""

    def __init__(self, now: _Frame, other: _Frame) -> None:
        flow = find_flow(now.grey, other.grey)
        derained = warp(other.derained, flow, "bicubic")
        chance = 1 / (warp(other.variance, flow) + now.variance + _DRIFT**2)
        # Pixels that can be relied on say whether a place is aligned, also for those among them that cannot.
        expected = 1 / box(chance, _RADIUS)
        change = derained - now.derained

        def misfit_of(change: Tensor) -> Tensor:
            found = box(change.square().mean(1, keepdim=True) * chance, _RADIUS) * expected
            return _DRIFT**2 + _MISFIT * (found - _ALIKE * expected).clamp(min=0)

        misfit = misfit_of(change)
        self.stays = warp(other.rainy, flow, "bicubic") - _MARGIN * misfit.sqrt()
        """Light that the neighbour shows too, N,3,H,W; it lacks what may be a fault of the alignment."""
        # Rain that was left makes the frame brighter; where it is darker, the alignment does not fit.
        fit = misfit_of(math.sqrt(2) * change.clamp(min=0))
        self.brightest = derained + fit.sqrt() + _SLACK
        """Light up to which the scene of the frame may be as bright as the neighbour's, N,3,H,W."""
        self.is_past = other.mean is not None and other.mean_variance is not None
        self.mean, variance = derained, other.variance
        if other.mean is not None and other.mean_variance is not None:
            self.mean, variance = warp(other.mean, flow, "bicubic"), other.mean_variance
        self.variance = warp(variance, flow) + misfit


def _variance(rainy: Tensor, derained: Tensor) -> Tensor:
    """Of derained pixels, N,1,H,W: where much was taken away, the derainer has made up what is there."""
    return _NOISE**2 + (_TAKEN * (rainy - derained).abs().mean(1, keepdim=True)).square()
