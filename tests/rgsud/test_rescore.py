"""`rgsud pool rescore`: a pool's rewards scored anew, with everything that belongs to them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from iqa_service.registry import open_scorer
from pool_store.client import Pool, open_pool
from pool_store.schemas import Lineage, Offer
from rgsud import cli

SCORER = "local:random?seed=3"


@pytest.fixture
def source(tmp_path: Path) -> Pool:
    pool = open_pool(f"embedded:{tmp_path / 'source'}?fsync=everysec", fingerprint="old", keep=2)
    rng = np.random.default_rng(0)
    for number in range(10):
        image = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        offer = Offer(
            id=f"day/{number % 5}",
            log_odds=float(number),
            fingerprint="old",
            digest=pool.put_image(image),
            lineage=Lineage(run="run", step=number, stage=1, time=float(number)),
        )
        pool.offer(offer)
    pool.put_source("day/0", image)
    return pool


def test_rescores_all_that_is_kept(
    source: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = {entry.id: entry for entry in source.scan()}
    images = {held.digest: source.image(held.digest) for entry in kept.values() for held in entry.candidates}
    rainy = source.source("day/0")
    source.close()
    spec = f"embedded:{tmp_path / 'target'}?fsync=everysec"
    command = ["rgsud", "pool", "rescore", f"embedded:{tmp_path / 'source'}", spec, "--scorer", SCORER]
    for _ in range(2):  # the second time nothing is left to do
        monkeypatch.setattr(sys, "argv", command)
        cli.main()
        assert "5 images have rewards" in capsys.readouterr().err

        scorer = open_scorer(SCORER)
        target = open_pool(spec, fingerprint=scorer.fingerprint, keep=2)
        rescored = {entry.id: entry for entry in target.scan()}
        assert set(rescored) == set(kept)
        for id, entry in rescored.items():
            origin = {held.digest: held.lineage for held in kept[id].candidates}
            assert {held.digest: held.lineage for held in entry.candidates} == origin
            for held in entry.candidates:
                np.testing.assert_array_equal(target.image(held.digest), images[held.digest])
        assert target.stats().offers == 10
        np.testing.assert_array_equal(target.source("day/0"), rainy)
        assert target.source("day/1") is None
        target.close()


def test_needs_a_pool_of_its_own(
    source: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        sys, "argv", ["rgsud", "pool", "rescore", source.address, source.address, "--scorer", SCORER]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "holds scores of scorer 'old'" in capsys.readouterr().err
    source.close()
