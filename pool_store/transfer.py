"""Pools beyond one run: export to files, import, rescoring into another pool.

An export is a folder, or a `.tar` of it, with `rewards/ID.webp` (the best candidates),
`candidates/ID.RANK.webp` (the others, from 2 on), `rewards.csv` (a row per candidate with all its
figures) and `pool.json` (the settings of the pool). Counters are not exported; `Pool.dump` has them.
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image as Pillow
from PIL import UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, ValidationError

from pool_store.client import Pool, offer_images
from pool_store.engine.images import digest_of
from pool_store.errors import PoolConflict, PoolError
from pool_store.schemas import Digest, Entry, ImageId, Kept, Lineage, Offer, PoolSettings
from rgsud_core.images import Image

T = TypeVar("T")
Format = Literal["webp", "png"]
SETTINGS, TABLE = "pool.json", "rewards.csv"
BATCH = 16
"""Candidates offered at a time, whose images may all be in memory."""


class Row(BaseModel):
    """One candidate in the table of an export."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: ImageId
    rank: int
    file: str
    digest: Digest
    log_odds: float
    run: str
    step: int
    stage: int
    worker: int
    time: float
    replacements: int

    def lineage(self) -> Lineage:
        """Where the candidate came from."""
        return Lineage(run=self.run, step=self.step, stage=self.stage, worker=self.worker, time=self.time)


class Moved(BaseModel):
    """Result of an export, an import or a rescoring."""

    entries: int
    candidates: int
    replaced: int = 0
    """Candidates that entered the pool they were moved to."""


class Unscored(NamedTuple):
    """A candidate to be scored: its image, and the rainy one that it was made from, if that is stored."""

    id: str
    image: Image
    rainy: Image | None


def export_pool(pool: Pool, target: Path, format: Format = "webp") -> Moved:
    """Writes the pool to a new folder, or to a new file where `target` ends in .tar; images lossless.

    Candidates that are replaced meanwhile are left out if their image has been swept. PoolError if `target`
    exists or cannot be written.
    """
    entries = candidates = 0
    with _writing(target) as write:
        table = io.StringIO()
        rows = csv.DictWriter(table, list(Row.model_fields))
        rows.writeheader()
        for entry in pool.scan():
            entries += 1
            for rank, candidate in enumerate(entry.candidates, start=1):
                image = _image(pool, entry, candidate)
                if image is None:
                    continue
                row = _row(entry, rank, candidate, format)
                write(row.file, _encoded(pool, candidate, image, format))
                rows.writerow(row.model_dump())
                candidates += 1
        write(TABLE, table.getvalue().encode())
        settings = PoolSettings(fingerprint=pool.fingerprint, keep=pool.keep)
        write(SETTINGS, settings.model_dump_json(indent=2).encode())
    return Moved(entries=entries, candidates=candidates)


def import_pool(pool: Pool, source: Path) -> Moved:
    """Offers a pool everything in an export: what it holds already, or better, stays.

    PoolConflict where the export is another scorer's; PoolError where a file that the pool wants is missing
    or is not the image that the table says. What came before it has been imported; repeating it is harmless.
    """
    ids: set[str] = set()
    candidates = replaced = 0
    with _reading(source) as read:
        settings = _settings(read(SETTINGS), source)
        if settings.fingerprint != pool.fingerprint:
            raise PoolConflict(
                f"{source} holds scores of scorer '{settings.fingerprint}', the pool those of "
                f"'{pool.fingerprint}': import it into a pool of its own, then rescore"
            )
        table = _rows(read(TABLE), source)
        while rows := list(itertools.islice(table, BATCH)):
            by_digest = {row.digest: row for row in rows}

            def image_of(digest: str, rows: Mapping[str, Row] = by_digest) -> Image:
                return _checked(read(rows[digest].file), rows[digest], source)

            offers = [_offer(row, pool.fingerprint) for row in rows]
            decisions = offer_images(pool, offers, image_of)
            replaced += sum(decision.status == "replaced" for decision in decisions)
            ids.update(row.id for row in rows)
            candidates += len(rows)
    return Moved(entries=len(ids), candidates=candidates, replaced=replaced)


def rescore_pool(
    source: Pool,
    target: Pool,
    score: Callable[[list[Unscored]], Sequence[float]],
    *,
    batch: int = 16,
    on_progress: Callable[[int], object] = lambda _: None,
) -> Moved:
    """Offers `target` every candidate of `source`, rescored, with its lineage and its rainy image.

    Args:
        score: log-odds of candidates, by the scorer of the target's fingerprint.
        batch: candidates scored at once.
        on_progress: called with the number of entries processed.
    """
    ids: set[str] = set()
    candidates = replaced = 0
    unscored = _unscored(source)
    while some := list(itertools.islice(unscored, batch)):
        scores = [float(log_odds) for log_odds in score([held for held, _ in some])]
        offers = [
            Offer(
                id=held.id,
                log_odds=log_odds,
                fingerprint=target.fingerprint,
                digest=candidate.digest,
                lineage=candidate.lineage,
            )
            for (held, candidate), log_odds in zip(some, scores, strict=True)
        ]
        images = {candidate.digest: held.image for held, candidate in some}
        decisions = offer_images(target, offers, images.__getitem__)
        replaced += sum(decision.status == "replaced" for decision in decisions)
        candidates += len(some)
        for id, rainy in {held.id: held.rainy for held, _ in some if held.id not in ids}.items():
            if rainy is not None:
                target.put_source(id, rainy)
            ids.add(id)
        on_progress(len(ids))
    return Moved(entries=len(ids), candidates=candidates, replaced=replaced)


