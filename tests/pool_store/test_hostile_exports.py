"""Exports made to harm: each ends in one sentence, in bounded memory, and nothing outside of it is read."""

from __future__ import annotations

import csv
import gzip
import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pool_store.client import Pool
from pool_store.errors import PoolError
from pool_store.transfer import Moved, export_pool, import_pool, settings_of

IMAGE = "rewards/a.webp"


@pytest.fixture
def out(tcp: Any, make_offer: Callable[..., Any], tmp_path: Path) -> Path:
    """An export of two candidates of one image."""
    pool: Pool = tcp.open(keep=2)
    for number, score in enumerate((1.0, 2.0)):
        pool.offer(make_offer(pool, "a", score, number))
    export_pool(pool, tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def target(tcp: Any, out: Path) -> Pool:
    pool: Pool = tcp.open(spec=tcp.open(keep=2).address.replace("pool=main", "pool=second"), keep=2)
    return pool


def replaced(out: Path, name: str) -> Path:
    (out / name).unlink()
    return out / name


def row(out: Path, **changes: str) -> None:
    """The table with changes in its first row."""
    with (out / "rewards.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rows[0].update(changes)
    with (out / "rewards.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def text(out: Path, content: str | bytes) -> None:
    (out / "rewards.csv").write_bytes(content.encode() if isinstance(content, str) else content)


def png(width: int, height: int, *, again: tuple[int, int] | None = None) -> bytes:
    """A PNG that says it is so large, with pixels that compress to next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def head(size: tuple[int, int]) -> bytes:
        return chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))

    pixels = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    heads = head((width, height)) + (head(again) if again else b"")
    return b"\x89PNG\r\n\x1a\n" + heads + pixels + chunk(b"IEND", b"")


def webp(width: int, height: int) -> bytes:
    bits = (width - 1) | (height - 1) << 14
    return b"RIFF" + struct.pack("<I", 100) + b"WEBPVP8L" + struct.pack("<IBI", 88, 0x2F, bits) + bytes(83)


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a link to a device": (lambda out: replaced(out, IMAGE).symlink_to("/dev/zero"), "is no file but a link"),
    "a link to a file outside": (
        lambda out: replaced(out, IMAGE).symlink_to("/etc/passwd"),
        "is no file but a link",
    ),
    "a link to itself": (lambda out: replaced(out, IMAGE).symlink_to("a.webp"), "is no file but a link"),
    "a link to nothing": (lambda out: replaced(out, IMAGE).symlink_to("nothing"), "No such file"),
    "a linked folder": (
        lambda out: (
            (out / "rewards").rename(out.parent / "other"),
            (out / "rewards").symlink_to("../other"),
        ),
        "is no file but a link",
    ),
    "a pipe": (lambda out: os.mkfifo(replaced(out, IMAGE)), "is no file but a link or a device"),
    "a pipe for the table": (lambda out: os.mkfifo(replaced(out, "rewards.csv")), "is no file"),
    "a pipe for the settings": (lambda out: os.mkfifo(replaced(out, "pool.json")), "is no file"),
    "a folder for an image": (lambda out: replaced(out, IMAGE).mkdir(), "is no file"),
    "an image of a terabyte": (lambda out: sparse(out / IMAGE, 1 << 40), "bytes, more than"),
    "settings of a terabyte": (lambda out: sparse(out / "pool.json", 1 << 40), "bytes, more than"),
    "a table of a terabyte": (lambda out: sparse(out / "rewards.csv", 1 << 40), "is longer than"),
    "settings in lists in lists": (
        lambda out: (out / "pool.json").write_text("[" * 50_000),
        "not of an export",
    ),
    "settings of bytes": (lambda out: (out / "pool.json").write_bytes(b"\xff\xfe"), "not of an export"),
    "settings with more in them": (
        lambda out: (out / "pool.json").write_text('{"fingerprint": "scorer-a", "code": 1}'),
        "not of an export",
    ),
    "no settings": (lambda out: (out / "pool.json").unlink(), "was interrupted"),
    "no table": (lambda out: (out / "rewards.csv").unlink(), "No such file"),
    "an image outside": (lambda out: row(out, file="../../etc/passwd"), "a file outside of itself"),
    "an image by its whole path": (lambda out: row(out, file="/etc/passwd"), "a file outside of itself"),
    "an image by a zero byte": (lambda out: row(out, file="rewards/a\0.webp"), "export it again"),
    "an image by no name": (lambda out: row(out, file=""), "is no file"),
    "an image by a long name": (lambda out: row(out, file="x" * 5000), "File name too long"),
    "a score that is none": (lambda out: row(out, log_odds="nan"), "line 2 of"),
    "an unending score": (lambda out: row(out, log_odds="inf"), "line 2 of"),
    "a score beyond float32": (lambda out: row(out, log_odds="1e300"), "line 2 of"),
    "a step of 5,000 digits": (lambda out: row(out, step="9" * 5000), "line 2 of"),
    "a time that is none": (lambda out: row(out, time="nan"), "line 2 of"),
    "an id that leads out": (lambda out: row(out, id="../x"), "line 2 of"),
    "a digest that is none": (lambda out: row(out, digest="../../etc/passwd"), "line 2 of"),
    "a digest of another image": (lambda out: row(out, digest="0" * 64), "not the image of the table"),
    "an open quote": (lambda out: text(out, 'id,rank\n"' + "x\n" * 200_000), "line "),
    "a line without end": (lambda out: text(out, "x" * (1 << 20)), "is longer than"),
    "a row with more columns": (lambda out: text(out, "id,rank\na,1,2,3\n"), "line 2 of"),
    "a row with fewer columns": (lambda out: text(out, "id,rank\na\n"), "line 2 of"),
    "a table of other columns": (lambda out: text(out, "a,b\n1,2\n"), "line 2 of"),
    "a table of zero bytes": (lambda out: text(out, "id\n\0\0\0\n"), "line 2 of"),
    "a table of bytes": (lambda out: text(out, b"\xff\xfe\n\xff\n"), "line 2 of"),
    "an image of a gigapixel": (
        lambda out: (out / IMAGE).write_bytes(png(1 << 15, 1 << 15)),
        "pixels, more than 100 millions",
    ),
    "the largest WebP": (
        lambda out: (out / IMAGE).write_bytes(webp(16384, 16384)),
        "pixels, more than 100 millions",
    ),
    "an image of two sizes": (
        lambda out: (out / IMAGE).write_bytes(png(8, 8, again=(1 << 14, 1 << 14))),
        "is no image",
    ),
    "an image of no pixels": (lambda out: (out / IMAGE).write_bytes(png(0, 0)), "is no image"),
    "an image cut short": (
        lambda out: (out / IMAGE).write_bytes((out / IMAGE).read_bytes()[:-9]),
        "is no image",
    ),
    "an image of another format": (
        lambda out: (out / IMAGE).write_bytes(b"GIF89a" + bytes(99)),
        "is no image",
    ),
    "an image of no bytes": (lambda out: (out / IMAGE).write_bytes(b""), "is no image"),
}


def brought(pool: Pool, source: Path) -> None:
    """What the command does."""
    settings_of(source)
    import_pool(pool, source)


def refused(pool: Pool, source: Path) -> str:
    with pytest.raises(PoolError) as caught:
        brought(pool, source)
    said = str(caught.value)
    assert len(said.splitlines()) == 1
    assert len(said) < 1500
    return said


@pytest.mark.parametrize("name", FOLDERS)
def test_a_hostile_folder_ends_in_a_sentence(out: Path, target: Pool, name: str) -> None:
    change, reason = FOLDERS[name]
    change(out)
    assert reason in refused(target, out)


@contextmanager
def changed(out: Path) -> Iterator[tarfile.TarFile]:
    """The archive of an export without its image; the block puts something in its place."""
    with tarfile.open(out.parent / "out.tar", "w") as archive:
        for name in ("rewards.csv", "pool.json", "candidates/a.2.webp"):
            archive.add(out / name, name)
        yield archive


def member(out: Path, data: bytes = b"", **fields: Any) -> None:
    with changed(out) as archive:
        info = tarfile.TarInfo(IMAGE)
        for name, value in fields.items():
            setattr(info, name, value)
        archive.addfile(info, io.BytesIO(data))


def head_of(out: Path, **fields: Any) -> None:
    """An image whose head says something, with nothing behind it."""
    member(out)
    path = out.parent / "out.tar"
    data = bytearray(path.read_bytes())
    at = data.index(IMAGE.encode() + bytes(50))
    info = tarfile.TarInfo(IMAGE)
    for name, value in fields.items():
        setattr(info, name, value)
    data[at : at + 512] = info.tobuf(tarfile.GNU_FORMAT)[:512]
    path.write_bytes(data)


def whole(out: Path, change: Callable[[bytes], bytes] = lambda data: data) -> None:
    with changed(out) as archive:
        archive.add(out / IMAGE, IMAGE)
    path = out.parent / "out.tar"
    path.write_bytes(change(path.read_bytes()))


def pax(out: Path, **headers: str) -> None:
    with tarfile.open(out.parent / "out.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("rewards.csv", "pool.json"):
            archive.add(out / name, name)
        info = tarfile.TarInfo(IMAGE)
        info.pax_headers = headers
        archive.addfile(info)


ARCHIVES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no bytes": (lambda out: (out.parent / "out.tar").write_bytes(b""), "was interrupted"),
    "a text": (lambda out: (out.parent / "out.tar").write_text("text\n" * 500), "is no tar archive"),
    "zeros": (lambda out: sparse(out.parent / "out.tar", 1 << 16), "No such file"),
    "a compressed bomb": (lambda out: whole(out, gzip.compress), "compressed"),
    "cut in a head": (lambda out: whole(out, lambda data: data[:700]), "was interrupted"),
    "cut in an image": (
        lambda out: whole(out, lambda data: data[: data.rindex(b"WEBPVP8L")]),
        "was interrupted",
    ),
    "cut before its end": (lambda out: whole(out, lambda data: data.rstrip(b"\0")), "was interrupted"),
    "without its end": (
        lambda out: whole(out, lambda data: data[: (len(data.rstrip(b"\0")) // 512 + 1) * 512]),
        "was interrupted",
    ),
    "a link to a file outside": (
        lambda out: member(out, type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        "is no file",
    ),
    "a link to itself": (lambda out: member(out, type=tarfile.LNKTYPE, linkname=IMAGE), "is no file"),
    "a device": (lambda out: member(out, type=tarfile.CHRTYPE, devmajor=1, devminor=5), "is no file"),
    "a pipe": (lambda out: member(out, type=tarfile.FIFOTYPE), "is no file"),
    "a folder": (lambda out: member(out, type=tarfile.DIRTYPE), "is no file"),
    "an image of a terabyte": (lambda out: head_of(out, size=1 << 40), "was interrupted"),
    "an image of a negative size": (
        lambda out: head_of(out, size=-1024),
        "tar archive, compressed or damaged",
    ),
    "a long name of a terabyte": (
        lambda out: head_of(out, type=tarfile.GNUTYPE_LONGNAME, size=1 << 40),
        "tar archive, compressed or damaged",
    ),
    "attributes of a terabyte": (
        lambda out: head_of(out, type=tarfile.XHDTYPE, size=1 << 40),
        "tar archive, compressed or damaged",
    ),
    "attributes of a negative size": (
        lambda out: head_of(out, type=tarfile.XGLTYPE, size=-512),
        "tar archive, compressed or damaged",
    ),
    "a sparse image of a terabyte": (
        lambda out: pax(out, **{"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": "0,1"}),
        "is no file",
    ),
    "a sparse image of a billion parts": (
        lambda out: pax(
            out, **{"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
        ),
        "tar archive, compressed or damaged",
    ),
    "another name by attributes": (lambda out: pax(out, path="../../etc/passwd"), "No such file"),
    "no image": (lambda out: pax(out, path="rewards/b.webp"), "No such file"),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_hostile_archive_ends_in_a_sentence(out: Path, target: Pool, name: str) -> None:
    change, reason = ARCHIVES[name]
    change(out)
    assert reason in refused(target, out.parent / "out.tar")


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "pipe", "loop"])
def test_what_is_no_export_at_all_ends_in_a_sentence(target: Pool, tmp_path: Path, device: str) -> None:
    source = Path(device)
    if device == "pipe":
        os.mkfifo(source := tmp_path / "pipe")
    elif device == "loop":
        (source := tmp_path / "loop").symlink_to("loop")
    said = refused(target, source)
    assert "neither a folder nor a .tar" in said or "Too many levels" in said


@pytest.mark.parametrize("content", ["head", "nothing"])
def test_an_empty_table_is_no_fault(out: Path, target: Pool, content: str) -> None:
    head = (out / "rewards.csv").read_text().splitlines()[0]
    text(out, f"{head}\n" if content == "head" else "")
    assert import_pool(target, out) == Moved(entries=0, candidates=0)


def test_the_untouched_archive_is_imported(out: Path, target: Pool) -> None:
    whole(out)
    assert import_pool(target, out.parent / "out.tar") == Moved(entries=1, candidates=2, replaced=2)


def test_an_owner_may_raise_the_limit_of_pixels(
    out: Path, target: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RGSUD_MAX_MEGAPIXELS", "0.00001")
    assert "set RGSUD_MAX_MEGAPIXELS to a higher number" in refused(target, out)
    monkeypatch.setenv("RGSUD_MAX_MEGAPIXELS", "1")
    assert import_pool(target, out).candidates == 2


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_an_archive_with_flipped_bytes_is_imported_or_refused_in_a_sentence(
    out: Path, target: Pool, changes: list[tuple[float, int]]
) -> None:
    def flip(data: bytes) -> bytes:
        flipped = bytearray(data)
        for place, value in changes:
            flipped[int(place * 6 * 512)] = value
        return bytes(flipped)

    whole(out, flip)
    try:
        brought(target, out.parent / "out.tar")
    except PoolError as problem:
        said = str(problem)
        assert said.strip()
