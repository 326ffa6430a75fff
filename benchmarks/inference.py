"""How fast images are derained, and in how much memory: in tiles, whole, by a plain loop, by onnxruntime.

    python benchmarks/inference.py [--quick] [--json FILE] [--page FILE]

rgsud-base on one thread, each way in a process of its own, one after the other, as often as there are rounds.
- speed: megapixels per second of the process's own processor time, so that others on the machine take little
  from it; the median of the rounds;
- memory: the largest resident size of the process, Python and its packages included;
- difference: from the plain loop, in grey levels of 255; step: how much it changes from one pixel to its
  neighbour, which is how much a seam between tiles can show.

The photograph is a mosaic of scikit-learn's two, with rendered rain. Last, `rgsud derain` derains one of 24
megapixels.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pages import commit, fill, parser, processor, report, table

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import onnxruntime
import PIL.Image
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images
from torch import Tensor, nn

from rgsud import Derainer
from rgsud_core.degradation.rendered import add_rain, random_look
from rgsud_core.images import Image
from trainer.models.registry import load_derainer
from trainer.restore.inference import TILE, derain_pixels

MODEL = "rgsud-base"
PLAIN = "plain loop, whole"
DIFFERENCES = ("largest difference", "mean difference", "largest step")
PAGE = Path(__file__).parent / "results" / "inference.md"
SIZE, QUICK_SIZE = (1024, 2112), (608, 800)
"""Height and width: more than is derained whole where nobody says how, and multiples of 16, since the network
by itself pads with black."""
LARGE, QUICK_LARGE = (4000, 6000), (1500, 2000)

Pixels = NDArray[np.float32]
Way = Callable[[Image], Pixels]


class Planes(nn.Module):
    """A network in torch's own memory order, one plane of numbers for each channel."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.to(memory_format=torch.contiguous_format)
        self.multiple = network.multiple

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.contiguous())


class Session(nn.Module):
    """An ONNX file, run by onnxruntime on one thread."""

    def __init__(self, file: str) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.run = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"]).run
        self.multiple = 16

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self.run(None, {"rainy": x.contiguous().numpy()})[0])


@cache
def base() -> nn.Module:
    """The model as it is loaded, in channels_last memory order."""
    return load_derainer(MODEL)


@cache
def planes() -> nn.Module:
    """The model in torch's own memory order."""
    return Planes(load_derainer(MODEL))


session = cache(Session)


def plain(image: Image) -> Pixels:
    """What a loop over a network does: one image in, one out."""
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        return planes()(x).clamp(0, 1)[0].permute(1, 2, 0).numpy()


def bfloat16(image: Image) -> Pixels:
    """Tiles in lower precision."""
    with torch.autocast("cpu", torch.bfloat16):
        return derain_pixels(base(), image, tile=TILE)


def ways(file: str) -> dict[str, Way]:
    """What is compared, by name; ``file`` is the model as ONNX."""
    return {
        PLAIN: plain,
        "whole, channels_last": lambda image: derain_pixels(base(), image, tile=0),
        "tiles, planes": lambda image: derain_pixels(planes(), image, tile=TILE),
        "tiles, channels_last (the default)": lambda image: derain_pixels(base(), image, tile=TILE),
        "tiles, channels_last, bfloat16": bfloat16,
        "onnxruntime, whole": lambda image: derain_pixels(session(file), image, tile=0),
        "onnxruntime, tiles": lambda image: derain_pixels(session(file), image, tile=TILE),
    }


