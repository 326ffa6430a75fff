"""Export, import and rescoring: nothing gets lost, nothing that is wrong gets in."""

from __future__ import annotations

import csv
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from pool_store.client import Pool
from pool_store.errors import PoolConflict, PoolError
from pool_store.schemas import Offer
from pool_store.transfer import Moved, Unscored, export_pool, import_pool, rescore_pool
from rgsud_core.images import Image

MakeOffer = Callable[..., Offer]
Picture = Callable[[int], Image]


@pytest.fixture
def pool(tcp: Any, make_offer: MakeOffer) -> Pool:
    pool: Pool = tcp.open(keep=2)
    for number, (id, score) in enumerate(
        [("set/a 1", 0.1 + 0.2), ("set/a 1", 2.0), ("Größe/雨", -1e-9), ("b", 3.0), ("b", 2.0), ("b", 1.0)]
    ):
        pool.offer(make_offer(pool, id, score, number))
    return pool


def empty(tcp: Any, pool: Pool, fingerprint: str = "scorer-a") -> Pool:
    second: Pool = tcp.open(
        spec=pool.address.replace("pool=main", "pool=second"), fingerprint=fingerprint, keep=2
    )
    return second


def contents(pool: Pool) -> dict[str, Any]:
    return {entry.id: entry.candidates for entry in pool.scan()}


@pytest.mark.parametrize("name", ["folder", "file.tar"])
@pytest.mark.parametrize("format", ["webp", "png"])
def test_an_import_brings_back_what_was_exported(
    tcp: Any, pool: Pool, tmp_path: Path, name: str, format: Any
) -> None:
    target = tmp_path / name
    assert export_pool(pool, target, format) == Moved(entries=3, candidates=5)
    second = empty(tcp, pool)
    assert import_pool(second, target) == Moved(entries=3, candidates=5, replaced=5)
    assert contents(second) == contents(pool)
    for candidates in contents(second).values():
        for candidate in candidates:
            np.testing.assert_array_equal(second.image(candidate.digest), pool.image(candidate.digest))
    # A second time it meets itself.
    again = import_pool(second, target)
    assert (again.candidates, second.stats().offers) == (5, 5)


def test_an_export_is_for_people_too(pool: Pool, tmp_path: Path, picture: Picture) -> None:
    export_pool(pool, tmp_path / "out", "png")
    with Pillow.open(tmp_path / "out" / "rewards" / "set" / "a 1.png") as file:
        np.testing.assert_array_equal(np.array(file), picture(1))
    with Pillow.open(tmp_path / "out" / "candidates" / "b.2.png") as file:
        np.testing.assert_array_equal(np.array(file), picture(4))
    with open(tmp_path / "out" / "rewards.csv", newline="") as file:
        rows = {(row["id"], row["rank"]): row for row in csv.DictReader(file)}
    assert float(rows["set/a 1", "2"]["log_odds"]) == 0.1 + 0.2
    best = rows["b", "1"]
    assert (best["run"], best["step"], best["replacements"]) == ("run", "3", "2")


def test_an_import_keeps_what_is_better(tcp: Any, pool: Pool, tmp_path: Path, make_offer: MakeOffer) -> None:
    export_pool(pool, tmp_path / "out")
    pool.offer(make_offer(pool, "b", 9.0, 9))
    import_pool(pool, tmp_path / "out")
    assert [candidate.log_odds for candidate in pool.entries(["b"])["b"].candidates] == [9.0, 3.0]


