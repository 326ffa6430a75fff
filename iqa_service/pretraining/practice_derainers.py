"""Small derainers trained alongside the scorer, so that it sees real artefacts of every stage of training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

_WIDTH = 24


def _derainer() -> nn.Sequential:
    """A network at half resolution from N,3,H,W in [0,1] to its correction, which is zero at first."""
    layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, _WIDTH, 3, padding=1), nn.GELU()]
    for _ in range(3):
        layers += [nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), nn.GELU()]
    last = nn.Conv2d(_WIDTH, 12, 3, padding=1)
    nn.init.zeros_(last.weight)
    return nn.Sequential(*layers, last, nn.PixelShuffle(2))


class PracticeDerainers:
    """A few derainers at different stages; each starts anew after a random number of steps.

    Args:
        count: derainers at once.
        lifetime: largest number of steps before a derainer starts anew.
        rng: source of lifetimes, losses and perturbations.
    """

    def __init__(self, count: int, lifetime: int, rng: np.random.Generator) -> None:
        self._lifetime, self._rng = lifetime, rng
        self._turn = 0
        self._members = [self._new() for _ in range(count)]

    def train(self, clean: Tensor, rainy: Tensor) -> None:
        """One supervised step of one derainer on float N,3,H,W in [0,1]."""
        self._turn = (self._turn + 1) % len(self._members)
        network, optimiser, left, power = self._members[self._turn]
        optimiser.zero_grad()
        (rainy + network(rainy) - clean).abs().pow(power).mean().backward()
        optimiser.step()
        trained = (network, optimiser, left - 1, power)
        self._members[self._turn] = trained if left > 1 else self._new()

    @torch.no_grad()
    def derain(self, rainy: Tensor) -> Tensor:
        """Each rainy image, float N,3,H,W in [0,1], derained by a random member with perturbed weights.

        The perturbation imitates the swings of adversarial training: colours drift, textures and
        checkerboards come and go.
        """
        out = []
        for image in rainy:
            network = self._members[int(self._rng.integers(len(self._members)))][0]
            amount = float(self._rng.choice([0, self._rng.uniform(0, 0.4)]))
            perturbed = {
                name: value + amount * float(value.std(correction=0)) * torch.randn_like(value)
                for name, value in network.named_parameters()
            }
            out.append((image + functional_call(network, perturbed, (image[None],))[0]).clamp(0, 1))
        return torch.stack(out)

    def _new(self) -> tuple[nn.Sequential, torch.optim.Optimizer, int, float]:
        network = _derainer()
        optimiser = torch.optim.Adam(network.parameters(), lr=float(self._rng.choice([5e-4, 1e-3, 3e-3])))
        return network, optimiser, int(self._rng.integers(1, self._lifetime)), float(self._rng.choice([1, 2]))
