"""What the reward pool costs as its data set grows.

    python benchmarks/pool_scale.py [--quick] [--entries 1000 100000 1000000] [--json FILE] [--page FILE]

Everything in one run on one machine: pools of several sizes are open at once and take turns, so that whatever
else the machine does falls on all of them. All logs are synced at every answer (`appendfsync always`).
Decisions are offers for random images of which a tenth is good enough to enter. Images go in groups, as a
trainer puts them. `--page` writes the results as Markdown; what it says of more than the largest pool is
computed.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from pages import commit, duration, fill, parser, report, table
from rich.filesize import decimal

from pool_store.client import Pool, open_pool
from pool_store.engine.images import encode
from pool_store.engine.pool import RewardPool
from pool_store.schemas import Lineage, Offer
from rgsud_core.images import Image

SCORER = "benchmark"
BATCH = 1024
"""Offers in one call, in process: four scripts in one pipeline."""
HTTP_BATCH = 64
GROUP = 8
"""Images that a trainer offers together."""
CONNECTIONS = 16
"""Groups on their way to the service at a time."""
SIDE = 256
"""Side, in pixels, of a square of noise, whose lossless WebP has 200 KB."""
SERVE = "from pool_store.cli import app; app()"
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
ENTERING = 0.1
"""Share of an epoch's candidates that enter the pool, for what is computed."""
ROWS = (
    ("decisions/s, in process, 1,024 pipelined", "decisions_per_s", "{:,.0f}"),
    ("one decision, ms, p50", "decision_p50_ms", "{:.2f}"),
    ("one decision, ms, p99", "decision_p99_ms", "{:.2f}"),
    ("decisions/s, HTTP, batches of 64", "http_decisions_per_s", "{:,.0f}"),
    ("one batch of 64, HTTP, ms, p50", "http_batch_of_64_p50_ms", "{:.1f}"),
    ("one batch of 64, HTTP, ms, p99", "http_batch_of_64_p99_ms", "{:.1f}"),
    ("accepted 200 KB images/s, HTTP", "http_accepted_per_s", "{:,.0f}"),
    ("eight of them, HTTP, ms, p50", "http_accepted_8_p50_ms", "{:.1f}"),
    ("eight of them, HTTP, ms, p99", "http_accepted_8_p99_ms", "{:.1f}"),
    ("all statistics, ms, p50", "stats_p50_ms", "{:.2f}"),
    ("bytes an entry in Redis", "redis_bytes_per_entry", "{:.0f}"),
    ("ready after a start, s", "ready_s", "{:.1f}"),
)


