"""Whether the services stay as they are: a mix of good and bad requests for half an hour.

    python benchmarks/soak.py [--minutes 30] [--rate 20] [--quick] [--json FILE] [--page FILE]

The pool's service with an embedded server, and the scorer's HTTP service with daclip-lite in its own process,
without Ray; this process sends, open-loop at a stated rate. The verdict: memory at the end at most 5 % above
that at five minutes, no answer 500, none 503 without Retry-After, and health answers below a second.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import httpx
from pages import commit, fill, parser, processor, table
from soak_requests import POOL, NoRetryAfterError, Request, pool_requests, scorer_requests

PAGE = Path(__file__).parent / "results" / "soak.md"
SENDERS = 8
"""Requests in hand at a time for each service."""
HEALTH_EVERY, MEMORY_EVERY = 0.5, 5.0
PATIENCE = 30.0
GROWTH, HEALTH = 0.05, 1.0
"""Most that memory may grow after a sixth of the time, and that a health answer may take, in seconds."""


@dataclass
class Service:
    """One service under load, and what was seen of it."""

    name: str
    url: str
    process: int
    requests: list[Request]
    rate: float
    """Requests a second."""
    answers: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Number of answers by kind of request and status."""
    late: int = 0
    """Requests sent more than a second after their time, since as many as may be were in hand."""
    health: list[float] = field(default_factory=list)
    """Seconds of each health answer."""
    memory: list[tuple[float, float]] = field(default_factory=list)
    """Minutes since the beginning, and resident MB of the process and its children."""
    faults: list[str] = field(default_factory=list)


def resident(process: int) -> float:
    """Resident megabytes of a process and of all it has started."""
    parents, sizes = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            number = int(folder.name)
            parents[number] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            sizes[number] = (
                int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
            )
    family = {process}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    return sum(sizes.get(number, 0.0) for number in family)


def send(service: Service, began: float, until: float, turns: Iterator[int], lock: threading.Lock) -> None:
    """Send the requests whose turn it is, each at its time, until the end."""
    with httpx.Client(base_url=service.url, timeout=PATIENCE) as client:
        while True:
            with lock:
                turn = next(turns)
            due = began + turn / service.rate
            if due >= until:
                return
            time.sleep(max(0.0, due - time.monotonic()))
            late = time.monotonic() - due > 1
            draw = random.Random(turn)  # the same requests in every run
            (request,) = draw.choices(service.requests, [one.weight for one in service.requests])
            try:
                said = str(request.send(client, draw))
            except NoRetryAfterError as problem:
                said = "503 without Retry-After"
                service.faults.append(f"{request.name}: {problem}")
            except httpx.TransportError as problem:  # a refused body is not read to its end
                said = type(problem).__name__
            with lock:
                service.answers[request.name, said] += 1
                service.late += late


def watch(service: Service, began: float, until: float) -> None:
    """Ask for health, and look at the memory, until the end."""
    next_look = began
    with httpx.Client(base_url=service.url, timeout=PATIENCE) as client:
        while (now := time.monotonic()) < until:
            if now >= next_look:
                service.memory.append(((now - began) / 60, resident(service.process)))
                next_look += MEMORY_EVERY
            asked = time.monotonic()
            try:
                client.get("/healthz").raise_for_status()
                service.health.append(time.monotonic() - asked)
            except httpx.HTTPError as problem:
                service.health.append(PATIENCE)
                service.faults.append(f"/healthz: {problem!r}")
            time.sleep(HEALTH_EVERY)


