"""What the benchmarks have in common: options, figures, pages, and a Ray Serve of their own."""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


def parser(program: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has; ``program`` describes it."""
    made = argparse.ArgumentParser(description=program, formatter_class=argparse.RawTextHelpFormatter)
    made.add_argument("--quick", action="store_true", help="little of everything, for a look")
    made.add_argument("--json", type=Path, help="where the figures go")
    return made


def report(figures: Mapping[str, float], target: Path | None) -> None:
    """Print the figures, and write them to a JSON file if one is named."""
    for key, value in figures.items():
        print(f"{key:60} {value:14,.4g}")
    if target is not None:
        target.write_text(json.dumps(figures, indent=2) + "\n")


def commit() -> str:
    """Short name of the measured commit."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    folder = Path(__file__).parent
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False).stdout.strip()


def processor() -> str:
    """The processor's name."""
    with open("/proc/cpuinfo") as lines:
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def fill(template: str, page: Path, **values: object) -> None:
    """Write a page: the text of ``templates/TEMPLATE`` with its fields, as str.format has them, filled in."""
    page.write_text((Path(__file__).parent / "templates" / template).read_text().format(**values))


def table(heads: Sequence[object], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    head, *rest = (f"| {' | '.join(map(str, cells))} |" for cells in (heads, *lines))
    return "\n".join((head, f"|{'---|' * len(heads)}", *rest))


def duration(seconds: float) -> str:
    """A duration in the unit that fits: 2.5 days."""
    for unit, size in (("s", 60), ("min", 60), ("h", 24), ("days", 365)):
        if seconds < size:
            return f"{seconds:,.1f} {unit}"
        seconds /= size
    return f"{seconds:,.1f} years"


@contextmanager
def serving() -> Iterator[int]:
    """Ray Serve in a Ray of its own; the port of its proxy."""
    import ray
    from ray import serve

    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    ray.init(address="local", num_cpus=os.cpu_count(), include_dashboard=False, **quiet)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    serve.start(proxy_location="HeadOnly", http_options={"port": port})
    yield port
    serve.shutdown()
    ray.shutdown()
