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
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image as Pillow
from pydantic import BaseModel, ConfigDict, ValidationError

from pool_store.client import Pool, offer_images
from pool_store.engine.images import digest_of, header_size
from pool_store.errors import PoolConflict, PoolError
from pool_store.export_files import ExportFiles, cut_short, lines, read, reading
from pool_store.schemas import Digest, Entry, ImageId, Kept, Lineage, Offer, PoolSettings
from rgsud_core.errors import first_line
from rgsud_core.images import MEGAPIXELS_VARIABLE, Image, pixel_limit

T = TypeVar("T")
Format = Literal["webp", "png"]
SETTINGS, TABLE = "pool.json", "rewards.csv"
BATCH = 16
"""Candidates offered at a time."""
MEGAPIXELS = 100
"""Largest image that is imported, in millions of pixels, where `RGSUD_MAX_MEGAPIXELS` sets no other limit."""
_BYTES_A_PIXEL, _SPARE_BYTES = 4, 64 << 10
"""Largest file of an image, by the pixels that one may have."""
_SETTINGS_BYTES = 64 << 10


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

    def offer(self, fingerprint: str) -> Offer:
        """The candidate as it is offered; PoolError or ValidationError where a figure is none."""
        lineage = Lineage(run=self.run, step=self.step, stage=self.stage, worker=self.worker, time=self.time)
        return Offer(
            id=self.id, log_odds=self.log_odds, fingerprint=fingerprint, digest=self.digest, lineage=lineage
        )


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

    PoolConflict where the export is another scorer's; PoolError where it is no export, cut short, or made to
    harm, and where a file that the pool wants is missing or is not the image that the table says. What came
    before it has been imported; repeating it is harmless.
    """
    ids: set[str] = set()
    candidates = replaced = 0
    with reading(source) as files:
        settings = _settings(files, source)
        if settings.fingerprint != pool.fingerprint:
            raise PoolConflict(
                f"{source} holds scores of scorer '{settings.fingerprint}', the pool those of "
                f"'{pool.fingerprint}': import it into a pool of its own, then rescore"
            )
        table = _rows(files, pool.fingerprint, source)
        while rows := list(itertools.islice(table, BATCH)):
            by_digest = {row.digest: row for row in rows}

            def image_of(digest: str, rows: Mapping[str, Row] = by_digest) -> Image:
                row, limit = rows[digest], pixel_limit(MEGAPIXELS)
                data = read(files, row.file, _BYTES_A_PIXEL * limit + _SPARE_BYTES)
                return _checked(data, row, source, limit)

            decisions = offer_images(pool, [row.offer(pool.fingerprint) for row in rows], image_of)
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
    with reading(source) as files:
        return _settings(files, source)


def _settings(files: ExportFiles, source: Path) -> PoolSettings:
    try:
        return PoolSettings.model_validate_json(read(files, SETTINGS, _SETTINGS_BYTES))
    except FileNotFoundError:  # it is written last
        if (source / "rewards").exists() or (source / TABLE).exists():
            raise cut_short(source) from None
        raise
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


def _rows(files: ExportFiles, fingerprint: str, source: Path) -> Iterator[Row]:
    table = csv.DictReader(lines(files, TABLE))
    while True:
        try:
            fields = next(table, None)
            if fields is None:
                return
            row = Row.model_validate(fields)
            row.offer(fingerprint)
        except (ValidationError, csv.Error, PoolError) as error:
            reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
            raise PoolError(f"line {table.line_num} of {source}/{TABLE} is wrong: {reason}") from None
        yield row


def _checked(data: bytes, row: Row, source: Path, limit: int) -> Image:
    try:
        width, height = header_size(data)
        if width * height > limit:
            raise PoolError(
                f"'{row.file[:200]}' of {source} has {width} x {height} pixels, more than {limit / 1e6:g} "
                f"millions: if it is yours, set {MEGAPIXELS_VARIABLE} to a higher number"
            )
        with Pillow.open(io.BytesIO(data), formats=["WEBP", "PNG"]) as file:
            if file.size != (width, height):
                raise ValueError("it has two sizes")
            image = np.array(file.convert("RGB"))
    except PoolError:
        raise
    except Exception as error:  # damage raises what the decoder of that format happens to raise
        raise PoolError(
            f"'{row.file[:200]}' of {source} is no image ({first_line(error)}): export it again"
        ) from None
    if digest_of(image) != row.digest:
        raise PoolError(f"'{row.file[:200]}' of {source} is not the image of the table: export it again")
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