def settings_of(source: Path) -> PoolSettings:
    """Settings of an exported pool; PoolError if `source` is not an export."""
    with _reading(source) as read:
        return _settings(read(SETTINGS), source)


def _settings(data: bytes, source: Path) -> PoolSettings:
    try:
        return PoolSettings.model_validate_json(data)
    except ValidationError as error:
        raise PoolError(f"{source}/{SETTINGS} is not of an export: {error.errors()[0]['msg']}") from None


def _unscored(pool: Pool) -> Iterator[tuple[Unscored, Kept]]:
    for entry in pool.scan():
        rainy = pool.source(entry.id)
        for candidate in entry.candidates:
            image = _image(pool, entry, candidate)
            if image is not None:
                yield Unscored(entry.id, image, rainy), candidate


def _image(pool: Pool, entry: Entry, candidate: Kept) -> Image | None:
    """None if the candidate has been replaced since the entry was read, and its image swept."""
    try:
        return pool.image(candidate.digest)
    except PoolError:
        now = pool.entries([entry.id]).get(entry.id)
        if now is None or candidate.digest not in {held.digest for held in now.candidates}:
            return None
        raise


def _row(entry: Entry, rank: int, candidate: Kept, format: Format) -> Row:
    return Row(
        id=entry.id,
        rank=rank,
        file=f"rewards/{entry.id}.{format}" if rank == 1 else f"candidates/{entry.id}.{rank}.{format}",
        digest=candidate.digest,
        log_odds=candidate.log_odds,
        **candidate.lineage.model_dump(),
        replacements=entry.replacements,
    )


def _encoded(pool: Pool, candidate: Kept, image: Image, format: Format) -> bytes:
    if format == "webp":
        return pool.encoded(candidate.digest)
    file = io.BytesIO()
    Pillow.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _offer(row: Row, fingerprint: str) -> Offer:
    return Offer(
        id=row.id, log_odds=row.log_odds, fingerprint=fingerprint, digest=row.digest, lineage=row.lineage()
    )


def _rows(data: bytes, source: Path) -> Iterator[Row]:
    for number, fields in enumerate(csv.DictReader(io.StringIO(data.decode("utf-8", "replace"))), start=2):
        try:
            row = Row.model_validate(fields)
            row.lineage()
            yield row
        except (ValidationError, PoolError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise PoolError(f"line {number} of {source}/{TABLE} is wrong: {reason}") from None


def _checked(data: bytes, row: Row, source: Path) -> Image:
    try:
        with Pillow.open(io.BytesIO(data), formats=["WEBP", "PNG"]) as file:
            image = np.array(file.convert("RGB"))
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise PoolError(f"'{row.file}' of {source} is no image ({error}): export it again") from None
    if digest_of(image) != row.digest:
        raise PoolError(f"'{row.file}' of {source} is not the image of the table: export it again")
    return image


class _Write(Protocol):
    def __call__(self, name: str, data: bytes) -> None: ...


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[_Write]:
    try:
        if target.suffix == ".tar":
            with tarfile.open(target, "x") as tar:

                def add(name: str, data: bytes) -> None:
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))

                yield add
        else:
            target.mkdir(parents=True)

            def write(name: str, data: bytes) -> None:
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

            yield write
    except OSError as error:
        raise PoolError(
            f"cannot export to {target}: {error.strerror or error}; choose another place"
        ) from error


@contextlib.contextmanager
def _reading(source: Path) -> Iterator[Callable[[str], bytes]]:
    try:
        with contextlib.ExitStack() as stack:
            tar = stack.enter_context(tarfile.open(source)) if source.is_file() else None

            def read(name: str) -> bytes:
                path = PurePosixPath(name)
                if path.is_absolute() or ".." in path.parts:
                    raise PoolError(f"{source} names a file outside of itself, '{name}': do not trust it")
                if tar is None:
                    return (source / name).read_bytes()
                member = tar.extractfile(name)
                if member is None:
                    raise PoolError(f"'{name}' of {source} is no file: export it again")
                return member.read()

            yield read
    except (KeyError, OSError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or str(error).strip("'\"")
        name = getattr(error, "filename", None) or source
        raise PoolError(
            f"cannot import {name}: {reason}; give the folder or the .tar of an export"
        ) from error