class Load:
    """Offers that fill a pool of `entries` images, and offers to measure it with."""

    def __init__(self, entries: int, digest: str, seed: int = 0) -> None:
        self.entries, self._digest = entries, digest
        self._rng = np.random.default_rng(seed)
        self._step = 0
        self._best = self._rng.normal(size=entries)

    def first(self) -> Iterator[list[Offer]]:
        """One offer for every image."""
        for start in range(0, self.entries, BATCH):
            numbers = np.arange(start, min(start + BATCH, self.entries))
            yield self._offers(numbers, self._best[numbers])

    def next(self, count: int, size: int = BATCH) -> list[list[Offer]]:
        """Batches of offers for random images, of which a tenth is better than what there was."""
        return [self._batch(size) for _ in range(count // size)]

    def distinct(self, count: int) -> list[Offer]:
        """One offer for each of so many random images."""
        numbers = self._rng.choice(self.entries, count, replace=False)
        return self._offers(numbers, np.zeros(count))

    def _batch(self, size: int) -> list[Offer]:
        numbers = self._rng.integers(self.entries, size=size)
        better = np.where(self._rng.random(size) < ENTERING, 0.01, -1.0)
        scores = self._best[numbers] + better * self._rng.random(size)
        np.maximum.at(self._best, numbers, scores)
        return self._offers(numbers, scores)

    def _offers(self, numbers: Any, scores: Any) -> list[Offer]:
        self._step += 1
        lineage = Lineage(run="benchmark", step=self._step, stage=1, worker=0, time=time.time())
        return [
            Offer(id=name(number), log_odds=score, fingerprint=SCORER, digest=self._digest, lineage=lineage)
            for number, score in zip(numbers.tolist(), scores.tolist(), strict=True)
        ]


def name(number: int) -> str:
    """Ten characters."""
    return f"rain-{number:05d}" if number < 100_000 else f"r-{number:08d}"


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def percentiles(times: Sequence[float], label: str) -> dict[str, float]:
    """p50 and p99 in ms."""
    low, high = np.percentile(times, (50, 99)) * 1000
    return {f"{label}_p50_ms": float(low), f"{label}_p99_ms": float(high)}


class Subject:
    """A pool of one size and what has been measured on it."""

    def __init__(self, entries: int, folder: Path) -> None:
        self.entries, self.spec = entries, f"embedded:{folder}"
        self.pool = self._open()
        self.load = Load(entries, self.pool.put_image(np.zeros((8, 8, 3), np.uint8)), seed=entries)
        self.figures: dict[str, float] = {}
        self._rates: list[float] = []
        empty = self._memory()
        self.figures["filled_per_s"] = entries / timed(
            lambda: [*map(self.pool.offer_many, self.load.first())]
        )
        self.settle()
        self.figures["redis_bytes_per_entry"] = (self._memory() - empty) / entries

    def _open(self) -> RewardPool:
        pool = open_pool(self.spec, fingerprint=SCORER)
        assert isinstance(pool, RewardPool)
        return pool

    def _memory(self) -> int:
        return int(self.pool.server.client.info("memory")["used_memory"])

    def settle(self) -> None:
        """Waits until the server has rewritten its log, if it is at it."""
        while self.pool.server.client.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.1)

    def decide(self, count: int) -> None:
        """One turn of pipelined decisions."""
        batches = self.load.next(count)
        self._rates.append(count / timed(lambda: [*map(self.pool.offer_many, batches)]))

    def latencies(self, count: int) -> None:
        """One turn of decisions one at a time, and of statistics."""
        ones = [batch[0] for batch in self.load.next(count, 1)]
        self.figures |= percentiles([timed(lambda o=offer: self.pool.offer(o)) for offer in ones], "decision")
        self.figures |= percentiles([timed(self.pool.stats) for _ in range(20)], "stats")

    def serve(self, images: list[Image], batches: int) -> None:
        """The same over HTTP, by a service in a process of its own."""
        with service(self.pool) as url:
            remote = open_pool(url, fingerprint=SCORER)
            times: list[float] = []
            rates = []
            for _ in range(3):
                work = self.load.next(batches * HTTP_BATCH // 3, HTTP_BATCH)
                with ThreadPoolExecutor(2) as pool:
                    ask = lambda batch: times.append(timed(lambda: remote.offer_many(batch)))  # noqa: E731
                    took = timed(lambda work=work, pool=pool, ask=ask: [*pool.map(ask, work)])
                rates.append(len(work) * HTTP_BATCH / took)
            self.figures["http_decisions_per_s"] = statistics.median(rates)
            self.figures |= percentiles(times, f"http_batch_of_{HTTP_BATCH}")
            self.figures |= accepted(remote, images, self.load)
            remote.close()

    def restart(self) -> None:
        """How long it takes until a server that starts with this pool answers."""
        self.figures["decisions_per_s"] = statistics.median(self._rates)
        self.pool.close()
        started = time.perf_counter()
        self.pool = self._open()
        assert self.pool.entries([name(0)])
        self.figures["ready_s"] = time.perf_counter() - started


def accepted(pool: Pool, images: list[Image], load: Load) -> dict[str, float]:
    """Rate of images that are put and then enter, and the latency of `GROUP` of them, put and offered
    together; several groups at a time."""
    best = 1e6 + pool.stats().offers  # better than what is there, and than what was put before
    numbers = load.distinct(len(images))

    def put(start: int) -> float:
        def work() -> None:
            digests = pool.put_images(images[start : start + GROUP])
            offers = [
                numbers[index].model_copy(update={"digest": digest, "log_odds": best + index})
                for index, digest in enumerate(digests, start)
            ]
            assert all(decision.status == "replaced" for decision in pool.offer_many(offers))

        return timed(work)

    with ThreadPoolExecutor(CONNECTIONS) as workers:
        started = time.perf_counter()
        times = list(workers.map(put, range(0, len(images), GROUP)))
        rate = len(images) / (time.perf_counter() - started)
    return {"http_accepted_per_s": rate, **percentiles(times, f"http_accepted_{GROUP}")}


@contextmanager
def service(pool: RewardPool) -> Iterator[str]:
    """`rgsud pool serve` over the server of an embedded pool; its URL."""
    spec = pool.address.replace(f"&pool={pool.name}", "")
    command = [sys.executable, "-c", SERVE, "serve", spec, "--port", "0", "--rate", "1000000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout
        words = (word for line in process.stdout for word in line.split())
        yield next(word for word in words if word.startswith("http://"))
    finally:
        process.terminate()
        process.wait()


def measure(entries: Sequence[int], quick: bool) -> dict[str, float]:
    """Every figure, with the number of entries before its name."""
    turns, decisions, singles, blobs, http = (3, 4096, 200, 60, 30) if quick else (7, 30_720, 2000, 400, 450)
    rng = np.random.default_rng(0)

    def noise(count: int) -> list[Image]:
        return [rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(count)]

    results: dict[str, float] = {"cores": os.cpu_count() or 1, "blob_bytes": len(encode(noise(1)[0]))}
    results["encode_ms"] = 1e3 * statistics.median(timed(lambda i=i: encode(i)) for i in noise(20))
    with TemporaryDirectory(prefix="pool-scale-") as scratch, ExitStack() as stack:
        subjects = []
        for number in entries:
            print(f"filling a pool of {number:,} entries")
            subjects.append(Subject(number, Path(scratch, str(number))))
            stack.callback(lambda subject=subjects[-1]: subject.pool.close())
        print("deciding, in turns")
        for turn in range(turns + 1):
            for subject in subjects:
                subject.decide(decisions)
                if turn == 0:  # to warm up
                    subject._rates.clear()
        for subject in subjects:
            print(f"{subject.entries:,} entries: latencies, images, HTTP, start")
            subject.settle()
            subject.latencies(singles)
            subject.serve(noise(blobs), http)
            subject.restart()
            results |= {f"{subject.entries}_{key}": value for key, value in subject.figures.items()}
    return results


def write_page(page: Path, results: Mapping[str, float], entries: Sequence[int]) -> None:
    """The figures as tables, and what follows from them for larger data sets."""
    least, most = min(entries), max(entries)
    decisions, accepted = (results[f"{most}_http_{what}_per_s"] for what in ("decisions", "accepted"))
    each = 1e3 / decisions + ENTERING * 1e3 / accepted
    measured = [
        [label, *(shape.format(results[f"{number}_{key}"]) for number in entries)]
        for label, key, shape in ROWS
    ]
    computed = [
        [
            f"{number:,}",
            decimal(round(number * results[f"{most}_redis_bytes_per_entry"])),
            decimal(round(number * results["blob_bytes"])),
            f"{max(1, -(-number // 10_000_000)):,}",
            duration(number * each / 1e3),
            "measured" if number in entries else "within" if number < most else "beyond",
        ]
        for number in SIZES
    ]
    heads = ["images", "Redis", "images on disk", "sub-pools", "pool, per epoch, one client", "size"]
    fill(
        "pool_scale.md",
        page,
        command=f"python benchmarks/pool_scale.py {' '.join(sys.argv[1:])}",
        commit=commit(),
        machine=f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        measured=table(["", *(f"{number:,} entries" for number in entries)], measured),
        smallest=least,
        largest=most,
        slower=results[f"{least}_decisions_per_s"] / results[f"{most}_decisions_per_s"],
        encode_ms=results["encode_ms"],
        entering=ENTERING,
        blob_kb=results["blob_bytes"] / 1e3,
        each=each,
        computed=table(heads, computed),
    )


def main() -> None:
    """Measure, print, write the figures and the page."""
    options = parser(__doc__)
    options.add_argument("--entries", type=int, nargs="+", help="sizes of the pools (1000 100000 1000000)")
    options.add_argument("--page", type=Path, help="where the page goes")
    chosen = options.parse_args()
    entries = sorted(chosen.entries or ([1000, 20_000] if chosen.quick else [1000, 100_000, 1_000_000]))
    results = measure(entries, chosen.quick)
    report(results, chosen.json)
    if chosen.page:
        write_page(chosen.page, results, entries)


if __name__ == "__main__":
    main()
