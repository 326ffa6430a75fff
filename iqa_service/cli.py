"""The command ``rgsud score``."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iqa_service.errors import ScorerBusy, ScorerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from iqa_service.backends import Candidate, ScoreBackend
    from iqa_service.views import Image

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}
_AT_ONCE = 32
_TRIES = 20
"""At a service that has no room, with its own idea of a pause between them."""


def score(
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", show_default=False)],
    scorer: Annotated[
        str, typer.Option(help="local:NAME?OPTION=VALUE, serve:NAME, or the address of a scorer.")
    ] = "local:daclip-lite",
    rainy: Annotated[
        Path | None,
        typer.Option(
            help="The rainy image, or a folder of them by the same names, for scorers that compare."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output, not a table.")] = False,
    heatmap: Annotated[
        Path | None,
        typer.Option(
            help="Draw where each image looks degraded: a .png for one image, a folder for several."
        ),
    ] = None,
    reference_out: Annotated[
        Path | None,
        typer.Option(
            help="With local:ensemble?of=...: keep how its members score these images, as reference."
        ),
    ] = None,
) -> None:
    """Score images: how far each is from showing rain."""
    from iqa_service.registry import open_scorer

    problems: list[str] = []
    found = _find(images, problems)
    if reference_out is not None:
        _reference(scorer, list(_load(found, rainy, problems)), reference_out, problems)
        return
    if heatmap is not None and len(found) > 1 and heatmap.suffix:
        raise ScorerError(f"--heatmap {heatmap} is one file for {len(found)} images: give a folder")
    backend = open_scorer(scorer)
    try:
        rows = _score_all(backend, found, rainy, heatmap, problems)
    finally:
        backend.close()
    _show(backend, rows, as_json)
    _complain(problems)


def _score_all(
    backend: ScoreBackend,
    found: dict[str, Path],
    rainy: Path | None,
    heatmap: Path | None,
    problems: list[str],
) -> list[tuple[str, float]]:
    rows: list[tuple[str, float]] = []
    held: list[Candidate] = []

    def flush() -> None:
        scored = _scored(backend, held, problems)
        rows.extend((candidate.id, log_odds) for candidate, log_odds in scored)
        if heatmap is not None:
            _draw(backend, scored, heatmap, problems)
        held.clear()

    for candidate in _load(found, rainy, problems):
        held.append(candidate)
        if len(held) == _AT_ONCE:
            flush()
    flush()
    return rows


def _scored(
    backend: ScoreBackend, candidates: list[Candidate], problems: list[str]
) -> list[tuple[Candidate, float]]:
    """Each candidate with its log-odds; one that fails is named among the problems and costs no other."""
    try:
        return list(zip(candidates, map(float, _patiently(backend, candidates)), strict=True))
    except ScorerError as error:
        if len(candidates) == 1:
            problems.append(str(error))
            return []
    return [one for candidate in candidates for one in _scored(backend, [candidate], problems)]


def _patiently(backend: ScoreBackend, candidates: list[Candidate]) -> NDArray[np.float32]:
    for _ in range(_TRIES):
        try:
            return backend.score(candidates)
        except ScorerBusy as busy:
            time.sleep(min(busy.retry_after, 5))
    return backend.score(candidates)


def _draw(
    backend: ScoreBackend, scored: list[tuple[Candidate, float]], target: Path, problems: list[str]
) -> None:
    from iqa_service.heatmap import draw_heatmap, tile_scores

    for candidate, log_odds in scored:
        path = target if target.suffix else target / f"{candidate.id}.png"
        title = f"{candidate.id}: log-odds {log_odds:+.2f} by {backend.name}"
        try:
            draw_heatmap(candidate.image, tile_scores(backend, candidate), title, path)
        except ScorerError as error:  # a tile may be too small for a scorer that the image is not
            problems.append(f"no heatmap of '{candidate.id}', {error}")


def _find(sources: list[Path], problems: list[str]) -> dict[str, Path]:
    """The images in files and folders, by id: the path in its folder without suffix."""
    found: dict[str, Path] = {}
    for source in sources:
        if source.is_dir():
            files = sorted(path for path in source.rglob("*") if path.suffix.lower() in _SUFFIXES)
            if not files:
                problems.append(f"no images in the folder '{source}'")
            named = [(path.relative_to(source).with_suffix("").as_posix(), path) for path in files]
        else:
            named = [(source.stem, source)]
        for id, path in named:
            # Two folders may hold the same names; whole paths tell them apart.
            found[path.as_posix() if id in found else id] = path
    return found


def _load(found: dict[str, Path], rainy: Path | None, problems: list[str]) -> Iterator[Candidate]:
    from iqa_service.backends import Candidate

    beside: dict[str, Path] = {}
    if rainy is not None and rainy.is_dir():
        files = (path for path in rainy.rglob("*") if path.suffix.lower() in _SUFFIXES)
        beside = {path.relative_to(rainy).with_suffix("").as_posix(): path for path in files}
    elif rainy is not None:
        beside = dict.fromkeys(found, rainy)
    for id, path in found.items():
        try:
            if rainy is not None and id not in beside:
                raise ScorerError(f"no rainy image '{id}' for '{path}' in '{rainy}': give one by that name")
            yield Candidate(id, _read(path), _read(beside[id]) if id in beside else None)
        except ScorerError as error:
            problems.append(str(error))


def _read(path: Path) -> Image:
    import numpy as np
    import PIL.Image

    try:
        with PIL.Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        raise ScorerError(f"cannot read '{path}' as an image ({error})") from error


def _reference(scorer: str, candidates: list[Candidate], path: Path, problems: list[str]) -> None:
    from iqa_service.ensemble import write_reference
    from iqa_service.registry import parse_spec

    name, options = parse_spec(scorer)
    if name != "local:ensemble" or "of" not in options:
        raise ScorerError(
            "--reference-out needs --scorer 'local:ensemble?of=NAME,NAME': only it ranks by one"
        )
    written = write_reference(options["of"], candidates, path)
    typer.echo(f"The reference of {written.images} images: {path}", err=True)
    _complain(problems)


def _show(backend: ScoreBackend, rows: list[tuple[str, float]], as_json: bool) -> None:
    if as_json:
        scores = [
            {"image": id, "log_odds": odds, "reward": _reward(odds), "report": _reward(-odds)}
            for id, odds in rows
        ]
        said = {"scorer": backend.name, "fingerprint": backend.fingerprint, "scores": scores}
        typer.echo(json.dumps(said, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"Scores by {backend.name}")
    table.add_column("image", overflow="fold")
    for heading in ("log-odds", "reward", "report"):
        table.add_column(heading, justify="right")
    for id, odds in rows:
        table.add_row(id, f"{odds:+.3f}", f"{_reward(odds):.4f}", f"{_reward(-odds):.4f}")
    Console().print(table)
    typer.echo("Higher log-odds and reward are better, and a lower report.", err=True)


def _reward(log_odds: float) -> float:
    return 1 / (1 + math.exp(-log_odds)) if log_odds > -700 else 0.0


def _complain(problems: list[str]) -> None:
    if problems:
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise ScorerError(f"not everything was scored: {problems[0]}{more}")
