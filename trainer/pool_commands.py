"""`rgsud pool ...`: the pool's own commands, and the one that needs a scorer too."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from pool_store.cli import Spec, console
from pool_store.cli import app as app
from pool_store.client import Pool, open_pool
from pool_store.schemas import Offer

if TYPE_CHECKING:
    from iqa_service.backends import ScoreBackend

BATCH = 16
"""Entries whose images are in memory at a time."""


@app.command()
def rescore(
    pool: Spec,
    target: Annotated[str, typer.Argument(help="The new pool.")],
    scorer: Annotated[str, typer.Option(help="Scores the rewards anew, like recycling.scorer.")],
) -> None:
    """Score a pool's rewards with another scorer, into a new pool."""
    from rich.progress import Progress

    from iqa_service.registry import open_scorer

    with contextlib.ExitStack() as stack:
        source = stack.enter_context(contextlib.closing(open_pool(pool, fingerprint=None)))
        backend = stack.enter_context(contextlib.closing(open_scorer(scorer)))
        into = open_pool(target, fingerprint=backend.fingerprint, keep=source.keep)
        stack.callback(into.close)
        bar = stack.enter_context(Progress(console=console))
        task = bar.add_task("Scoring", total=source.stats().entries)
        count = rescore_pool(source, into, backend, lambda done: bar.update(task, completed=done))
    console.print(f"{count} images have rewards by scorer {backend.fingerprint}: {target}", soft_wrap=True)


def rescore_pool(
    source: Pool, target: Pool, scorer: ScoreBackend, on_progress: Callable[[int], object] = lambda _: None
) -> int:
    """Scores every candidate of `source` with `scorer` and offers it to `target`.

    Image, lineage, and the rainy image where there is one, go with it. Returns the number of entries; may be
    run again after it was cut short.

    Raises:
        PoolError: `target` is another scorer's, an image is missing or damaged, or a pool fails.
        ScorerError: the scorer fails, or needs rainy images that the pool does not have.
    """
    from iqa_service.scorer import Candidate

    entries, done = source.scan(), 0
    while batch := list(itertools.islice(entries, BATCH)):
        candidates, origins = [], []
        for entry in batch:
            rainy = source.source(entry.id)
            if rainy is not None:
                target.put_source(entry.id, rainy)
            for held in entry.candidates:
                image = source.image(held.digest)
                candidates.append(Candidate(entry.id, image, rainy))
                origins.append({"id": entry.id, "digest": target.put_image(image), "lineage": held.lineage})
        scores = scorer.score(candidates).tolist()
        target.offer_many(
            [
                Offer(log_odds=log_odds, fingerprint=scorer.fingerprint, **origin)
                for log_odds, origin in zip(scores, origins, strict=True)
            ]
        )
        done += len(batch)
        on_progress(done)
    return done
