"""How hard each reduction of L_re pulls at the derainer, beside L_Der, on a run that has rewards.

    python benchmarks/reinforcement.py runs/NAME [--batches 20] [--json FILE]

Prints the norm of each term's gradient on the derainer (median over batches), and its share of L_Der's; L_re
has its factor lambda2. A reduction that pulls a hundred times less than L_Der changes nothing; one that pulls
many times more leaves nothing but imitation of the rewards.
"""

from __future__ import annotations

import argparse
import json
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import get_args

import torch
from rich.console import Console
from torch import Tensor

from trainer.config import read_config
from trainer.launch.assembly import assemble
from trainer.launch.worker import view_of
from trainer.methods.losses import Reduction, psnr_loss, reinforcement_loss, ssim_loss
from trainer.methods.rgsud import RGSUD
from trainer.state.checkpoints import Checkpoints


def pull(method: RGSUD, loss: Tensor) -> float:
    """Norm of a loss's gradient on the derainer."""
    gradients = torch.autograd.grad(loss, list(method.derainer.parameters()), retain_graph=True)
    return torch.stack([gradient.norm() for gradient in gradients]).norm().item()


def main() -> None:
    """Measure at the run's newest checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--batches", type=int, default=20)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()

    config = read_config(chosen.run)
    norms: dict[str, list[float]] = {}
    with ExitStack() as stack:
        checkpoints = Checkpoints(chosen.run / "checkpoints", config.report.keep_checkpoints)
        job = assemble(config, checkpoints, [view_of(config, Console(stderr=True))], stack)
        job.state.load_state_dict(checkpoints.load(None))
        method, weight = job.method, config.method.lambda2
        for number in range(chosen.batches):
            batch = job.batches.batch(job.state.progress.steps + number)
            batch.B_rw, batch.rewarded = job.rewards.crops(batch.crops)
            batch = batch.images().to(method.device)
            O_r, B_u, B_rw, rewarded = batch.O_r, batch.B_u, batch.B_rw, batch.rewarded
            with torch.no_grad():
                O1 = method.G(B_u, method.DEM(O_r, B_rw))
            B1, B_r = method.Der(O1), method.Der(O_r)
            terms = {"L_Der": psnr_loss(B1, B_u) + ssim_loss(B1, B_u)}
            for reduction in get_args(Reduction):
                terms[reduction] = weight * reinforcement_loss(B_r[rewarded], B_rw[rewarded], reduction)
            for name, loss in terms.items():
                norms.setdefault(name, []).append(pull(method, loss))

    figures = {f"{name}_gradient": statistics.median(values) for name, values in norms.items()}
    for name, value in figures.items():
        print(f"{name:16} {value:12.4f} {value / figures['L_Der_gradient']:10.4f} of L_Der")
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
