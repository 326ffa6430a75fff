"""What the rewards are worth: runs of equal total time on real data sets, with controls.

    python benchmarks/rain100l_mini.py DATA [--runs stage1 daclip ...] [--seeds 0 1 2] [--quick] [--json FILE]

DATA holds rain100l/train/{rainy,truth}, rain100l/val/{rainy,clean} and rain800/train/clean. Every run has the
same time, evaluation excluded and work for the pool counted. It is processor time over two, so that two runs
side by side, or other work on the machine, change no figure; start each with OMP_NUM_THREADS=1. The runs of a
seed share their first part, stage 1 without a pool. What is done is not done again, and what was cut off goes
on from its last checkpoint; the page is written from whatever is there.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import matplotlib
import torch
from rich.console import Console
from torch import nn

from pool_store.client import Pool
from trainer.config import Config, load_config
from trainer.data.crops import PairedBatches
from trainer.data.folders import ImageFolder, PairedFolder
from trainer.evaluation import Scores, evaluate_pairs, psnr_y
from trainer.inference import derain_image
from trainer.launch import assemble, view_of
from trainer.losses import psnr_loss, ssim_loss
from trainer.models.derainers import build_derainer
from trainer.state import Checkpoints, Progress, writing
from trainer.train import Job, finished, train

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SHARED = 0.4
"""Part of the time that the runs of a seed have in common."""
LITE = "recycling.scorer=local:daclip-lite?consistency=0.25"
RUNS: dict[str, tuple[str, list[str]]] = {
    "stage1": ("a. stage 1 alone", ["schedule.stage2_from=never", "schedule.recycle_from=2.0"]),
    "daclip": ("b. both stages, daclip-lite", [LITE]),
    "oracle": ("c. oracle scorer (true PSNR)", ["recycling.scorer=local:oracle?truth={truth}"]),
    "latest": ("d. latest always wins", ["recycling.scorer=local:latest?start={steps}"]),
    "supervised": ("e. supervised", []),
    "lite": ("daclip-lite, no consistency", ["recycling.scorer=local:daclip-lite"]),
    "mean": ("L_re as a mean over pixels", [LITE, "method.reinforcement=mean"]),
    "sum": ("L_re as a sum over pixels", [LITE, "method.reinforcement=sum"]),
    "mean3": ("mean of the best 3", [LITE, "recycling.keep=3", "recycling.reward=mean"]),
    "minimum3": ("minimum of the best 3", [LITE, "recycling.keep=3", "recycling.reward=minimum"]),
    "teacher": ("candidates of the averaged weights", [LITE, "recycling.weights=averaged"]),
    "mean5": (
        "mean of the last 5, no scorer",
        ["recycling.scorer=local:latest?start={steps}", "recycling.keep=5", "recycling.reward=mean"],
    ),
}


def clock() -> float:
    """Processor time of all threads, as if spread over two cores, in seconds."""
    return time.process_time() / 2


class Recorder:
    """Evaluates raw and averaged weights and the pool's true quality into records.jsonl."""

    def __init__(self, folder: Path, validation: PairedFolder, truth: ImageFolder) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "records.jsonl"
        self._validation = validation
        self._truth = truth

    def evaluate(self, raw: nn.Module, averaged: nn.Module, progress: Progress, pool: Pool | None) -> None:
        line: dict[str, Any] = {"seconds": progress.seconds, "steps": progress.steps, "stage": progress.stage}
        for name, net in (("raw", raw), ("ema", averaged)):
            measured = evaluate_pairs(lambda image, net=net: derain_image(net, image), self._validation)
            line[name] = measured.output.model_dump()
            line["input"] = measured.input.model_dump()
        if pool is not None:
            rewards = {entry.id: pool.image(entry.candidates[0].digest) for entry in pool.scan()}
            true = [psnr_y(image, self._truth.load_id(id)) for id, image in rewards.items()]
            line["pool_psnr_y"] = statistics.fmean(true) if true else None
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def configure(
    data: Path, out: Path, seed: int, run: str, seconds: float, evaluate_every: int, record: bool = False
) -> Config:
    """The recipe with a run's settings."""
    # A resumed run goes on counting above what its pool holds: one candidate every few steps at most.
    files = Checkpoints(out / f"seed{seed}/{run}/checkpoints", 1).files()
    steps = int(files[-1].stem.removeprefix("step-")) if files else 0
    settings = [setting.format(truth=data / "rain100l/train/truth", steps=steps) for setting in RUNS[run][1]]
    if record:
        settings.append(f"recycling.record={out}/seed{seed}/{run}/record")
    places = {
        "rainy": "rain100l/train/rainy",
        "clean": "rain800/train/clean",
        "validation_rainy": "rain100l/val/rainy",
        "validation_clean": "rain100l/val/clean",
    }
    return load_config(
        "rain100l-mini",
        [
            *(f"data.{key}={data / place}" for key, place in places.items()),
            f"runs={out}/seed{seed}",
            f"seed={seed}",
            f"schedule.samples={10**9}",
            f"schedule.seconds={seconds}",
            f"schedule.recycle_from={SHARED}",
            f"report.evaluate_every={evaluate_every}",
            f"report.checkpoint_every={evaluate_every}",
            f"report.sheet_every={10**9}",
            *settings,
        ],
    )


