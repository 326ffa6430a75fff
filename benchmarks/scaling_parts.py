"""One candidate by itself, for `scaling.py`: the parts of its way, and how many go it in a second."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from step_time import median_ms

from iqa_service.registry import open_scorer
from iqa_service.scorers.base import Candidate
from pool_store.client import open_pool
from pool_store.engine import images as blobs
from pool_store.schemas import Lineage, Offer
from trainer.data.demo import DemoData
from trainer.data.folders import ImageFolder
from trainer.recycling.recycler import Recycler

NEVER = 10**9


def candidate_parts(data: DemoData, folder: Path, repeats: int) -> dict[str, float]:
    """Milliseconds of what happens to one candidate, and to a reward that is read, each by itself."""
    images = ImageFolder(data.rainy)
    image, numbers = images.load(0), iter(range(NEVER))

    def fresh() -> Any:
        """An image that the pool has not seen."""
        made = image.copy()
        made[0, 0] = np.frombuffer(next(numbers).to_bytes(3, "big"), np.uint8)
        return made

    lineage = Lineage(run="benchmark", step=1, stage=1, worker=0, time=time.time())
    pool = open_pool(f"embedded:{folder}", fingerprint="benchmark")
    try:
        digest = pool.put_image(image)
        offer = Offer(id="a", log_odds=0.0, fingerprint="benchmark", digest=digest, lineage=lineage)
        pool.offer(offer)
        ids = ["a", "b", "c", "d"]
        return {
            "candidate_pixels": float(image.shape[0] * image.shape[1]),
            "candidate_bytes": float(len(blobs.encode(image))),
            "candidate_load_ms": median_ms(lambda: images.load(0), repeats),
            "candidate_digest_ms": median_ms(lambda: blobs.digest_of(image), repeats),
            "candidate_encode_ms": median_ms(lambda: blobs.encode(image), repeats),
            "candidate_put_ms": median_ms(lambda: pool.put_image(fresh()), repeats),
            "candidate_offer_ms": median_ms(lambda: pool.offer_many([offer]), repeats),
            "reward_entries_of_4_ms": median_ms(lambda: pool.entries(ids), repeats),
            "reward_read_ms": median_ms(lambda: pool.image(digest), repeats),
        }
    finally:
        pool.close()


def end_to_end(scorers: dict[str, str], data: DemoData, folder: Path, count: int) -> dict[str, float]:
    """Candidates a second from submission to decision, with nothing else to do: all enter, then none does."""
    folder_images = ImageFolder(data.rainy)
    rainy = [folder_images.load(number) for number in range(len(folder_images))]
    figures: dict[str, float] = {}
    lineage = Lineage(run="benchmark", step=1, stage=1, worker=0, time=time.time())
    for way, spec in scorers.items():
        scorer = open_scorer(spec)
        pool = open_pool(f"embedded:{folder}-{way}", fingerprint=scorer.fingerprint)
        recycler = Recycler(scorer, pool, queue=count)
        originals = [np.roll(rainy[number % len(rainy)], number, axis=1) for number in range(count)]
        recycler.submit(Candidate("warm", rainy[0], rainy[0]), lineage)
        recycler.flush()
        for outcome, darker, enter in (("all_enter", 0, count), ("none_enters", 40, 0)):
            candidates = [
                Candidate(str(number), np.maximum(image, darker) - np.uint8(darker), image)
                for number, image in enumerate(originals)
            ]
            before = recycler.counts.replaced
            started = time.perf_counter()
            for candidate in candidates:
                recycler.submit(candidate, lineage)
            recycler.flush(600)
            figures[f"{way}_{outcome}_candidates_per_s"] = count / (time.perf_counter() - started)
            assert recycler.counts.replaced - before == enter, recycler.problem or recycler.counts
        recycler.close()
        pool.close()
        scorer.close()
    return figures
