"""The commands `rgsud pool ...`."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import BaseModel
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from pool_store.client import Pool, open_pool
from pool_store.schemas import PoolSettings, Stats
from rgsud_core.console import make_console

app = typer.Typer(no_args_is_help=True, help="Serve, inspect and maintain reward pools.")
console = make_console(stderr=True)

Spec = Annotated[str, typer.Argument(help="The pool: embedded:FOLDER, redis://..., http://HOST:PORT/NAME.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


@app.command()
def serve(
    pools: Annotated[
        str,
        typer.Argument(help="Where the pools are stored: embedded:FOLDER or redis://HOST:PORT/DB?blobs=URL."),
    ],
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback needs a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8080,
    token_file: Annotated[
        Path | None, typer.Option(help="File of more tokens: lines 'read TOKEN' or 'write TOKEN'.")
    ] = None,
    body_megabytes: Annotated[int, typer.Option(min=1, help="Largest image or batch, in MB.")] = 64,
    megapixels: Annotated[int, typer.Option(min=1, help="Largest image, in megapixels.")] = 40,
    dump_megabytes: Annotated[
        int,
        typer.Option(min=1, help="Largest snapshot to restore, in MB; it takes ten times as much memory."),
    ] = 64,
    rate: Annotated[float, typer.Option(min=1, help="Requests per second allowed to one client.")] = 2000,
    access_log: Annotated[
        bool, typer.Option(help="Print a line of JSON to stderr for every request.")
    ] = False,
) -> None:
    """Serve pools over HTTP, with a page to look at them.

    RGSUD_POOL_TOKEN holds the token for reading and writing, RGSUD_POOL_READ_TOKEN one for reading only.
    """
    from pool_store.http.app import TOKEN_VARIABLES
    from pool_store.http.limits import Limits
    from pool_store.http.server import serve as run
    from rgsud_core.http.security import Tokens

    with _plain_warnings():
        run(
            pools,
            host=host,
            port=port,
            tokens=Tokens.load(TOKEN_VARIABLES, token_file),
            limits=Limits(
                body=body_megabytes << 20,
                dump=dump_megabytes << 20,
                pixels=megapixels * 1_000_000,
                rate=rate,
            ),
            access_log=access_log,
            on_ready=lambda url: console.print(f"The reward pools: {url} (Ctrl-C ends it)"),
        )


@app.command()
def stats(pool: Spec, json: Json = False) -> None:
    """Show the figures of a pool."""
    with _opened(pool) as opened:
        found = opened.stats()
    _print(found, _figures(found), json)


@app.command()
def verify(pool: Spec, json: Json = False) -> None:
    """Read every image that the pool refers to; exit code 1 if one is missing or damaged."""
    with _opened(pool) as opened:
        found = opened.verify()
    table = Table(title="Damaged")
    for heading in ("image", "digest", "problem"):
        table.add_column(heading, overflow="fold")
    for damage in found.damaged:
        table.add_row(damage.id, damage.digest[:12], damage.problem)
    summary = f"{found.entries} entries, {found.candidates} images, {len(found.damaged)} damaged"
    _print(found, Group(summary, table) if found.damaged else summary, json)
    if not found.whole:
        sys.exit(1)


@app.command()
def sweep(
    pool: Spec,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds for which replaced and unused images are kept.")
    ] = 3600.0,
    json: Json = False,
) -> None:
    """Remove images that no entry refers to."""
    with _opened(pool) as opened:
        swept = opened.sweep(grace)
    table = Table("removed", "freed")
    table.add_row(f"{swept.blobs} images", decimal(swept.bytes))
    _print(swept, table, json)


@app.command("export")
def export_(
    pool: Spec,
    target: Annotated[Path, typer.Argument(help="A new folder, or a new file that ends in .tar.")],
    format: Annotated[
        Literal["webp", "png"], typer.Option(help="Format of the images; both are lossless.")
    ] = "webp",
    json: Json = False,
) -> None:
    """Write a pool's rewards to a folder or .tar: the images, and a table of their scores and origins."""
    from pool_store.transfer import export_pool

    with _opened(pool) as opened:
        moved = export_pool(opened, target, format)
    _print(moved, f"{moved.entries} entries, {moved.candidates} images: {target}", json)


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="The folder or .tar of an export.")],
    pool: Spec,
    json: Json = False,
) -> None:
    """Offer everything in an export to a pool, which is created if it is missing."""
    from pool_store.transfer import import_pool, settings_of

    settings = settings_of(source)
    with _opened(pool, settings) as opened:
        moved = import_pool(opened, source)
    summary = f"{moved.entries} entries, {moved.candidates} images, {moved.replaced} of them entered: {pool}"
    _print(moved, summary, json)


@contextlib.contextmanager
def _opened(spec: str, made_as: PoolSettings | None = None) -> Iterator[Pool]:
    """The pool as it is, or made where it is missing."""
    with _plain_warnings():
        pool = (
            open_pool(spec, fingerprint=made_as.fingerprint, keep=made_as.keep)
            if made_as
            else open_pool(spec, fingerprint=None)
        )
        with contextlib.closing(pool):
            yield pool


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as sentences, without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: console.print(
            Text.assemble(("rgsud:", "yellow"), f" {message}")
        )
        yield


def _print(found: BaseModel, shown: RenderableType, json: bool) -> None:
    if json:
        print(found.model_dump_json(indent=2))
    else:
        make_console().print(shown)


def _figures(stats: Stats) -> Table:
    table = Table(title="Reward pool", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows: dict[str, str | None] = {
        "images with a reward": f"{stats.entries}" + (f" of {stats.size}" if stats.size else ""),
        "coverage": None if stats.coverage is None else f"{stats.coverage:.1%}",
        "offers": f"{stats.offers}",
        "replaced": f"{stats.replacements} ({stats.acceptance:.1%})",
        "kept": f"{stats.kept}",
        "stale": f"{stats.stale}",
        "mean reward": None if stats.mean_reward is None else f"{stats.mean_reward:.4f}",
        "mean log-odds": None if stats.mean_log_odds is None else f"{stats.mean_log_odds:.3f}",
        "stored": f"{stats.blobs} images, {decimal(stats.blob_bytes)}",
    }
    if at := stats.quantiles:
        rows["log-odds at 5, 50, 95 %"] = f"{at.p05:.3f}, {at.p50:.3f}, {at.p95:.3f}"
    if ages := stats.ages:
        shown = (_age(seconds) for seconds in (ages.newest, ages.median, ages.oldest))
        rows["age: newest, median, oldest"] = ", ".join(shown)
    for stage, of in stats.per_stage.items():
        rows[f"stage {stage}"] = f"{of.replacements} of {of.offers} offers replaced"
    for name, value in rows.items():
        if value is not None:
            table.add_row(name, value)
    return table


def _age(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
