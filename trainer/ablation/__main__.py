"""What each part of the training is worth: runs of equal time on real data sets, with controls.

    python -m trainer.ablation DATA [--domain rain100l] [--rows FILE] [--runs stage1 daclip ...]
        [--seeds 0 1 2] [--out DIR] [--quick] [--json FILE]

DATA holds rain100l/train/{rainy,truth}, rain100l/val/{rainy,clean} and rain800/train/clean, for the second
domain roadscene_night/train/{rainy,clean}. The rows are recipes with changed settings, those of rows.yaml
unless another table is given. Every run has the same time, evaluation excluded and work for the pool counted.
It is processor time over two, so that two runs side by side, or other work on the machine, change no figure;
start each with OMP_NUM_THREADS=1. What is done is not done again, and what was cut off goes on from its last
checkpoint; the page is written from whatever is in --out (`--runs` with nothing after it runs nothing).

Settings are chosen by the averaged weights' PSNR on the rainy images of the training domain, whose truth no
unpaired run sees; the page reports the validation pairs, other scenes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from rgsud_core.errors import RgsudError
from trainer.ablation.page import curves, draw, figures, summary, table
from trainer.ablation.rows import DEFAULT, read_rows
from trainer.ablation.runs import SHARED, domain, run_row


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the rows, draw the curves, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--domain", choices=["rain100l", "roadscene"], default="rain100l")
    parser.add_argument("--rows", type=Path, default=DEFAULT, help="table of rows, YAML")
    parser.add_argument("--runs", nargs="*", help="names of rows; all by default")
    parser.add_argument("--seeds", nargs="*", type=int, default=[0])
    parser.add_argument("--out", type=Path, help="runs/what-teaches/DOMAIN by default")
    parser.add_argument("--seconds", type=float, default=720.0, help="length of each run")
    parser.add_argument("--evaluate-every", type=int, default=120, help="steps")
    parser.add_argument("--record", action="store_true", help="keep every candidate, for scorer_quality.py")
    parser.add_argument("--quick", action="store_true", help="two rows for a few seconds, for a look")
    parser.add_argument("--json", type=Path, help="where the figures go")
    chosen = parser.parse_args(arguments)
    rows = read_rows(chosen.rows)
    names, out = chosen.runs, chosen.out or Path("runs/what-teaches", chosen.domain)
    if chosen.quick:
        chosen.seconds, chosen.evaluate_every, out = 8.0, 8, out.with_name(f"{out.name}-quick")
        names = names or list(rows)[:2]
    names = list(rows) if names is None else names
    if unknown := sorted(set(names) - set(rows)):
        parser.error(f"no row {', '.join(unknown)} in {chosen.rows}: take of {', '.join(rows)}")
    torch.set_num_threads(1)  # with more than the time is counted for, they would wait for each other

    folders = domain(chosen.domain, chosen.data, out)
    for seed in chosen.seeds:
        for name in names:
            runs = out / f"seed{seed}"
            common = {
                "seed": seed,
                "schedule.samples": 10**9,
                "schedule.seconds": chosen.seconds,
                "schedule.recycle_from": f"{SHARED:.0%}",
                "schedule.stage2_from": "50%",
                "report.evaluate_every": chosen.evaluate_every,
                "report.checkpoint_every": chosen.evaluate_every,
                "report.sheet_every": 10**9,
                "report.plan": "false",
                "recycling.record": runs / name / "record" if chosen.record else "null",
            }
            run_row(name, rows, folders, runs, [f"{key}={value}" for key, value in common.items()])

    found = curves(out, rows)
    draw(found, rows, out / "curves.png")
    print(summary(found, rows), table(found, rows), sep="\n\n")
    if chosen.json:
        chosen.json.write_text(json.dumps(figures(found), indent=2) + "\n")


if __name__ == "__main__":
    try:
        main()
    except RgsudError as problem:
        raise SystemExit(f"rgsud: {problem}") from None
