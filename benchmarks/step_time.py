"""Time of one training step, by part, for the small and the paper's configuration.

    python benchmarks/step_time.py [--quick] [--json FILE]

Each part is timed by itself on the same crops: forward and backward for the networks, the whole update for a
step. Recycling is one candidate (derain, score) of a 481x321 image; data is one batch of cached images.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import PIL.Image
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate
from trainer.batch import Batch
from trainer.config import load_config
from trainer.data.crops import UnpairedBatches
from trainer.data.folders import ImageFolder
from trainer.methods.rgsud import RGSUD
from trainer.models.registry import build_derainer
from trainer.restore.inference import derain_image


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """Median wall time in ms, after one call to warm up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def both_ways(net: nn.Module, *inputs: Tensor) -> Callable[[], None]:
    """Forward and backward of a network."""

    def work() -> None:
        net.zero_grad(set_to_none=True)
        torch.autograd.backward(net(*inputs).square().mean())

    return work


def measure(recipe: str, crop: int, batch: int, repeats: int, photographs: Path) -> dict[str, float]:
    """Times in ms of the parts of one step."""
    folders = [f"data.{side}={photographs}" for side in ("rainy", "clean")]
    config = load_config(recipe, [*folders, f"data.crop={crop}", f"data.batch={batch}"])
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    method = RGSUD(config.method, build_derainer(config.derainer), device)

    def images(count: int) -> Tensor:
        made = torch.rand(count, 3, crop, crop, device=device)
        return made.contiguous(memory_format=torch.channels_last)

    one, two, three = images(batch), images(2 * batch), images(3 * batch)
    folder = ImageFolder(photographs)
    batches = UnpairedBatches(folder, folder, crop=crop, batch=batch, seed=0)
    scorer = open_scorer("local:daclip-lite")
    photograph = folder.load(0)

    def recycle() -> None:
        derained = derain_image(method.derainer, photograph)
        scorer.score([Candidate("x", derained)])

    return {
        "step_ms": median_ms(lambda: method.step(Batch(one, one.clone())), repeats),
        "derainer_ms": median_ms(both_ways(method.derainer, two), repeats),
        "generator_ms": median_ms(both_ways(method.G, one, one), repeats)
        + median_ms(both_ways(method.G, three, three), repeats),
        "dem_ms": 2 * median_ms(both_ways(method.DEM, one), repeats),
        "discriminator_ms": median_ms(both_ways(method.D, images(4 * batch)), repeats)
        + median_ms(both_ways(method.D, two), repeats),
        "recycling_ms": median_ms(recycle, repeats),
        "data_ms": median_ms(lambda: batches.batch(0), repeats),
    }


def main() -> None:
    """Measure, print a table, write the figures."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="the small configuration at crop 64 only")
    arguments.add_argument("--json", type=Path, help="where the figures go")
    chosen = arguments.parse_args()
    cases = [("rain100l-gan", 64, 4, 10)]
    if not chosen.quick:
        cases += [("rain100l-gan", 128, 4, 5), ("paper", 64, 1, 2), ("paper", 128, 1, 2)]

    table = Table(title=f"ms, {torch.get_num_threads()} threads, torch {torch.__version__}")
    figures: dict[str, float] = {}
    with TemporaryDirectory() as scratch:
        noise = np.random.default_rng(0).integers(0, 256, (321, 481, 3), dtype=np.uint8)
        for number in range(2):
            PIL.Image.fromarray(np.roll(noise, number)).save(Path(scratch) / f"{number}.png")
        for recipe, crop, batch, repeats in cases:
            times = measure(recipe, crop, batch, repeats, Path(scratch))
            if not table.columns:
                for heading in ("recipe", "crop", "batch", *(name.removesuffix("_ms") for name in times)):
                    table.add_column(heading, justify="right")
            table.add_row(recipe, str(crop), str(batch), *(f"{value:.1f}" for value in times.values()))
            figures |= {f"{recipe}_crop{crop}_{name}": value for name, value in times.items()}
    Console(width=130).print(table)
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
