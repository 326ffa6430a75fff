"""The page that `scaling.py` writes: what recycling costs a training step, and where the time goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from pages import row

matplotlib.use("Agg")

WAYS = {
    "within": "within the step (`synchronous: true`)",
    "beside": "beside it, scorer in the same process (`launch: inline`)",
    "served": "beside it, scorer on Ray Serve (`launch: ray`)",
}
DEFAULT = 4
"""`recycling.every`, unless a recipe says otherwise."""
TARGET = 0.10
MAIN_PARTS = {
    "training": "training step",
    "data": "wait for the batch",
    "load": "load the rainy image",
    "derain": "derain the whole image",
    "rewards": "wait for rewards (stage 2)",
    "report": "report",
}
BESIDE_PARTS = {
    "score": "score",
    "put": "digest, encode, write and sync the image",
    "offer": "offer it to the pool",
    "entries": "look rewards up (stage 2)",
    "read": "read rewards (stage 2)",
}
CANDIDATE_PARTS = {
    "candidate_load_ms": "load the rainy image",
    "alone_derain_ms": "derain it whole",
    "alone_score_ms": "score it, scorer in the same process",
    "candidate_put_ms": "put the image that may win",
    "candidate_digest_ms": "of that, its digest",
    "candidate_encode_ms": "of that, encoding",
    "candidate_offer_ms": "offer it",
    "reward_entries_of_4_ms": "look up four rewards",
    "reward_read_ms": "read and decode a reward",
}
STEP_PARTS = ("derainer", "generator", "dem", "discriminator")


def write_page(
    page: Path,
    figures: Mapping[str, float],
    cadences: Sequence[int],
    served: Sequence[int],
    heading: str,
) -> None:
    """Writes `page` and, beside it, its plot as PNG."""
    plot = page.with_suffix(".png")
    cases = [(way, every) for way in ("within", "beside") for every in cadences]
    cases += [("served", every) for every in served]
    _plot(plot, figures, cases)
    lines = [
        "# What recycling costs, and what a second worker adds",
        "",
        f"{heading}.",
        "The recipe `rain100l-gan` on demonstration data, whole images of some 320x210 pixels; all variants",
        "took turns in one run. Read the shares: they are of turns in the same round, medians over rounds.",
        "",
        f"![share of the step by cadence]({plot.name})",
        "",
        "## The cost of recycling",
        "",
        f"A step without recycling takes {figures['off_step_ms']:.0f} ms. The same turn, repeated three",
        f"times a round, differed by {figures['off_spread_share']:.1%}: smaller differences say nothing.",
        "*Arithmetic* is deraining and scoring a candidate by themselves, "
        f"{_arithmetic(figures):.0f} ms, on the same cores.",
        "",
        row(
            "way",
            "every",
            "adds to a step",
            "of that arithmetic",
            "beyond it",
            "processor time",
            "candidates/s",
        ),
        row(*("---" for _ in range(7))),
        *(_cost_row(figures, way, every) for way, every in cases),
        "",
        *_verdicts(figures),
        "- *Processor time* is what a turn adds to that of the training process. The pool's server, and a",
        "  scorer on Ray Serve, have processes of their own.",
        f"- {figures['turns_acceptance_share']:.0%} of the candidates entered the pool, more than in a",
        f"  longer run, so that more had to be written. {_lost(figures, cases):.0f} were dropped or lost.",
        "",
        "## Candidates a second, with nothing else to do",
        "",
        "From submission to decision, in batches of eight.",
        "",
        row("", "all enter the pool", "none does"),
        row("---", "---", "---"),
        *(
            row(
                label,
                f"{figures[f'{way}_all_enter_candidates_per_s']:.0f}",
                f"{figures[f'{way}_none_enters_candidates_per_s']:.0f}",
            )
            for way, label in (("here", "scorer in the same process"), ("served", "scorer on Ray Serve"))
        ),
        "",
        "## Where the time goes",
        "",
        "ms of a step in a turn of the run, a candidate every four steps. Parts in italics are the",
        "recycler's and the reader's: within the step they add to it; in threads beside it they share its",
        "cores, so that they and the training step take longer than alone.",
        "",
        *_parts(figures),
        "",
        "One candidate, each part by itself:",
        "",
        row("part", "ms"),
        row("---", "---"),
        *(row(label, f"{figures[key]:.2f}") for key, label in CANDIDATE_PARTS.items()),
        "",
        "The training step, each network by itself, forward and backward:",
        "",
        row("part", "ms"),
        row("---", "---"),
        *(row(name, f"{figures[f'step_{name}_ms']:.0f}") for name in STEP_PARTS),
        row("losses, optimisers, averaged weights (the rest)", f"{_rest(figures):.0f}"),
        row("**step**", f"**{figures['step_step_ms']:.0f}**"),
        "",
        "## One worker and two",
        "",
        "Ray Train on this machine, one thread a worker, a candidate every four steps, the batch of each",
        "worker the same.",
        "",
        row("", "rainy crops/s", "against one worker"),
        row("---", "---", "---"),
        row("one worker", f"{figures['workers1_samples_per_s']:.2f}", "1.00"),
        row(
            "two workers",
            f"{figures['workers2_samples_per_s']:.2f}",
            f"{figures['workers2_over_1_ratio']:.2f}",
        ),
        row(
            "two runs that share nothing",
            f"{figures['separate2_samples_per_s']:.2f}",
            f"{figures['separate2_over_1_ratio']:.2f}",
        ),
        "",
        "- What the machine itself gives to a second process is the last row; two workers reach "
        f"{figures['workers2_over_separate2_ratio']:.0%} of it. The rest is the exchange of gradients and",
        "  the wait for the slower worker.",
        f"- With {figures['cores']:.0f} cores, Ray, the scorer and the pool's server take their time from",
        "  the same cores. This shows what the exchange costs over shared memory, not how training scales",
        "  over machines.",
    ]
    page.write_text("\n".join(lines) + "\n")


def _cost_row(figures: Mapping[str, float], way: str, every: int) -> str:
    key = f"{way}_every{every}"
    return row(
        WAYS[way],
        f"{every}",
        f"{figures[f'{key}_added_share']:.1%}",
        f"{figures[f'{key}_arithmetic_share']:.1%}",
        f"{figures[f'{key}_beyond_share']:+.1%}",
        f"{figures[f'{key}_cpu_added_share']:+.1%}",
        f"{figures[f'{key}_candidates_per_s']:.2f}",
    )


def _verdicts(figures: Mapping[str, float]) -> list[str]:
    lines = []
    for way, place in (("beside", "in the same process"), ("served", "on Ray Serve")):
        beyond = figures[f"{way}_every{DEFAULT}_beyond_share"]
        said = "within" if beyond <= TARGET else "**beyond**"
        if figures["off_spread_share"] > TARGET:
            said = "with so much else going on it cannot be told whether this is within"
        lines.append(
            f"- At the default cadence, every {DEFAULT} steps, with the scorer {place}, a step differs by "
            f"{beyond:+.1%} from what its arithmetic asks for: {said} the {TARGET:.0%} aimed at."
        )
    return lines


def _parts(figures: Mapping[str, float]) -> list[str]:
    columns = {
        f"within_every{DEFAULT}": "within the step",
        f"beside_every{DEFAULT}": "beside, same process",
        f"served_every{DEFAULT}": "beside, Ray Serve",
        f"stage2_every{DEFAULT}": "stage 2, beside, same process",
    }

    def cells(part: str) -> list[str]:
        found = (figures.get(f"{key}_part_{part}_ms") for key in columns)
        return ["" if value is None else f"{value:.1f}" for value in found]

    return [
        row("part", *columns.values()),
        row(*("---" for _ in range(1 + len(columns)))),
        *(row(label, *cells(part)) for part, label in MAIN_PARTS.items()),
        *(row(f"*{label}*", *cells(part)) for part, label in BESIDE_PARTS.items()),
        row("**step**", *(f"**{figures[f'{key}_step_ms']:.1f}**" for key in columns)),
    ]


def _arithmetic(figures: Mapping[str, float]) -> float:
    return figures["alone_derain_ms"] + figures["alone_score_ms"]


def _lost(figures: Mapping[str, float], cases: Sequence[tuple[str, int]]) -> float:
    return sum(figures[f"{way}_every{every}_lost"] for way, every in cases)


def _rest(figures: Mapping[str, float]) -> float:
    return figures["step_step_ms"] - sum(figures[f"step_{name}_ms"] for name in STEP_PARTS)


def _plot(path: Path, figures: Mapping[str, float], cases: Sequence[tuple[str, int]]) -> None:
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    axes = figure.subplots()
    for way, style in (("within", "o-"), ("beside", "s-"), ("served", "^-")):
        cadences = [every for each, every in cases if each == way]
        added = [100 * figures[f"{way}_every{every}_added_share"] for every in cadences]
        axes.plot(cadences, added, style, label=WAYS[way])
    cadences = [every for each, every in cases if each == "within"]
    asked = [100 * figures["within_every1_arithmetic_share"] / every for every in cadences]
    axes.plot(cadences, asked, color="black", lw=1, label="arithmetic: derain and score, alone")
    allowed = [share + 100 * TARGET for share in asked]
    axes.plot(cadences, allowed, color="grey", ls="--", lw=1, label=f"arithmetic and {TARGET:.0%} of a step")
    axes.set_xscale("log", base=2)
    axes.set_xticks(cadences, [str(every) for every in cadences])
    axes.set(xlabel="steps between two candidates", ylabel="% added to a step", title="Cost of recycling")
    axes.axhline(0, color="black", lw=0.5)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
