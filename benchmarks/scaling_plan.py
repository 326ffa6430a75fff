"""What the pipeline takes past this machine: which part saturates first, from 1 to 1,024 GPUs.

    python benchmarks/scaling_plan.py [--quick] [--json FILE] [--page FILE]

Evaluates the model of plan_model.py. Unit costs come from benchmarks/results/*.json where they were measured,
and else from the constants below, each with its source. Takes seconds; `--quick` leaves out the page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from pages import commit
from plan_model import (
    Costs,
    Job,
    fullest,
    largest_pool,
    loads,
    pass_seconds,
    rates,
)
from plan_page import Figure, write_page
from rich.console import Console
from rich.table import Table

from trainer.config import load_config
from trainer.methods.rgsud import RGSUD
from trainer.models.registry import build_derainer

RESULTS = Path(__file__).parent / "results"
IMAGES = tuple(10**power for power in range(3, 10))
GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
PIXELS = 481 * 321
"""Of a whole image, as in Rain100L."""

NAFNET_CROPS_PER_S = 15.0
"""Crops of 256x256 a second that one RTX 3090 trains a NAFNet of width 32 on, the derainer alone."""
FORWARD_SHARE = 1 / 3
"""Of a training pass; the backward pass costs twice the forward."""
SCORED_PER_S = 5000.0
"""Images a second of ViT-B/32 on one RTX 3090."""
NETWORK = 25e9 / 8
SERVER_BYTES = 32e9
PUTS_PER_S, GETS_PER_S = 3500.0, 5500.0
DECISIONS_PER_S = 60_000.0
SERVICE_PER_S = 5_000.0
ENTRY_BYTES = 200.0
REWARD_BYTES = 298e3 / 512**2 * PIXELS
ENTERING = 0.1
VIEW_BYTES = 224 * 224 * 3.0
STEP_OVER_DERAINER = 8.0


def read_results(folder: Path = RESULTS) -> dict[str, dict[str, float]]:
    """The figures of the benchmarks that have been run, by the name of their file."""
    names = ("step_time", "scoring_throughput", "pool_scale", "scaling")
    return {
        name: json.loads((folder / f"{name}.json").read_text())
        for name in names
        if (folder / f"{name}.json").exists()
    }


def gradient_bytes() -> int:
    """Of the networks of the recipe `paper`, in float32."""
    config = load_config("paper", ["data.rainy=.", "data.clean=."])
    method = RGSUD(config.method, build_derainer(config.derainer))
    networks = (method.derainer, method.G, method.DEM, method.D)
    return 4 * sum(weight.numel() for network in networks for weight in network.parameters())


def unit_costs(results: Mapping[str, Mapping[str, float]]) -> dict[str, Figure]:
    """Every cost of the model by its name, measured where there is a figure."""

    def measured(file: str, key: str, otherwise: float, assumed: str) -> Figure:
        if key in results.get(file, {}):
            return Figure(results[file][key], "measured", f"{file}.json, `{key}`")
        return Figure(otherwise, "assumed", assumed)

    def largest(what: str) -> str:
        keys = (key.partition("_") for key in results.get("pool_scale", {}))
        sizes = [int(size) for size, _, rest in keys if size.isdigit() and f"_{rest}" == what]
        return f"{max(sizes, default=0)}{what}"

    steps = results.get("step_time", {})
    ratio = STEP_OVER_DERAINER
    if "paper_crop128_step_ms" in steps:
        ratio = steps["paper_crop128_step_ms"] / steps["paper_crop128_derainer_ms"]
    served = "service_daclip-lite_handle_16_callers_64_images_a_call_images_per_s"
    path = results.get("scoring_throughput", {}).get(served, SCORED_PER_S)
    reward = Figure(REWARD_BYTES, "assumed", "an earlier photograph of 512x512, 298 KB as lossless WebP")
    if "scaling" in results:
        size = results["scaling"]["candidate_bytes"] / results["scaling"]["candidate_pixels"] * PIXELS
        reward = Figure(size, "measured", "scaling.json, `candidate_bytes`, by pixels")
    return {
        "crops_per_s": Figure(
            NAFNET_CROPS_PER_S / 2 / ratio,
            "published and measured",
            f"RTX 3090, NAFNet-32: {NAFNET_CROPS_PER_S:.0f} crops of 256x256 a second (published); a step "
            f"derains two for each rainy crop and takes {ratio:.1f} times what that takes "
            "(step_time.json, `paper`, crop 128)",
        ),
        "candidate_s": Figure(
            PIXELS / 256**2 * FORWARD_SHARE / NAFNET_CROPS_PER_S,
            "published",
            "the forward third of the same, for 481x321 pixels",
        ),
        "gradient_bytes": Figure(gradient_bytes(), "counted", "float32, the networks of the recipe `paper`"),
        "network": Figure(NETWORK, "assumed", "25 Gbit/s a GPU"),
        "scorings_per_s": Figure(
            min(SCORED_PER_S, path),
            "published and measured",
            f"the lesser of {SCORED_PER_S:,.0f}/s of ViT-B/32 on an RTX 3090 (published) and {path:,.0f}/s "
            f"of Ray Serve's way to a replica (scoring_throughput.json, `{served}`)",
        ),
        "view_bytes": Figure(
            VIEW_BYTES, "counted", "one view of 224x224; with `views=tiles` there are several"
        ),
        "decisions_per_s": measured(
            "pool_scale", largest("_decisions_per_s"), DECISIONS_PER_S, "a prototype of the script on 2 cores"
        ),
        "service_per_s": measured(
            "pool_scale", largest("_http_decisions_per_s"), SERVICE_PER_S, "an order of magnitude below Redis"
        ),
        "entry_bytes": measured(
            "pool_scale", largest("_redis_bytes_per_entry"), ENTRY_BYTES, "what the store's tests hold it to"
        ),
        "server_bytes": Figure(
            SERVER_BYTES, "assumed", "half of a server of 64 GB; a rewrite of the log needs room"
        ),
        "puts_per_s": Figure(PUTS_PER_S, "published", "Amazon S3's guide, each partitioned prefix"),
        "gets_per_s": Figure(GETS_PER_S, "published", "Amazon S3's guide, each partitioned prefix"),
        "reward_bytes": reward,
        "decoded_bytes": Figure(3 * PIXELS, "counted", "481x321 pixels of three bytes"),
        "entering": Figure(ENTERING, "assumed", "a tenth of the candidates"),
    }


def evaluate(costs: Costs) -> dict[str, float]:
    """The answers as flat figures."""
    figures: dict[str, float] = {"pool_images_of_one_server": largest_pool(costs)}
    for gpus in GPUS:
        for images in IMAGES:
            job = Job(images, gpus)
            key = f"images{images}_gpus{gpus}"
            figures |= {
                f"{key}_samples_per_s": rates(job, costs).samples,
                f"{key}_candidates_per_s": rates(job, costs).candidates,
                f"{key}_pass_s": pass_seconds(job, costs),
                **{f"{key}_{part.replace(' ', '_')}_load": load for part, load in loads(job, costs).items()},
            }
    return figures


def table(costs: Costs) -> Table:
    """Which part is the fullest, with one of each."""
    shown = Table("images", *(f"{gpus} GPU" for gpus in GPUS[::3]), title="Fullest part and its load")
    for images in IMAGES:
        cells = (fullest(Job(images, gpus), costs) for gpus in GPUS[::3])
        shown.add_row(f"{images:,}", *(f"{part} {load:.2g}" for part, load in cells))
    return shown


def main() -> None:
    """Print the table, write the figures and the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="without the page")
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument(
        "--page", type=Path, help=f"where the page goes; {RESULTS / 'plan.md'} unless --quick"
    )
    chosen = parser.parse_args()
    found = unit_costs(read_results())
    costs = Costs(**{field.name: found[field.name].value for field in fields(Costs)})
    Console(width=140).print(table(costs))
    if chosen.json:
        chosen.json.write_text(json.dumps(evaluate(costs), indent=2) + "\n")
    page = chosen.page or (None if chosen.quick else RESULTS / "plan.md")
    if page:
        write_page(
            page, costs, found, IMAGES, GPUS, f"`python benchmarks/scaling_plan.py` at commit {commit()}"
        )


if __name__ == "__main__":
    main()
