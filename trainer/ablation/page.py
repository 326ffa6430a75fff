"""Tables, curves and pictures of an ablation, from the records of its runs."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from matplotlib import colormaps
from matplotlib.figure import Figure

from trainer.ablation.rows import Row
from trainer.restore.evaluation import Scores

Found: TypeAlias = dict[tuple[str, int], list[dict[str, Any]]]
"""The evaluations of runs, by name of the row and seed."""
Rows: TypeAlias = Mapping[str, Row]
COLUMNS = {
    "raw_psnr_y": "raw PSNR-Y",
    "raw_psnr_y_spread": "spread",
    "ema_psnr_y": "EMA PSNR-Y",
    "ema_psnr_y_spread": "spread",
    "ema_psnr_rgb": "EMA RGB",
    "ema_ssim_y": "EMA SSIM-Y",
    "pool_psnr_y": "pool",
}
SUMMED = {
    "ema_psnr_y": "EMA PSNR-Y",
    "ema_ssim_y": "EMA SSIM-Y",
    "ema_psnr_rgb": "EMA RGB",
    "raw_psnr_y": "raw PSNR-Y",
    "raw_psnr_y_spread": "raw spread",
    "pool_psnr_y": "pool",
}


def records(folder: Path) -> list[dict[str, Any]]:
    """The evaluations of a run, in order of steps; what was repeated after a resume counts once."""
    lines = map(json.loads, (folder / "records.jsonl").read_text().splitlines())
    return list({line["steps"]: line for line in sorted(lines, key=lambda line: line["steps"])}.values())


def curves(out: Path, rows: Rows) -> Found:
    """The records of each row and seed, with those of the part that it shares with others before them."""
    found: Found = {}
    for name, row in rows.items():
        for path in sorted(out.glob(f"seed*/{name}/records.jsonl")):
            part = path.parents[1] / (row.begins or "")
            # Where evaluations are rare there may be none in the shared part.
            shared = records(part) if (part / "records.jsonl").exists() else []
            found[name, int(path.parents[1].name.removeprefix("seed"))] = shared + records(path.parent)
    return found


def draw(found: Found, rows: Rows, path: Path) -> None:
    """PSNR-Y of averaged (raw: thin) weights over time, that of the pool, and what each run gained over the
    first one of its group on the same seed; a row of panels for each group."""
    flat = figures(found)
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for name, _ in found if rows[name].begins):
        groups.setdefault(rows[name].heading.partition(": ")[0], []).append(name)
    heights = [max(2.6, 0.4 * len(names)) for names in groups.values()]
    figure = Figure(figsize=(15, 1.5 + sum(heights)), layout="constrained")
    panels = figure.subplots(max(1, len(groups)), 3, squeeze=False, height_ratios=heights or None)
    for (trained, pooled, gains), (group, names) in zip(panels, groups.items(), strict=False):
        for place, name in enumerate(names):
            colour = colormaps["tab10"](place % 10)
            for seed, lines in ((seed, lines) for (run, seed), lines in found.items() if run == name):
                minutes = [line["seconds"] / 60 for line in lines]
                trained.plot(minutes, [line["ema"]["psnr_y"] for line in lines], color=colour)
                trained.plot(minutes, [line["raw"]["psnr_y"] for line in lines], color=colour, lw=0.3)
                if graded := [line for line in lines if line.get("pool_psnr_y")]:
                    pooled.plot(
                        [line["seconds"] / 60 for line in graded],
                        [line["pool_psnr_y"] for line in graded],
                        color=colour,
                        marker="." if len(graded) == 1 else None,
                    )
                if base := flat.get(f"{names[0]}_seed{seed}_ema_psnr_y"):
                    gain = flat[f"{name}_seed{seed}_ema_psnr_y"] - base
                    gains.plot(gain, place, "o", color=colour, alpha=0.7)
        trained.set(title=group, xlabel="minutes", ylabel="PSNR-Y, dB")
        pooled.set(title="what the pool serves", xlabel="minutes", ylabel="true PSNR-Y, dB")
        if not pooled.lines:
            pooled.set_axis_off()
        gains.axvline(0, color="gray", lw=0.5)
        gains.yaxis.tick_right()
        gains.set(title=f"against: {rows[names[0]].label}", xlabel="dB PSNR-Y, a dot a seed")
        gains.set_yticks(range(len(names)), [rows[name].label for name in names], fontsize=8)
        gains.set_ylim(len(names) - 0.5, -0.5)
    # Bounds that share no part with others end far above, where their curves would flatten the rest.
    ends = [
        f"{rows[name].heading}, ends at {lines[-1]['ema']['psnr_y']:.2f} dB"
        for (name, _), lines in found.items()
        if not rows[name].begins
    ]
    figure.suptitle("\n".join(ends), fontsize=9)
    figure.savefig(path, dpi=110)


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
        for key in (f"{weights}_{metric}" for weights in ("raw", "ema") for metric in Scores.model_fields):
            weights, metric = key.split("_", 1)
            values = [line[weights][metric] for line in last]
            flat[f"{run}_{key}"] = statistics.fmean(values)
            if len(values) > 1:
                flat[f"{run}_{key}_spread"] = max(values) - min(values)
    return flat


def _markdown(heads: list[str], lines: list[list[str]]) -> str:
    head, *rest = (f"| {' | '.join(cells)} |" for cells in (heads, *lines))
    return "\n".join((head, f"|{'---|' * len(heads)}", *rest))


def _cell(key: str, value: float | None) -> str:
    return "" if value is None else f"{value:.{4 if 'ssim' in key else 2}f}"


def table(found: Found, rows: Rows) -> str:
    """The figures in Markdown, a line for each run."""
    flat, lines = figures(found), []
    for name, seed in found:
        run = f"{name}_seed{seed}"
        cells = [_cell(key, flat.get(f"{run}_{key}")) for key in COLUMNS]
        lines.append([rows[name].heading, str(seed), f"{flat[f'{run}_steps']:.0f}", *cells])
    return _markdown(["run", "seed", "steps", *COLUMNS.values()], lines)


def summary(found: Found, rows: Rows) -> str:
    """The rows in Markdown, the mean over the seeds of each with the lowest and the highest."""
    flat, lines = figures(found), []
    for name in dict.fromkeys(name for name, _ in found):
        seeds = [seed for run, seed in found if run == name]
        cells = []
        for key in SUMMED:
            values = [flat[one] for seed in seeds if (one := f"{name}_seed{seed}_{key}") in flat]
            cell = _cell(key, statistics.fmean(values) if values else None)
            if key == "ema_psnr_y" and len(values) > 1:
                cell += f" ({min(values):.2f} to {max(values):.2f})"
            cells.append(cell)
        lines.append([rows[name].heading, str(len(seeds)), *cells])
    return _markdown(["run", "seeds", *SUMMED.values()], lines)
