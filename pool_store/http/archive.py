"""Many images in one body: a plain tar archive of files DIGEST.webp or DIGEST.png.

A tar archive and not a form, since parsing a form byte by byte takes longer than decoding the image.
"""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Iterable, Iterator

from pool_store.http.limits import IMAGES_A_REQUEST
from rgsud_core.http.problems import Problem

_PLAIN = (tarfile.REGTYPE, tarfile.AREGTYPE)


def pack(images: Iterable[tuple[str, bytes]]) -> bytes:
    """The archive of lossless WebP by digest."""
    parts: list[bytes] = []
    for digest, data in images:
        info = tarfile.TarInfo(f"{digest}.webp")
        info.size = len(data)
        parts += info.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % tarfile.BLOCKSIZE)
    return b"".join([*parts, bytes(2 * tarfile.BLOCKSIZE)])


def unpack(body: bytes) -> list[tuple[str, bytes | None]]:
    """Name and bytes of every member; None for members that are not plain files.

    Nothing is extracted by the rules of tar: a member is the bytes behind its header, never a hole or a link.

    Raises:
        Problem: 413 for more than `IMAGES_A_REQUEST` members, 422 for what is no whole, uncompressed tar.
    """
    try:
        return list(_members(body))
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError) as error:
        reason = str(error) or type(error).__name__
        raise Problem(422, f"the body is no plain tar archive ({reason}): send one of DIGEST.webp") from None


def _members(body: bytes) -> Iterator[tuple[str, bytes | None]]:
    with tarfile.open(fileobj=io.BytesIO(body), mode="r:", errors="replace") as archive:
        for count in itertools.count(1):
            member = archive.next()
            if member is None:
                return
            # Ends an archive whose heads lead back to its beginning, too.
            if count > IMAGES_A_REQUEST:
                raise Problem(413, f"more than {IMAGES_A_REQUEST} files in the archive: send fewer at a time")
            plain = member.type in _PLAIN and not member.issparse()
            data = body[member.offset_data : member.offset_data + max(member.size, 0)]
            if plain and len(data) != member.size:
                raise tarfile.ReadError("unexpected end of data")
            yield member.name, data if plain else None