def unpaired(config: Config, name: str, truth: ImageFolder, until: float, start: Path | None) -> Path:
    """Train until a share of the time, from a checkpoint of another run where given; the last checkpoint."""
    config = config.model_copy(update={"name": name})
    checkpoints = Checkpoints(config.folder / "checkpoints", config.report.keep_checkpoints)
    with ExitStack() as stack:
        job: Job = assemble(config, checkpoints, [view_of(config, Console(stderr=True))], stack)
        validation = PairedFolder(config.data.validation_rainy or "", config.data.validation_clean or "")
        recorder = Recorder(config.folder, validation, truth)
        job.clock = clock
        if checkpoints.files() or start:
            job.state.load_state_dict(checkpoints.load(None if checkpoints.files() else start))
        assert config.schedule.seconds is not None
        limit = until * config.schedule.seconds
        job.stopping = lambda: job.state.progress.seconds >= limit
        method = job.method
        job.reporter.evaluate = lambda net, progress: recorder.evaluate(  # type: ignore[method-assign]
            method.derainer, method.averaged, progress, job.state.pool if job.recycler.counts.scored else None
        )
        if not (finished(config, job.state.progress) or job.stopping()):
            train(job)
    return checkpoints.files()[-1]


def supervised(config: Config, truth: Path, evaluate_every: int) -> None:
    """The same derainer, on the rainy images and their ground truth."""
    validation = PairedFolder(config.data.validation_rainy or "", config.data.validation_clean or "")
    recorder = Recorder(config.runs / "supervised", validation, ImageFolder(truth))
    pairs = PairedFolder(config.data.rainy, truth)
    batches = PairedBatches(pairs, crop=config.data.crop, batch=config.data.batch, seed=config.seed)
    torch.manual_seed(config.seed)
    net = build_derainer(config.derainer, identity_start=True).to(memory_format=torch.channels_last)
    averaged = copy.deepcopy(net).requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=config.method.derainer_optimizer.lr)
    progress = Progress()
    checkpoint = config.runs / "supervised/checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(saved["net"])
        averaged.load_state_dict(saved["averaged"])
        optimizer.load_state_dict(saved["optimizer"])
        progress = Progress(**saved["progress"])
    while progress.seconds < (config.schedule.seconds or 0):
        started = clock()
        batch = batches.batch(progress.steps)
        rainy, clean = (
            part.float().div(255).contiguous(memory_format=torch.channels_last)
            for part in (batch.rainy, batch.clean)
        )
        derained = net(rainy)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(psnr_loss(derained, clean) + ssim_loss(derained, clean))
        optimizer.step()
        progress.steps += 1
        decay = min(config.method.ema, progress.steps / (progress.steps + 10))
        with torch.no_grad():
            for average, weight in zip(averaged.parameters(), net.parameters(), strict=True):
                average.lerp_(weight, 1 - decay)
        progress.seconds += clock() - started
        if progress.steps % evaluate_every == 0:
            recorder.evaluate(net, averaged, progress, None)
            state = {
                "net": net.state_dict(),
                "averaged": averaged.state_dict(),
                "optimizer": optimizer.state_dict(),
                "progress": {"steps": progress.steps, "seconds": progress.seconds},
            }
            with writing(checkpoint) as temporary:
                torch.save(state, temporary)


