"""Communication between the workers that train one model; none where there is one worker.

Gradients are averaged after the backward pass, network by network, instead of by DistributedDataParallel: a
worker whose crops all have rewards skips DEM's U-Net, others do not, and DDP does not support that.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn


def workers() -> int:
    """Number of workers that train this model."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this worker, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Make every gradient its mean over the workers; where a worker has none it counts as zero.

    A parameter without gradient on all workers stays without, so that its optimiser leaves it alone.
    """
    if workers() == 1:
        return
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    present = torch.tensor([p.grad is not None for p in learning], device=learning[0].device).float()
    gradients = [p.new_zeros(p.shape) if p.grad is None else p.grad for p in learning]
    flat = torch.cat([present, *(gradient.reshape(-1) for gradient in gradients)])
    dist.all_reduce(flat)
    found, *means = torch.split(flat / workers(), [len(learning), *(p.numel() for p in learning)])
    for parameter, anywhere, mean in zip(learning, found.tolist(), means, strict=True):
        # In the parameter's own memory format, as a fused optimiser expects it.
        parameter.grad = torch.empty_like(parameter).copy_(mean.view(parameter.shape)) if anywhere else None


def mean_over_workers(value: Tensor) -> Tensor:
    """The mean of a tensor, not differentiated."""
    if workers() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / workers()


def as_worker_0(*values: int) -> tuple[int, ...]:
    """The values of worker 0, for decisions that all workers must take alike."""
    if workers() == 1:
        return values
    said = torch.tensor(values, dtype=torch.int64, device=_device())
    dist.broadcast(said, src=0)
    return tuple(said.tolist())


def sum_over_workers(*values: int) -> tuple[int, ...]:
    """Sums over the workers, all of which must call it."""
    if workers() == 1:
        return values
    total = torch.tensor(values, dtype=torch.int64, device=_device())
    dist.all_reduce(total)
    return tuple(total.tolist())


def wait_for_all() -> None:
    """A barrier: return when every worker has called it."""
    if workers() > 1:
        dist.barrier()


def _device() -> torch.device:
    return (
        torch.device("cuda", torch.cuda.current_device())
        if dist.get_backend() == "nccl"
        else torch.device("cpu")
    )
