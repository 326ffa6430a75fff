"""Tables, curves and pictures of what_teaches.py."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from PIL import Image

from trainer.data.pairing import PairedFolder
from trainer.models.registry import load_derainer
from trainer.restore.evaluation import Scores
from trainer.restore.inference import derain_image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

Found: TypeAlias = dict[tuple[str, int], list[dict[str, Any]]]
"""The evaluations of runs, by name and seed."""
BOUNDS = ("true_rain", "supervised")
SHOWN = 3
"""Photographs on the sheet."""


def records(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a run, in order of time; what was repeated after a resume counts once."""
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return list({line["steps"]: line for line in sorted(lines, key=lambda line: line["steps"])}.values())


def curves(out: Path, runs: Mapping[str, str]) -> Found:
    """What there is, run by run and seed by seed, with the part that it shares with others before it."""
    found: Found = {}
    for name, before in runs.items():
        for path in sorted(out.glob(f"seed*/{name}/records.jsonl")):
            part = path.parents[1] / before
            # Where evaluations are rare there may be none in the shared part.
            shared = records(part) if before and (part / "records.jsonl").exists() else []
            found[name, int(path.parents[1].name.removeprefix("seed"))] = shared + records(path.parent)
    return found


def draw(found: Found, labels: Mapping[str, str], path: Path) -> None:
    """PSNR-Y of averaged (raw: thin) weights over time, that of the pool, and what each run gained over the
    first one of its heading on the same seed; a row of panels for each heading."""
    flat = figures(found)
    headings: dict[str, list[str]] = {}
    for name in labels:
        if name not in BOUNDS and any(name == run for run, _ in found):
            headings.setdefault(labels[name].partition(": ")[0], []).append(name)
    figure, axes = plt.subplots(
        len(headings),
        3,
        figsize=(15, 1.5 + sum(max(2.6, 0.4 * len(names)) for names in headings.values())),
        height_ratios=[max(2.6, 0.4 * len(names)) for names in headings.values()],
        squeeze=False,
        layout="constrained",
    )
    for (trained, pooled, gains), (heading, names) in zip(axes, headings.items(), strict=True):
        for place, name in enumerate(names):
            colour = plt.get_cmap("tab10")(place % 10)
            for (run, seed), lines in found.items():
                if run != name:
                    continue
                minutes = [line["seconds"] / 60 for line in lines]
                trained.plot(minutes, [line["ema"]["psnr_y"] for line in lines], color=colour)
                trained.plot(minutes, [line["raw"]["psnr_y"] for line in lines], color=colour, lw=0.3)
                graded = [line for line in lines if line.get("pool_psnr_y")]
                if graded:
                    pooled.plot(
                        [line["seconds"] / 60 for line in graded],
                        [line["pool_psnr_y"] for line in graded],
                        color=colour,
                        marker="." if len(graded) == 1 else None,
                    )
                if base := flat.get(f"{names[0]}_seed{seed}_ema_psnr_y"):
                    gain = flat[f"{name}_seed{seed}_ema_psnr_y"] - base
                    gains.plot(gain, place, "o", color=colour, alpha=0.7)
        trained.set(title=heading, xlabel="minutes", ylabel="PSNR-Y, dB")
        pooled.set(title="what the pool serves", xlabel="minutes", ylabel="true PSNR-Y, dB")
        if not pooled.lines:
            pooled.set_axis_off()
        gains.axvline(0, color="gray", lw=0.5)
        gains.yaxis.tick_right()
        gains.set(title=f"against: {labels[names[0]].partition(': ')[2]}", xlabel="dB PSNR-Y, a dot a seed")
        gains.set_yticks(range(len(names)), [labels[name].partition(": ")[2] for name in names], fontsize=8)
        gains.set_ylim(len(names) - 0.5, -0.5)
    # Far above, where their curves would flatten the rest.
    ends = [
        f"{labels[name]}, ends at {lines[-1]['ema']['psnr_y']:.2f} dB"
        for (name, _), lines in found.items()
        if name in BOUNDS
    ]
    figure.suptitle("\n".join(ends), fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def figures(found: Found) -> dict[str, float]:
    """Flat figures: mean and spread (maximum less minimum) of the evaluations in a run's last fifth."""
    flat: dict[str, float] = {}
    for (name, seed), lines in found.items():
        run = f"{name}_seed{seed}"
        last = [line for line in lines if line["seconds"] > 0.8 * lines[-1]["seconds"]]
        flat |= {f"input_{metric}": value for metric, value in lines[-1]["input"].items()}
        flat[f"{run}_steps"] = lines[-1]["steps"]
        if lines[-1].get("pool_psnr_y"):
            flat[f"{run}_pool_psnr_y"] = lines[-1]["pool_psnr_y"]
        for weights in ("raw", "ema"):
            for metric in Scores.model_fields:
                values = [line[weights][metric] for line in last]
                flat[f"{run}_{weights}_{metric}"] = statistics.fmean(values)
                if len(values) > 1:
                    flat[f"{run}_{weights}_{metric}_spread"] = max(values) - min(values)
    return flat


def table(found: Found, labels: Mapping[str, str]) -> str:
    """The figures in Markdown, a line for each run."""
    flat = figures(found)
    columns = ("raw_psnr_y", "raw_psnr_y_spread", "ema_psnr_y", "ema_psnr_y_spread", "ema_psnr_rgb")
    lines = [
        "| run | seed | steps | raw PSNR-Y | spread | EMA PSNR-Y | spread | EMA RGB | EMA SSIM-Y | pool |",
        "|" + "---|" * 10,
    ]
    for name, seed in found:
        run = f"{name}_seed{seed}"
        cells = [labels[name], str(seed), f"{flat[f'{run}_steps']:.0f}"]
        figure = {column: flat.get(f"{run}_{column}") for column in (*columns, "ema_ssim_y", "pool_psnr_y")}
        cells += [
            "" if value is None else f"{value:.{4 if 'ssim' in column else 2}f}"
            for column, value in figure.items()
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(found: Found, labels: Mapping[str, str]) -> str:
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
    for name in labels:
        seeds = [seed for run, seed in found if run == name]
        cells = [labels[name], str(len(seeds))]
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


def sheet(found: Found, labels: Mapping[str, str], pairs: PairedFolder, out: Path) -> None:
    """Parts of some photographs: rainy, as each run of the first seed derains them, and clean."""
    names = [name for name, seed in found if seed == 0 and (out / f"seed0/{name}/model").exists()]
    if not names:
        return
    figure, axes = plt.subplots(SHOWN, len(names) + 2, figsize=(2.4 * (len(names) + 2), 2.6 * SHOWN))
    for row, index in zip(axes, np.linspace(0, len(pairs) - 1, SHOWN).astype(int).tolist(), strict=True):
        rainy, clean = pairs.load(index)
        columns = {"rainy": rainy}
        columns |= {labels[name]: derain_image(load_derainer(out / f"seed0/{name}"), rainy) for name in names}
        columns["truth"] = clean
        top, left = rainy.shape[0] // 4, rainy.shape[1] // 4
        for axis, (title, image) in zip(row, columns.items(), strict=True):
            part = Image.fromarray(image).crop((left, top, left + 160, top + 160))
            axis.imshow(part.resize((320, 320), Image.Resampling.NEAREST))
            axis.set_title(title, fontsize=7)
            axis.axis("off")
    figure.savefig(out / "sheet.png", dpi=110, bbox_inches="tight")
    plt.close(figure)