def records(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a run, in order of time; what was repeated after a resume counts once."""
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return list({line["steps"]: line for line in sorted(lines, key=lambda line: line["steps"])}.values())


def curves(out: Path) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """What there is, run by run and seed by seed, with the shared part before it."""
    found = {}
    for name in RUNS:
        for path in sorted(out.glob(f"seed*/{name}/records.jsonl")):
            before = path.parents[1] / "shared"
            shared = records(before) if name != "supervised" and before.exists() else []
            found[name, int(path.parents[1].name.removeprefix("seed"))] = shared + records(path.parent)
    return found


def draw(found: dict[tuple[str, int], list[dict[str, Any]]], path: Path) -> None:
    """The three measures of averaged (raw: thin) weights, and the true PSNR of the pool, over time."""
    figure, axes = plt.subplots(2, 2, figsize=(13, 8), constrained_layout=True)
    panels = zip(axes.flat[:3], ("psnr_y", "ssim_y", "psnr_rgb"), strict=True)
    colours = {name: f"C{index}" for index, name in enumerate(RUNS)}
    for axis, metric in panels:
        for (name, _), lines in found.items():
            minutes = [line["seconds"] / 60 for line in lines]
            axis.plot(minutes, [line["ema"][metric] for line in lines], color=colours[name])
            axis.plot(minutes, [line["raw"][metric] for line in lines], color=colours[name], lw=0.4)
        axis.set(xlabel="minutes", ylabel=metric)
        bound = [lines[-1]["ema"][metric] for (name, _), lines in found.items() if name == "supervised"]
        unpaired = [
            line[weights][metric]
            for (name, _), lines in found.items()
            for line in lines
            for weights in ("raw", "ema")
            if name != "supervised"
        ]
        if bound and unpaired:  # far above, where it would flatten the rest
            margin = 0.05 * (max(unpaired) - min(unpaired))
            axis.set_ylim(min(unpaired) - margin, max(unpaired) + margin)
            axis.set_title(f"{RUNS['supervised'][0]} ends at {bound[0]:.4g}, above the frame", fontsize=9)
    for (name, seed), lines in found.items():
        pooled = [line for line in lines if line.get("pool_psnr_y")]
        label = RUNS[name][0] if seed == 0 and name != "supervised" else None
        minutes = [line["seconds"] / 60 for line in pooled]
        axes.flat[3].plot(minutes, [line["pool_psnr_y"] for line in pooled], color=colours[name], label=label)
    axes.flat[3].set(xlabel="minutes", ylabel="true PSNR-Y of the pool's rewards")
    axes.flat[3].legend(fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def figures(found: dict[tuple[str, int], list[dict[str, Any]]]) -> dict[str, float]:
    """Flat figures: mean and spread (maximum less minimum) of each run's last five evaluations."""
    flat: dict[str, float] = {}
    for (name, seed), lines in found.items():
        run, last = f"{name}_seed{seed}", lines[-5:]
        flat |= {f"input_{metric}": value for metric, value in lines[-1]["input"].items()}
        flat[f"{run}_steps"] = lines[-1]["steps"]
        if lines[-1].get("pool_psnr_y"):
            flat[f"{run}_pool_psnr_y"] = lines[-1]["pool_psnr_y"]
        for weights in ("raw", "ema"):
            for metric in Scores.model_fields:
                values = [line[weights][metric] for line in last]
                flat[f"{run}_{weights}_{metric}"] = statistics.fmean(values)
                flat[f"{run}_{weights}_{metric}_spread"] = max(values) - min(values)
    return flat


def table(found: dict[tuple[str, int], list[dict[str, Any]]]) -> str:
    """The figures in Markdown, a line for each run."""
    flat = figures(found)
    columns = ("raw_psnr_y", "raw_psnr_y_spread", "ema_psnr_y", "ema_psnr_y_spread", "ema_psnr_rgb")
    lines = [
        "| run | seed | steps | raw PSNR-Y | spread | EMA PSNR-Y | spread | EMA RGB | EMA SSIM-Y | pool |",
        "|" + "---|" * 10,
    ]
    for name, seed in found:
        run = f"{name}_seed{seed}"
        cells = [RUNS[name][0], str(seed), f"{flat[f'{run}_steps']:.0f}"]
        cells += [f"{flat[f'{run}_{column}']:.2f}" for column in columns]
        cells += [f"{flat[f'{run}_ema_ssim_y']:.4f}", f"{flat.get(f'{run}_pool_psnr_y', 0):.2f}"]
        lines.append(f"| {' | '.join(cells)} |".replace("| 0.00 |", "| |"))
    return "\n".join(lines)


def summary(found: dict[tuple[str, int], list[dict[str, Any]]]) -> str:
    """The runs in Markdown, the mean over the seeds of each with the lowest and the highest."""
    flat = figures(found)
    columns = {
        "ema_psnr_y": "EMA PSNR-Y",
        "ema_ssim_y": "EMA SSIM-Y",
        "ema_psnr_rgb": "EMA RGB",
        "raw_psnr_y": "raw PSNR-Y",
        "raw_psnr_y_spread": "raw spread",
        "pool_psnr_y": "pool",
    }
    lines = [f"| run | seeds | {' | '.join(columns.values())} |", "|" + "---|" * (len(columns) + 2)]
    for name in RUNS:
        seeds = [seed for run, seed in found if run == name]
        cells = [RUNS[name][0], str(len(seeds))]
        for column in columns:
            values = [flat[key] for seed in seeds if (key := f"{name}_seed{seed}_{column}") in flat]
            digits = 4 if "ssim" in column else 2
            cell = f"{statistics.fmean(values):.{digits}f}" if values else ""
            cells.append(
                cell
                + (
                    f" ({min(values):.2f} to {max(values):.2f})"
                    if column == "ema_psnr_y" and len(values) > 1
                    else ""
                )
            )
        if seeds:
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what is asked for, draw the curves, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", nargs="*", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--out", type=Path, default=Path("runs/rain100l-mini"))
    parser.add_argument("--seconds", type=float, default=780.0, help="of each run")
    parser.add_argument("--evaluate-every", type=int, default=100, help="steps")
    parser.add_argument("--record", action="store_true", help="keep every candidate, for scorer_quality.py")
    parser.add_argument(
        "--quick", action="store_true", help="a few seconds of stage 1 and daclip, for a look"
    )
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.seconds, chosen.evaluate_every, chosen.out = (
            8.0,
            8,
            chosen.out.with_name("rain100l-mini-quick"),
        )
        chosen.runs = ["stage1", "daclip"]
    # As many threads as the time is counted for: more would only wait for each other.
    torch.set_num_threads(1)

    truth = chosen.data / "rain100l/train/truth"
    for seed in chosen.seeds:
        for name in chosen.runs:
            config = configure(
                chosen.data, chosen.out, seed, name, chosen.seconds, chosen.evaluate_every, chosen.record
            )
            if name == "supervised":
                supervised(config, truth, chosen.evaluate_every)
                continue
            common = configure(chosen.data, chosen.out, seed, "stage1", chosen.seconds, chosen.evaluate_every)
            start = unpaired(common, "shared", ImageFolder(truth), SHARED, None)
            unpaired(config, name, ImageFolder(truth), 1.0, start)

    found = curves(chosen.out)
    draw(found, chosen.out / "curves.png")
    flat = figures(found)
    print(summary(found), table(found), sep="\n\n")
    if chosen.json:
        chosen.json.write_text(json.dumps(flat, indent=2) + "\n")


if __name__ == "__main__":
    main()
