"""The commands ``rgsud score`` and ``rgsud scorer ...``."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from iqa_service.errors import ScorerBusy, ScorerError
from iqa_service.serving.cli import console, serve
from rgsud_core.errors import RgsudError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from iqa_service.scorers.base import Candidate, ScoreBackend

    _Named = tuple[str, Candidate]
    """The name of a candidate in the table, and the candidate."""

app = typer.Typer(no_args_is_help=True, help="Run a scorer as a service, and make what scorers need.")
app.command()(serve)
_AT_ONCE = 32
_TRIES = 20
"""Attempts at a service that has no room; the service says how long to wait before each."""

_Images = Annotated[list[Path], typer.Argument(help="Images, or folders of images.", show_default=False)]
_Rainy = Annotated[
    Path | None,
    typer.Option(help="The rainy image, or a folder of them by the same names, for scorers that compare."),
]


class _Found(NamedTuple):
    """An image: its path in its folder without suffix, by which a rainy image or a truth is found, and it."""

    id: str
    path: Path


class _Heatmaps(NamedTuple):
    """Where heatmaps go."""

    target: Path
    folder: bool


def score(
    images: _Images,
    scorer: Annotated[
        str,
        typer.Option(help="local:NAME?OPTION=VALUE, package.module:Class, serve:NAME, or an http address."),
    ] = "local:daclip-lite",
    rainy: _Rainy = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output, not a table.")] = False,
    heatmap: Annotated[
        str | None,
        typer.Option(
            help="Draw where each image looks degraded: a .png for one image, a folder for several."
        ),
    ] = None,
) -> None:
    """Score how far images are from showing rain."""
    from iqa_service.registry import open_scorer

    problems: list[str] = []
    found = _find(images, problems)
    drawings = None if heatmap is None else _heatmaps(heatmap, len(found))
    backend = open_scorer(scorer)
    try:
        rows = _score_all(backend, found, rainy, drawings, problems)
    finally:
        backend.close()
    _show(backend, rows, as_json)
    _report(problems)


@app.command()
def reference(
    of: Annotated[str, typer.Argument(help="Members, as local:ensemble?of=... takes them: NAME,NAME.")],
    images: _Images,
    output: Annotated[Path, typer.Option(help="Where the reference goes.")] = Path("reference.json"),
    rainy: _Rainy = None,
) -> None:
    """Write the reference of an ensemble: how its members score some images."""
    from iqa_service.registry import open_scorer
    from iqa_service.scorers.ensemble import write_reference
    from rgsud_core.files import check_writable

    check_writable(output.parent)
    problems: list[str] = []
    candidates = [candidate for _, candidate in _load(_find(images, problems), rainy, problems)]
    written = write_reference(open_scorer, of, candidates, output)
    console.print(
        f"The reference of {written.images} images. Use it with local:ensemble?of={of}&reference={output}",
    )
    _report(problems)


def _score_all(
    backend: ScoreBackend,
    found: dict[str, _Found],
    rainy: Path | None,
    drawings: _Heatmaps | None,
    problems: list[str],
) -> list[tuple[str, float]]:
    rows: list[tuple[str, float]] = []
    held: list[_Named] = []

    def flush() -> None:
        scored = _scored(backend, held, problems)
        rows.extend((name, log_odds) for (name, _), log_odds in scored)
        if drawings is not None:
            _draw(backend, scored, drawings, problems)
        held.clear()

    for named in _load(found, rainy, problems):
        held.append(named)
        if len(held) == _AT_ONCE:
            flush()
    flush()
    return rows


def _scored(backend: ScoreBackend, held: list[_Named], problems: list[str]) -> list[tuple[_Named, float]]:
    """Each candidate with its log-odds; one that fails joins the problems, and the others are scored."""
    try:
        odds = _score_patiently(backend, [candidate for _, candidate in held])
        return list(zip(held, map(float, odds), strict=True))
    except ScorerError as error:
        if len(held) == 1:
            problems.append(str(error))
            return []
    return [one for named in held for one in _scored(backend, [named], problems)]


def _score_patiently(backend: ScoreBackend, candidates: list[Candidate]) -> NDArray[np.float32]:
    for _ in range(_TRIES):
        try:
            return backend.score(candidates)
        except ScorerBusy as busy:
            time.sleep(min(busy.retry_after, 5))
    return backend.score(candidates)


def _heatmaps(given: str, images: int) -> _Heatmaps:
    """Where heatmaps go, tried before the work: a name with a suffix is a file, unless it ends in ``/``."""
    from matplotlib.backend_bases import FigureCanvasBase

    from rgsud_core.files import check_writable

    target = Path(given)
    folder = given.endswith("/") or target.is_dir() or not target.suffix
    if images > 1 and not folder:
        raise ScorerError(f"--heatmap {target} is one file for {images} images: give a folder, {given}/")
    if not folder and target.suffix[1:].lower() not in FigureCanvasBase.get_supported_filetypes():
        raise ScorerError(f"--heatmap {target} has no suffix of an image format: end it in .png")
    check_writable(target if folder else target.parent)
    return _Heatmaps(target, folder)


def _draw(
    backend: ScoreBackend, scored: list[tuple[_Named, float]], drawings: _Heatmaps, problems: list[str]
) -> None:
    from iqa_service.heatmap import draw_heatmap, tile_scores

    for (name, candidate), log_odds in scored:
        path = drawings.target / f"{name}.png" if drawings.folder else drawings.target
        title = f"{name}: log-odds {log_odds:+.2f} by {backend.name}"
        try:
            draw_heatmap(candidate.image, tile_scores(backend, candidate), title, path)
        except ScorerError as error:  # a tile may be too small for a scorer that the image is not
            problems.append(f"no heatmap of '{name}', {error}")
        except OSError as error:
            problems.append(f"no heatmap at '{path}' ({error.strerror or error})")


def _find(sources: list[Path], problems: list[str]) -> dict[str, _Found]:
    """The images in files and folders, each by a name of its own."""
    from rgsud_core.images import identity, listing

    found: dict[str, _Found] = {}
    for source in sources:
        folder = source if source.is_dir() else source.parent
        try:
            below = listing(source) if source.is_dir() else ([source], [])
        except RgsudError as error:
            problems.append(str(error))
            continue
        if below[1]:
            console.print(f"{len(below[1])} entries of {source} are no images, or linked folders.")
        ids = Counter(identity(path, folder) for path in below[0])
        for path in below[0]:
            id = identity(path, folder)
            # Images may differ in their suffix alone, and several folders may hold the same names.
            shown = id if ids[id] == 1 else path.relative_to(folder).as_posix()
            place = folder.resolve().name
            names = chain((shown, f"{place}/{shown}"), (f"{place} {number}/{shown}" for number in count(2)))
            found[next(name for name in names if name not in found)] = _Found(id, path)
    return found


def _load(found: dict[str, _Found], rainy: Path | None, problems: list[str]) -> Iterator[_Named]:
    from iqa_service.scorers.base import Candidate
    from rgsud_core.images import frames, images_below, read_image

    beside: dict[str, Path] = {}
    if rainy is not None and rainy.is_dir():
        beside = images_below(rainy)
    elif rainy is not None:
        beside = {one.id: rainy for one in found.values()}
    for name, (id, path) in found.items():
        try:
            if rainy is not None and id not in beside:
                raise ScorerError(f"no rainy image '{id}' for '{path}' in '{rainy}': give one by that name")
            wet = read_image(beside[id]) if id in beside else None
            candidate = Candidate(id, read_image(path), wet)
            if (several := frames(path)) > 1:
                console.print(f"{path} has {several} frames or pages: the first is scored.")
        except RgsudError as error:
            problems.append(str(error))
        else:
            yield name, candidate


def _show(backend: ScoreBackend, rows: list[tuple[str, float]], as_json: bool) -> None:
    if as_json:
        scores = [
            {"image": id, "log_odds": odds, "reward": _reward(odds), "report": _reward(-odds)}
            for id, odds in rows
        ]
        table = {"scorer": backend.name, "fingerprint": backend.fingerprint, "scores": scores}
        typer.echo(json.dumps(table, indent=2))
        return
    from rich.table import Table

    from rgsud_core.console import make_console

    shown = Table(title=f"Scores by {backend.name}")
    shown.add_column("image", overflow="fold")
    for heading in ("log-odds", "reward", "report"):
        shown.add_column(heading, justify="right")
    for id, odds in rows:
        shown.add_row(id, f"{odds:+.3f}", f"{_reward(odds):.4f}", f"{_reward(-odds):.4f}")
    make_console().print(shown)
    typer.echo("Higher log-odds and reward are better, and a lower report.", err=True)


def _reward(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds)) if log_odds > -700 else 0.0


def _report(problems: list[str]) -> None:
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise ScorerError(f"not everything was scored: {problems[0]}{more}")