def resident() -> float:
    """Largest resident size of this process so far, MB; what was before its program is not counted."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1000


def child(task: dict[str, Any]) -> None:
    """One measurement, in a process of its own; its figures are the last line of the output."""
    if "command" in task:
        from rgsud import cli

        sys.argv = ["rgsud", *task["command"]]
        before, started = resident(), time.process_time()
        cli.main()
    else:
        way, image = ways(task["file"])[task["way"]], np.load(task["image"])
        way(image[:TILE, :TILE])
        before, started = resident(), time.process_time()
        np.save(task["result"], way(image))
    print(json.dumps({"seconds": time.process_time() - started, "peak": resident(), "before": before}))


def measured(task: dict[str, Any]) -> dict[str, float]:
    """The figures of a measurement in a process of its own."""
    command = [sys.executable, __file__, "--task", json.dumps(task)]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return figures


def photograph(height: int, width: int) -> Image:
    """A mosaic of two rainy photographs and their mirror images."""
    rng = np.random.default_rng(0)
    scenes = np.concatenate(load_sample_images().images, axis=1)
    rainy = add_rain(scenes, random_look(rng), rng)
    missing = [
        (0, max(0, wanted - there)) for wanted, there in zip((height, width), rainy.shape, strict=False)
    ]
    return np.ascontiguousarray(np.pad(rainy, (*missing, (0, 0)), mode="reflect")[:height, :width])


def compared(size: tuple[int, int], rounds: int, scratch: Path) -> dict[str, dict[str, float]]:
    """The figures of each way, on a photograph of this height and width."""
    image, file = scratch / "image.npy", str(scratch / "model.onnx")
    np.save(image, photograph(*size))
    Derainer.load(MODEL).export(file)
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways(file)}
    for _ in range(rounds):
        for number, (way, measurements) in enumerate(found.items()):
            result = str(scratch / f"{number}.npy")
            task = {"way": way, "image": str(image), "file": file, "result": result}
            measurements.append(measured(task))
    figures: dict[str, dict[str, float]] = {}
    first = np.load(scratch / "0.npy")
    for number, (way, measurements) in enumerate(found.items()):
        speed = size[0] * size[1] / 1e6 / statistics.median(one["seconds"] for one in measurements)
        change = 255 * (np.load(scratch / f"{number}.npy") - first)
        figures[way] = {
            "megapixels/s": speed,
            "of the plain loop": speed / figures[PLAIN]["megapixels/s"] if figures else 1.0,
            "peak, MB": max(one["peak"] for one in measurements),
            "largest difference": float(np.abs(change).max()),
            "mean difference": float(np.abs(change).mean()),
            "largest step": max(float(np.abs(np.diff(change, axis=axis)).max()) for axis in (0, 1)),
        }
    return figures


def derained(size: tuple[int, int], scratch: Path) -> dict[str, float]:
    """The figures of the command on a JPEG photograph of this height and width."""
    source, target = scratch / "large.jpg", scratch / "derained.jpg"
    PIL.Image.fromarray(photograph(*size)).save(source, quality=95)
    return measured({"command": ["derain", str(source), str(target)]})


def main() -> None:
    """Measure, print, write the figures and the page."""
    options = parser(__doc__)
    options.add_argument("--page", type=Path, help=f"where the page goes; {PAGE} unless --quick")
    options.add_argument("--task", type=json.loads, help="one measurement, for this program's own use")
    chosen = options.parse_args()
    torch.set_num_threads(1)
    if chosen.task:
        child(chosen.task)
        return
    size, large, rounds = (QUICK_SIZE, QUICK_LARGE, 1) if chosen.quick else (SIZE, LARGE, 3)
    with TemporaryDirectory() as scratch:
        figures = compared(size, rounds, Path(scratch))
        command = derained(large, Path(scratch))
    rows = [
        [
            way,
            f"{each['megapixels/s']:.2f}",
            f"{each['of the plain loop']:.2f}",
            f"{each['peak, MB']:.0f}",
            *(f"{each[what]:.2g}" for what in DIFFERENCES),
        ]
        for way, each in figures.items()
    ]
    measurements = table(["", "megapixels/s", "of the plain loop", "peak, MB", *DIFFERENCES], rows)
    flat = {f"{way}: {what}": value for way, each in figures.items() for what, value in each.items()}
    report(flat | {f"command: {what}": value for what, value in command.items()}, chosen.json)
    print(measurements)
    page = chosen.page or (None if chosen.quick else PAGE)
    if page:
        fill(
            "inference.md",
            page,
            commit=commit(),
            machine=f"{processor()}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}",
            table=measurements,
            size=f"{size[1]} x {size[0]}",
            rounds=rounds,
            large=f"{large[1]} x {large[0]}",
            peak=command["peak"],
            before=command["before"],
            seconds=command["seconds"],
        )


if __name__ == "__main__":
    main()