def soak(services: list[Service], minutes: float) -> None:
    """Load all services at once."""
    began = time.monotonic()
    until = began + 60 * minutes
    threads = []
    for service in services:
        turns, lock = itertools.count(), threading.Lock()
        threads += [
            threading.Thread(target=send, args=(service, began, until, turns, lock)) for _ in range(SENDERS)
        ]
        threads.append(threading.Thread(target=watch, args=(service, began, until)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@contextlib.contextmanager
def started(command: list[str], folder: Path) -> Iterator[tuple[str, int]]:
    """A service in a process of its own: its URL and its number."""
    said = folder / "said"
    with said.open("w") as file:
        process = subprocess.Popen(command, stderr=file, stdout=file, cwd=folder)
    try:
        while not (found := re.search(r"http://[\w.:]+", said.read_text())):
            if process.poll() is not None:
                raise SystemExit(f"{command} ended: {said.read_text()[-2000:]}")
            time.sleep(0.1)
        yield found[0], process.pid
    finally:
        process.terminate()
        process.wait()


def serve_scorer() -> None:
    """Serve daclip-lite over HTTP from this process, one call after the other, as a replica of Ray does."""
    import torch

    from iqa_service.registry import open_scorer
    from iqa_service.scorers.remote import Answer, ViewCall
    from iqa_service.serving.batching import ScoringService
    from iqa_service.serving.http_api import limits_of, make_api, tokens_of
    from iqa_service.serving.settings import ServiceSettings
    from rgsud_core.http.runner import run

    torch.set_num_threads(1)

    class InTurn(ScoringService):
        _turn = threading.Lock()

        def score_views(self, call: ViewCall) -> Answer:
            with self._turn:
                return super().score_views(call)

    settings = ServiceSettings()
    api = make_api(InTurn(open_scorer(settings.spec), settings.views_at_once), settings)
    run(
        contextlib.nullcontext(api),
        host="127.0.0.1",
        port=0,
        tokens=tokens_of(settings),
        remedy="",
        limits=limits_of(settings),
        on_ready=lambda url: print(url, flush=True),
    )


def judged(service: Service, minutes: float) -> dict[str, object]:
    """The figures of a service, and whether they are as they must be."""
    settled, end = minutes / 6, minutes

    def around(moment: float) -> float:
        share = max(minutes / 60, 2 * MEMORY_EVERY / 60)
        return fmean(size for at, size in service.memory if moment - share <= at <= moment + share)

    statuses = Counter[str]()
    for (_, said), count in service.answers.items():
        statuses[said] += count
    growth = around(end) / around(settled) - 1
    return {
        "requests_a_second": service.rate,
        "requests": sum(service.answers.values()),
        "late": service.late,
        "answers": dict(sorted(statuses.items())),
        "health_answers": len(service.health),
        "health_seconds_max": max(service.health),
        "memory_mb_settled": around(settled),
        "memory_mb_end": around(end),
        "memory_growth": growth,
        "memory_mb": [round(size, 1) for _, size in service.memory],
        "faults": service.faults[:20],
        "holds": growth <= GROWTH
        and not any(said.startswith("500") or "without" in said for said in statuses)
        and max(service.health) < HEALTH,
    }


def page(services: list[Service], found: dict[str, dict[str, object]], minutes: float) -> dict[str, str]:
    """The parts of the page that are tables."""
    verdicts = table(
        ["service", "requests/s", "sent", "late", "MB at a sixth", "at the end", "growth", "health", "holds"],
        [
            [
                service.name,
                f"{service.rate:g}",
                f"{found[service.name]['requests']:,}",
                found[service.name]["late"],
                f"{found[service.name]['memory_mb_settled']:.1f} MB",
                f"{found[service.name]['memory_mb_end']:.1f} MB",
                f"{found[service.name]['memory_growth']:+.1%}",
                f"{found[service.name]['health_seconds_max']:.2f} s",
                "yes" if found[service.name]["holds"] else "**no**",
            ]
            for service in services
        ],
    )
    moments = [minutes * share / 12 for share in range(13)]
    memory = table(
        ["minute", *(f"{moment:.3g}" for moment in moments)],
        [
            [
                f"{service.name}, MB",
                *(f"{min(service.memory, key=lambda at: abs(at[0] - moment))[1]:.0f}" for moment in moments),
            ]
            for service in services
        ],
    )
    answers = "\n\n".join(
        f"### {service.name}\n\n" + table(["request", "means harm", "answers"], _answers(service))
        for service in services
    )
    return {"verdicts": verdicts, "memory": memory, "answers": answers}


def _answers(service: Service) -> Iterator[list[str]]:
    for request in service.requests:
        counts = {said: n for (name, said), n in sorted(service.answers.items()) if name == request.name}
        total = sum(counts.values()) or 1
        said = ", ".join(f"{'none' if s == '0' else s} {n / total:.1%}" for s, n in counts.items())
        yield [request.name, "" if request.good else "yes", said]


def main() -> None:
    """Soak, print, write the figures and the page."""
    options = parser(__doc__)
    options.add_argument("--page", type=Path, help=f"where the page goes; {PAGE} unless --quick")
    options.add_argument("--minutes", type=float, help="how long (30; with --quick half of one)")
    options.add_argument(
        "--rate", type=float, default=20.0, help="requests a second to the pool; a fifth to the scorer"
    )
    options.add_argument("--nice", type=int, default=0, help="below 0 where others use the machine")
    options.add_argument("--scorer", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.scorer:
        serve_scorer()
        return
    os.nice(chosen.nice)  # inherited by the services
    minutes = chosen.minutes or (0.5 if chosen.quick else 30.0)
    with TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        pool, scorer = (Path(scratch, name) for name in ("pool", "scorer"))
        for folder in (pool, scorer):
            folder.mkdir()
        rgsud = [sys.executable, "-c", "from rgsud.cli import main; main()"]
        serve_pool = [*rgsud, "pool", "serve", f"embedded:{pool / 'data'}", "--port", "0"]
        at_pool = stack.enter_context(started(serve_pool, pool))
        serve_scores = [sys.executable, str(Path(__file__).resolve()), "--scorer"]
        at_scorer = stack.enter_context(started(serve_scores, scorer))
        httpx.put(f"{at_pool[0]}{POOL}", json={"fingerprint": "soak", "keep": 2}).raise_for_status()
        side = httpx.get(f"{at_scorer[0]}/v1/scorer", timeout=60).json()["views"]["size"]
        services = [
            Service("pool", *at_pool, pool_requests(), chosen.rate),
            Service("scorer", *at_scorer, scorer_requests(side), chosen.rate / 5),
        ]
        soak(services, minutes)
    found = {service.name: judged(service, minutes) for service in services}
    parts = page(services, found, minutes)
    for part in parts.values():
        print(part, end="\n\n")
    for service in services:
        print(service.name, *service.faults[:5], sep="\n  ")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=2) + "\n")
    target = chosen.page or (None if chosen.quick else PAGE)
    if target:
        arguments = f"--minutes {minutes:g} --rate {chosen.rate:g}"
        arguments += f" --nice {chosen.nice}" * bool(chosen.nice)
        fill(
            "soak.md",
            target,
            command=f"python benchmarks/soak.py {arguments}",
            commit=commit(),
            machine=f"{processor()}, {os.cpu_count()} cores",
            minutes=f"{minutes:g}",
            verdict="held" if all(one["holds"] for one in found.values()) else "did **not** hold",
            **parts,
        )
    if not all(one["holds"] for one in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
