"""The page that `scaling_plan.py` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.figure import Figure as Plot
from pages import duration, in_bytes, row
from plan_model import (
    PARTS,
    Costs,
    Job,
    fullest,
    largest_pool,
    loads,
    needed,
    pass_samples,
    pass_seconds,
    rates,
    saturates_at,
)

matplotlib.use("Agg")

MIDDLE = 1_000_000
"""Images, where a table or a plot is of one size."""
SHOWN = (1, 8, 64, 1024)
"""GPUs, where it is of a few."""
FASTER = 10
MOST = 10**6
"""GPUs, where a limit is looked for."""
RUN = 400_000
"""Samples of a run by default."""
PASS = pass_samples(Job(1, 1))
"""Samples an image."""
COVERED = RUN // PASS
"""Candidates of such a run."""
MINIMUM = 0.5
"""Share of the images that have a reward before stage 2 begins, by default."""
FORMULAS = """\
    exchange   = 2 (g - 1) / g * gradient_bytes / network            0 for one GPU
    step       = batch / crops_per_s + exchange
    cycle      = every * step + candidate_s                          every steps, then one candidate
    candidates = g / cycle                                           a second, over g GPUs
    samples    = candidates * batch * every                          a second
    missed(c)  = max(0, 1 - c / (images * decoded_bytes))            by a cache of c bytes
    replaced   = 1 - (1 - entering / (batch * every)) ** g           since the worker last met the image
    rewards    = samples * (1 - (1 - missed(reward_cache)) * (1 - replaced))
    loaded     = candidates + 2 * samples * missed(image_cache / 2)
    GETs       = rewards + loaded             PUTs = candidates * entering
    pool calls = 2 * candidates + samples     two decisions a candidate; one look-up a sample in stage 2
    network    = (every * 2 (g - 1) / g * gradient_bytes / cycle + carried / g) / network
    carried    = (GETs + PUTs) * reward_bytes + candidates * view_bytes
    one pass   = images / candidates          in samples: images * batch * every"""


@dataclass(frozen=True)
class Figure:
    """A unit cost, and where it comes from."""

    value: float
    kind: Literal["measured", "counted", "published", "published and measured", "assumed"]
    source: str


def write_page(
    page: Path,
    costs: Costs,
    figures: Mapping[str, Figure],
    images: Sequence[int],
    gpus: Sequence[int],
    heading: str,
) -> None:
    """Writes `page` and, beside it, its plot as PNG."""
    plot = page.with_suffix(".png")
    _plot(plot, costs, images, gpus)
    most = gpus[-1]
    lines = [
        "# A plan past one machine",
        "",
        f"{heading}. A model, not a measurement: nothing here was run on several machines, nor on a GPU.",
        "",
        "## The answer",
        "",
        *_answer(costs, most),
        "",
        f"![load of each part by GPUs, and time of a pass by images]({plot.name})",
        "",
        "## Rates, and what is needed",
        "",
        f"With {MIDDLE:,} images, crops of 256x256, `batch` 4 a GPU and `every` 4. GPUs are RTX 3090s; where",
        f"they are {FASTER} times as fast, read the row of {FASTER} times as many, but for their network.",
        "",
        row(
            "GPUs",
            "samples/s",
            "candidates/s",
            "of its time a GPU trains",
            *PARTS,
            "fullest with one of each",
        ),
        row(*("---" for _ in range(5 + len(PARTS)))),
        *(_rates_row(Job(MIDDLE, number), costs) for number in gpus),
        "",
        "Under the parts' names: how many it takes, and in brackets the load of one.",
        "",
        "## Which part is the fullest",
        "",
        "With one of each part; a load above 1 is more than one can do.",
        "",
        row("images", *(f"{number:,} GPU{'s' * (number > 1)}" for number in SHOWN)),
        row("---", *("---" for _ in SHOWN)),
        *(row(f"{size:,}", *(_fullest(Job(size, number), costs) for number in SHOWN)) for size in images),
        "",
        "## Data sets",
        "",
        row(
            "images",
            "Redis",
            "Redis servers",
            "images in the store",
            *(f"a pass, {number:,} GPU{'s' * (number > 1)}" for number in SHOWN),
            "samples in a pass",
            f"share that a run of {RUN:,} samples reaches",
        ),
        row(*("---" for _ in range(6 + len(SHOWN)))),
        *(_images_row(size, costs) for size in images),
        "",
        "A pass gives every image one candidate. So the verdict on a reward is at most a pass old, and half",
        "of one in the mean; a reward itself may be older, since it stays until a better candidate comes.",
        "",
        "## Unit costs",
        "",
        row("name", "value", "kind", "from"),
        row(*("---" for _ in range(4))),
        *(row(f"`{name}`", f"{one.value:,.4g}", one.kind, one.source) for name, one in figures.items()),
        "",
        "*Measured*: on the machine with 2 cores that the named results are of. *Published*: others' figures",
        "for other machines, not repeated here; those of the RTX 3090 are hearsay, without a source to cite.",
        "*Assumed*: put your own into `benchmarks/scaling_plan.py`.",
        "",
        "## Formulas",
        "",
        FORMULAS,
        "",
        "The exchange follows the backward pass, as it does in this program. Caches hold a random part of",
        "the images. A look-up in Redis is taken to cost as much as a decision, which is too much. Left out",
        "are evaluation, checkpoints, the start, and that a step is as slow as the slowest of all workers.",
    ]
    page.write_text("\n".join(lines) + "\n")


def _answer(costs: Costs, most: int) -> list[str]:
    job = Job(MIDDLE, most)
    found, one = rates(job, costs), rates(Job(MIDDLE, 1), costs)
    faster = replace(costs, crops_per_s=FASTER * costs.crops_per_s, candidate_s=costs.candidate_s / FASTER)
    lines = []
    for which, chosen in (("RTX 3090s", costs), (f"GPUs {FASTER} times as fast", faster)):
        (first, number), *others = _limits(chosen)
        known = "" if number <= most else ", beyond the range of this page"
        rest = ", ".join(f"{part} at {count:,}" for part, count in others)
        lines.append(
            f"- **{which}, with one of each part: the first to saturate is {first}, at {number:,} "
            f"GPUs{known}.** Add {PARTS[first]}. After it: {rest}. A GPU of {most:,} trains "
            f"{rates(job, chosen).training_share:.0%} of its time."
        )
    each = costs.candidate_s
    every1 = rates(replace(job, every=1), costs)
    epoch = job.batch * each / (job.batch * each + job.batch / costs.crops_per_s)
    lines += [
        f"- Training scales nearly with the GPUs: {found.samples:,.0f} samples/s on {most:,}, "
        f"{one.samples:,.2f} on one. Candidates take "
        f"{each * found.candidates / most:.1%} of a GPU's time, and with `recycling.every=1` "
        f"{each * every1.candidates / most:.1%}.",
        f"- One Redis server holds the pool of {largest_pool(costs) / 1e6:,.0f} million images. Beyond, its "
        "sub-pools go to several servers.",
        "- **What a large data set meets first is the schedule, not a machine.** A pass of candidates takes "
        f"{PASS} samples an image (`batch` times `every`) on any number of GPUs. A run of {RUN:,} samples "
        f"makes {COVERED:,} candidates, and stage 2 by default waits until {MINIMUM:.0%} of the images have "
        f"a reward: with more than {int(COVERED / MINIMUM):,} images it does not come. Larger sets need more "
        f"`schedule.samples`, a lower `schedule.minimum_rewards`, or `recycling.every=1`, which is "
        f"{pass_samples(Job(1, 1, every=1))} samples an image. One candidate for each crop trained on would "
        f"take {epoch:.1%} of a GPU's time, but the program makes at most one a step.",
    ]
    return lines


def _limits(costs: Costs) -> list[tuple[str, int]]:
    """Parts and the GPUs from which one of them is too little, in this order; memory is no matter of GPUs."""
    found = {part: saturates_at(MIDDLE, part, costs, MOST) for part in PARTS if part != "Redis memory"}
    return sorted(((part, number) for part, number in found.items() if number), key=lambda item: item[1])


def _rates_row(job: Job, costs: Costs) -> str:
    found, counts, load = rates(job, costs), needed(job, costs), loads(job, costs)
    return row(
        f"{job.gpus:,}",
        f"{found.samples:,.3g}",
        f"{found.candidates:,.3g}",
        f"{found.training_share:.0%}",
        *(f"{counts[part]:,} ({load[part]:.2g})" for part in PARTS),
        fullest(job, costs)[0],
    )


def _images_row(size: int, costs: Costs) -> str:
    return row(
        f"{size:,}",
        in_bytes(size * costs.entry_bytes),
        f"{needed(Job(size, 1), costs)['Redis memory']:,}",
        in_bytes(size * costs.reward_bytes),
        *(duration(pass_seconds(Job(size, number), costs)) for number in SHOWN),
        f"{pass_samples(Job(size, 1)):,}",
        f"{COVERED / size:.3%}" if size > COVERED else "all",
    )


def _fullest(job: Job, costs: Costs) -> str:
    part, load = fullest(job, costs)
    return f"{part}, {load:.2g}"


def _plot(path: Path, costs: Costs, images: Sequence[int], gpus: Sequence[int]) -> None:
    figure = Plot(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for part, style in zip(PARTS, ("o-", "s-", "^-", "x--", "v-", "d-", "p-"), strict=True):
        left.plot(gpus, [loads(Job(MIDDLE, number), costs)[part] for number in gpus], style, ms=4, label=part)
    left.axhline(1, color="black", lw=1)
    left.text(1, 1.2, "what one can do", fontsize=8)
    left.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="load of one", title=f"{MIDDLE:,} images")
    left.legend(fontsize=8)
    for number in SHOWN:
        days = [pass_seconds(Job(size, number), costs) / 86400 for size in images]
        right.plot(images, days, "o-", ms=4, label=f"{number:,} GPU{'s' * (number > 1)}")
    right.axvline(largest_pool(costs), color="grey", ls="--", lw=1, label="memory of one Redis server")
    right.set(
        xscale="log", yscale="log", xlabel="images", ylabel="days", title="One candidate for every image"
    )
    right.legend(fontsize=8)
    figure.savefig(path, dpi=110)
