"""How fast images are scored: against the machine's matrix rate, and through the service.

    python benchmarks/scoring_throughput.py --threads 2 [--quick] [--json FILE] [--page FILE]

All figures are of one run, and the shares and ratios are of figures measured beside each other in it:
- matrix rate: the fastest of the products that a ViT-B/32 consists of, by torch's linear layer in the same
  precision and with the same threads;
- roofline share: FLOPs of the scored images a second over the matrix rate;
- the service's share: images a second of some callers together over those of the same scorer in this process.

ViT-B/32 is the architecture of the released DA-CLIP with random weights (speed does not depend on them);
daclip-lite comes with the package. Images are of the size that the scorer looks at, so that no time goes into
cutting views.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pages import commit, fill, parser, processor, report, serving, table

# On shared cores, OpenMP threads that spin for each other take the time from the one that works.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import numpy as np
import open_clip
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate, ScoreBackend
from iqa_service.scorers.daclip import DaCLIP, Rule
from iqa_service.scorers.daclip_files import load_daclip, load_rule, save_daclip
from iqa_service.scorers.daclip_iqa import LITE_WEIGHTS, DaclipScorer
from iqa_service.serving.settings import ServiceSettings

PRECISIONS = ("float32", "bfloat16")
SERVED = "bfloat16"
PATIENCE = 600.0
"""Seconds that a call may take: many callers at once wait long, which is no failure here."""
PAGE = Path(__file__).parent / "results" / "scoring_throughput.md"


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int = 5
    seconds: float = 3.0
    batches: tuple[int, ...] = (1, 4, 16, 64)
    callers: tuple[int, ...] = (1, 4, 16)
    images_a_call: tuple[int, ...] = (8, 64)
    served: tuple[str, ...] = ("vit-b32", "daclip-lite")


QUICK = Effort(1, 0.2, (1, 16), (4,), (64,), ("daclip-lite",))


def rate(work: Callable[[], object], units: float, seconds: float) -> float:
    """Units a second of ``work``, done for some seconds after once to warm up."""
    work()
    done, started = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - started < seconds:
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        done += 1
    return units * done / (time.perf_counter() - started)


def matrix_rate(precision: str, device: str, seconds: float) -> float:
    """FLOP/s of the fastest matrix product of a ViT-B/32 with 64 images in a batch."""
    kind = getattr(torch, precision)
    rates = []
    for rows, inner, columns in ((3200, 768, 3072), (3200, 3072, 768), (3200, 768, 768)):
        layer = torch.nn.Linear(inner, columns, dtype=kind, device=device)
        given = torch.randn(rows, inner, dtype=kind, device=device)
        with torch.inference_mode():
            rates.append(rate(lambda: layer(given), 2.0 * rows * inner * columns, seconds))  # noqa: B023
    return max(rates)


def flops_of(model: DaCLIP) -> float:
    """FLOPs of the controller for one image."""
    pixels = torch.zeros(1, 3, model.image_size, model.image_size)
    # In training mode no fused kernel hides its products from the counter.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.train().encode_degradation(pixels)
    model.eval()
    return float(counter.get_total_flops())


def images(count: int, size: int) -> list[Candidate]:
    """Noise of the size that a scorer looks at."""
    random = np.random.default_rng(0)
    made = random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return [Candidate(str(number), image) for number, image in enumerate(made)]


def in_process(name: str, weights: Path, device: str, effort: Effort) -> dict[str, float]:
    """Images a second by precision and batch, with their shares of the matrix rate."""
    model, rule = load_daclip(weights), load_rule(weights)
    flops, size = flops_of(model), model.image_size
    figures = {f"{name}_gflop_per_image": flops / 1e9}
    views = np.stack([candidate.image for candidate in images(max(effort.batches), size)])
    for precision in PRECISIONS:
        scorer = DaclipScorer(model.to(device), rule, "centre", name, precision=precision)
        matrix: list[float] = []
        found: dict[int, list[float]] = {batch: [] for batch in effort.batches}
        for _ in range(effort.rounds):
            matrix.append(matrix_rate(precision, device, effort.seconds / 3))
            for batch, rates in found.items():
                rates.append(rate(lambda: scorer.score_views(views[:batch]), batch, effort.seconds))  # noqa: B023
        figures[f"{name}_{precision}_matrix_gflop_per_s"] = statistics.median(matrix) / 1e9
        for batch, rates in found.items():
            key = f"{name}_{precision}_batch{batch}"
            figures[f"{key}_images_per_s"] = statistics.median(rates)
            shares = [flops * each / top for each, top in zip(rates, matrix, strict=True)]
            figures[f"{key}_roofline_share"] = statistics.median(shares)
    return figures


def together(backends: list[ScoreBackend], sent: list[Candidate], calls: int) -> float:
    """Images a second of callers that each score ``sent`` so many times in a row."""

    def call(backend: ScoreBackend) -> None:
        for _ in range(calls):
            backend.score(sent)

    with ThreadPoolExecutor(len(backends)) as threads:
        started = time.perf_counter()
        list(threads.map(call, backends))
        return len(backends) * calls * len(sent) / (time.perf_counter() - started)


def service(name: str, spec: str, device: str, threads: int, effort: Effort) -> dict[str, float]:
    """The service's share of the rate in process, by way and number of callers."""
    from iqa_service.serving.ray_app import deploy_scorer

    figures: dict[str, float] = {}
    gpus = 1 if device == "cuda" else 0
    settings = ServiceSettings(scorer=spec, device=device, cpus=threads, gpus=gpus, timeout_seconds=PATIENCE)
    local = open_scorer(settings.spec)
    with serving() as port:
        url = f"http://127.0.0.1:{port}"
        by_handle = deploy_scorer(settings)
        assert local.views is not None
        reference = images(64, local.views.size)

        def alone() -> float:
            return rate(lambda: local.score(reference), len(reference), effort.seconds)

        for way, address in (("handle", by_handle), ("http", url)):
            backends = [open_scorer(f"{address}?timeout={PATIENCE:g}") for _ in range(max(effort.callers))]
            together(backends[:1], reference, 1)
            for count, size in itertools.product(effort.callers, effort.images_a_call):
                before = alone()
                calls = max(2, round(2 * effort.seconds * before / count / size))
                found = together(backends[:count], reference[:size], calls)
                key = f"service_{name}_{way}_{count}_callers_{size}_images_a_call"
                figures[f"{key}_images_per_s"] = found
                figures[f"{key}_share"] = found / statistics.mean((before, alone()))
            for backend in backends:
                backend.close()
    return figures


