"""A small RGSUD and what its tests look at."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.methods.base import Method
from trainer.methods.rgsud import RGSUD, RGSUDSettings
from trainer.models.nafnet import NAFNet, NAFNetSettings

N = 3
TINY: dict[str, Any] = {
    "generator": {"width": 8, "blocks": 1},
    "dem": {"width": 4, "levels": 2},
    "discriminator": {"width": 4, "layers": 2},
}


def ripe(module: nn.Module, seed: int) -> None:
    """Weights as after some training: none of those that start at zero is."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if not parameter.any():
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def method(**changes: Any) -> RGSUD:
    """The same weights whatever the settings."""
    torch.manual_seed(0)
    derainer = NAFNet(NAFNetSettings(width=4, encoder=(1,), middle=1, decoder=(1,)))
    rgsud = RGSUD(RGSUDSettings.model_validate(TINY | changes), derainer)
    for seed, module in enumerate((rgsud.derainer, rgsud.G, rgsud.DEM)):
        if module is not None:
            ripe(module, seed)
    rgsud.averaged.load_state_dict(rgsud.derainer.state_dict())
    return rgsud


def batch(number: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """O_r, B_u and B_rw."""
    images = torch.rand(3, N, 3, 32, 32, generator=torch.Generator().manual_seed(number))
    return images[0], images[1], images[2]


def step(
    made: Method,
    O_r: Tensor,
    B_u: Tensor,
    B_rw: Tensor | None = None,
    rewarded: Tensor | None = None,
    R: Tensor | None = None,
) -> dict[str, Tensor]:
    return made.step(Batch(O_r, B_u, [], B_rw, rewarded, {} if R is None else {"flat": R}))


def weights(module: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in module.state_dict().values()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    assert len(a) == len(b) > 0
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def gradients(*modules: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.clone() for m in modules for p in m.parameters()]


def record(module: nn.Module) -> list[Tensor]:
    """What the module returns from now on, call by call."""
    outputs: list[Tensor] = []
    module.register_forward_hook(lambda _module, _args, out: outputs.append(out.detach().clone()))
    return outputs
