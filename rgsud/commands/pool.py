"""`rgsud pool ...`: the pool's own commands, and the one that needs a scorer too."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from pool_store.cli import Spec, console
from pool_store.cli import app as app
from pool_store.client import open_pool


@app.command()
def rescore(
    pool: Spec,
    target: Annotated[str, typer.Argument(help="Address of the new pool.")],
    scorer: Annotated[str, typer.Option(help="Scorer to score the rewards with, as in recycling.scorer.")],
) -> None:
    """Score a pool's rewards with another scorer, into a new pool."""
    from rich.progress import Progress

    from iqa_service.registry import open_scorer
    from iqa_service.scorers.base import Candidate
    from pool_store.transfer import rescore_pool

    with contextlib.ExitStack() as stack:
        source = stack.enter_context(contextlib.closing(open_pool(pool, fingerprint=None)))
        backend = stack.enter_context(contextlib.closing(open_scorer(scorer)))
        into = open_pool(target, fingerprint=backend.fingerprint, keep=source.keep)
        stack.callback(into.close)
        bar = stack.enter_context(Progress(console=console))
        task = bar.add_task("Scoring", total=source.stats().entries)
        moved = rescore_pool(
            source,
            into,
            lambda held: backend.score([Candidate(*one) for one in held]).tolist(),
            on_progress=lambda done: bar.update(task, completed=done),
        )
    said = f"{moved.entries} images have rewards by scorer {backend.fingerprint}: {target}"
    console.print(said)