def vit_b32(folder: Path) -> Path:
    """A file with the released DA-CLIP's architecture and random weights."""
    torch.manual_seed(0)
    path = folder / "vit-b32.safetensors"
    save_daclip(DaCLIP(open_clip.get_model_config("ViT-B-32"), image_tower=False), Rule(), path)
    return path


def tables(figures: dict[str, float], names: list[str], effort: Effort) -> str:
    """What was measured, in Markdown."""

    def best(key: str, what: str) -> float:
        return max(figures[f"{key}_batch{batch}_{what}"] for batch in effort.batches)

    rows = [
        [
            name,
            precision,
            f"{figures[f'{key}_matrix_gflop_per_s']:.0f}",
            *(f"{figures[f'{key}_batch{batch}_images_per_s']:.1f}" for batch in effort.batches),
            f"{best(key, 'roofline_share'):.0%}",
        ]
        for name in names
        for precision in PRECISIONS
        for key in [f"{name}_{precision}"]
    ]
    batches = [f"images/s, batch {batch}" for batch in effort.batches]
    headings = ["scorer", "precision", "matrix GFLOP/s", *batches, "best roofline share"]
    shares = [
        [name, way, str(size)]
        + [
            f"{figures[f'service_{name}_{way}_{count}_callers_{size}_images_a_call_share']:.0%}"
            for count in effort.callers
        ]
        for name in effort.served
        for way in ("handle", "http")
        for size in effort.images_a_call
    ]
    callers = [f"{count} callers" for count in effort.callers]
    served = table(["scorer", "by", "images a call", *callers], shares)
    return (
        f"## In process\n\n{table(headings, rows)}\n\n"
        f"## The service's share of the rate in process, {SERVED}\n\n{served}"
    )


def main() -> None:
    """Measure, print, write the figures and the page."""
    options = parser(__doc__)
    options.add_argument("--page", type=Path, help=f"where the page goes; {PAGE} unless --quick")
    options.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="of torch, here and in the service"
    )
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    effort = QUICK if chosen.quick else Effort()

    figures: dict[str, float] = {"threads": chosen.threads}
    with TemporaryDirectory() as scratch:
        weights = {"vit-b32": vit_b32(Path(scratch)), "daclip-lite": LITE_WEIGHTS}
        for name, path in weights.items():
            figures |= in_process(name, path, chosen.device, effort)
        for name in effort.served:
            spec = f"local:daclip?weights={weights[name]}&views=centre&precision={SERVED}"
            figures |= service(name, spec, chosen.device, chosen.threads, effort)

    gpu = f", {torch.cuda.get_device_name()}" if chosen.device == "cuda" else ""
    machine = f"{processor()}, {chosen.threads} threads{gpu}; torch {torch.__version__}"
    measured = tables(figures, list(weights), effort)
    report(figures, chosen.json)
    print(machine, measured, sep="\n\n")
    target = chosen.page or (None if chosen.quick else PAGE)
    if target:
        fill(
            "scoring_throughput.md",
            target,
            command=f"python benchmarks/scoring_throughput.py --threads {chosen.threads}"
            + " --quick" * chosen.quick,
            commit=commit(),
            machine=machine,
            tables=measured,
            vit=figures["vit-b32_gflop_per_image"],
            lite=figures["daclip-lite_gflop_per_image"],
        )


if __name__ == "__main__":
    main()