def test_refuses_another_scorers_export(tcp: Any, pool: Pool, tmp_path: Path) -> None:
    export_pool(pool, tmp_path / "out")
    with pytest.raises(PoolConflict, match="scorer 'scorer-a', the pool those of 'scorer-b'"):
        import_pool(empty(tcp, pool, "scorer-b"), tmp_path / "out")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("swap", "'rewards/b.webp' of .* is not the image of the table"),
        ("garbage", "'rewards/b.webp' of .* is no image"),
        ("missing", "cannot import .*rewards/b.webp: No such file"),
        ("table", r"line 2 of .*rewards.csv is wrong"),
        ("stage", r"line 2 of .*rewards.csv is wrong: Input should be greater than or equal to 1"),
        ("escape", r"names a file outside of itself, '\.\./"),
        ("settings", "pool.json is not of an export"),
        ("interrupted", "is cut short, its export or its copy was interrupted"),
        ("empty", "cannot import .*pool.json: No such file .*give the folder or the .tar of an export"),
    ],
)
def test_refuses_a_damaged_export(tcp: Any, pool: Pool, tmp_path: Path, damage: str, message: str) -> None:
    out = tmp_path / "out"
    export_pool(pool, out)
    image, table = out / "rewards" / "b.webp", out / "rewards.csv"
    if damage == "swap":
        image.write_bytes((out / "candidates" / "b.2.webp").read_bytes())
    elif damage == "garbage":
        image.write_bytes(b"no image")
    elif damage == "missing":
        image.unlink()
    elif damage == "table":
        head, *_ = table.read_text().splitlines()
        table.write_text(f"{head}\n../x,1,rewards/b.webp\n")
    elif damage == "stage":
        head, first, *rest = table.read_text().splitlines()
        fields = dict(zip(head.split(","), first.split(","), strict=True)) | {"stage": "0"}
        table.write_text("\n".join((head, ",".join(fields.values()), *rest)))
    elif damage == "escape":
        table.write_text(table.read_text().replace("rewards/", "../rewards/"))
    elif damage == "settings":
        (out / "pool.json").write_text("{}")
    elif damage == "interrupted":
        (out / "pool.json").unlink()
    else:
        shutil.rmtree(out)
        out.mkdir()
    with pytest.raises(PoolError, match=message):
        import_pool(empty(tcp, pool), out)


def test_refuses_to_overwrite_and_what_is_no_archive(pool: Pool, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there.tar").write_text("no archive")
    for name in ("there", "there.tar"):
        with pytest.raises(PoolError, match=f"cannot export to .*{name}: File exists; choose another place"):
            export_pool(pool, tmp_path / name)
    with pytest.raises(PoolError, match=r"there\.tar is no tar archive, compressed or damaged"):
        import_pool(pool, tmp_path / "there.tar")


def test_a_tar_without_its_images(tcp: Any, pool: Pool, tmp_path: Path) -> None:
    export_pool(pool, tmp_path / "out")
    with tarfile.open(tmp_path / "out.tar", "w") as tar:
        for name in ("pool.json", "rewards.csv"):
            tar.add(tmp_path / "out" / name, name)
    with pytest.raises(PoolError, match=r"cannot import .*out\.tar/.*webp: No such file"):
        import_pool(empty(tcp, pool), tmp_path / "out.tar")


def test_rescores_into_another_pool(tcp: Any, pool: Pool, picture: Picture) -> None:
    pool.put_source("b", picture(7))
    target = empty(tcp, pool, "scorer-b")
    batches = []

    def darkness(held: list[Unscored]) -> list[float]:
        batches.append([candidate.id for candidate in held])
        for candidate in held:
            assert (candidate.rainy is not None) == (candidate.id == "b")
        return [-float(candidate.image.mean()) for candidate in held]

    moved = rescore_pool(pool, target, darkness, batch=2)
    assert (moved.entries, moved.candidates) == (3, 5)
    assert [len(batch) for batch in batches] == [2, 2, 1]
    for id, candidates in contents(target).items():
        assert {candidate.digest for candidate in candidates} == {
            candidate.digest for candidate in contents(pool)[id]
        }
        for candidate in candidates:
            assert candidate.log_odds == -float(target.image(candidate.digest).mean())
        assert {candidate.lineage.step for candidate in candidates} == {
            candidate.lineage.step for candidate in contents(pool)[id]
        }
    source = target.source("b")
    assert source is not None
    np.testing.assert_array_equal(source, picture(7))
