"""How offers travel to the scripts and how entries rest in Redis: `common.lua` gives the layouts."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Any

from pool_store.errors import PoolError
from pool_store.schemas import LARGEST, Candidate, Entry, HistoryItem, Lineage, Offer

HEAD, BODY, MORE = 3, 47, 55
FULL = 40
"""Entries a bucket, on average; `decide.lua` splits by the same number."""
ANSWER = struct.Struct(">cd")
_OFFER = struct.Struct(">cId32sdIHH")
_BODY = struct.Struct(">32sdI")
_ITEM = struct.Struct(">dIBd32s")
_SOURCE = struct.Struct(">BH")
_PLACE = struct.Struct(">II")


def place(id: str) -> tuple[int, int]:
    """What an id is filed under: a number for the bucket and one for the sub-pool, 32 bits each."""
    hash, spread = _PLACE.unpack_from(hashlib.sha1(id.encode(), usedforsecurity=False).digest())
    return hash, spread


def bucket(hash: int, buckets: int) -> int:
    """The bucket of an id among so many, as `common.lua` has it."""
    power = 1 << (buckets.bit_length() - 1)
    number = hash % (2 * power)
    return number if number < buckets else number - power


def met(hash: int, number: int, visited: Mapping[int, int]) -> bool:
    """Whether an id in this bucket has been met by a scan, in a bucket that was split after its visit.
    `visited` tells how many buckets there were when each was visited."""
    while number:
        number -= 1 << (number.bit_length() - 1)
        if number in visited and bucket(hash, visited[number]) == number:
            return True
    return False


def source(lineage: Lineage) -> bytes:
    """Run, stage and worker, which many candidates share and a record names by number."""
    return _SOURCE.pack(lineage.stage, lineage.worker) + lineage.run.encode()


def pack_offer(flag: bytes, hash: int, offer: Offer, source: int) -> bytes:
    """PoolError where the score is no finite float32: a script could not tell one by one."""
    score, lineage, id = offer.log_odds, offer.lineage, offer.id.encode()
    if not abs(score) <= LARGEST:
        raise PoolError(f"the score offered is {score}: offer finite float32 log-odds only")
    # Zero has no sign here, or the same offer would look like two.
    digest = bytes.fromhex(offer.digest)
    return _OFFER.pack(flag, hash, score + 0.0, digest, lineage.time, lineage.step, source, len(id)) + id


def pack_offers(
    batch: Sequence[tuple[int, int]],
    offers: Sequence[Offer],
    stored: Set[str],
    fingerprint: str,
    added: Sequence[int],
) -> list[bytes | str | int]:
    """The offers of a batch, given by index and hash, as `decide.lua` takes them. `stored` has the digests of
    images that are known to be stored, `added` the bytes of those that are to be counted."""
    sources: dict[bytes, int] = {}
    packed = []
    for index, hash in batch:
        offer = offers[index]
        number = sources.setdefault(source(offer.lineage), len(sources) + 1)
        flag = b"C" if offer.digest in stored else b"F"
        if offer.fingerprint != fingerprint:
            flag = b"S"
        packed.append(pack_offer(flag, hash, offer, number))
    # All in one argument: a thousand of them would take longer to send and to read than to decide.
    return [fingerprint, len(added), sum(added), len(sources), *sources, b"".join(packed)]


def pack_entry(entry: Entry, number_of: Callable[[bytes], int]) -> bytes:
    """The record of an entry, `number_of` telling the number of a source."""
    parts = [entry.replacements.to_bytes(HEAD)]
    for rank, candidate in enumerate(entry.candidates):
        if rank:
            parts.append(struct.pack(">d", candidate.log_odds))
        lineage = candidate.lineage
        parts.append(_BODY.pack(bytes.fromhex(candidate.digest), lineage.time, lineage.step))
        parts.append(number_of(source(lineage)).to_bytes(3))
    return b"".join(parts)


def unpack_entry(id: str, score: float, record: bytes, source_of: Callable[[int], bytes]) -> Entry:
    """The entry of a record and its best score, `source_of` telling the source of a number."""
    candidates = []
    for log_odds, body in bodies(score, record):
        digest, time, step = _BODY.unpack_from(body)
        packed = source_of(int.from_bytes(body[-3:]))
        stage, worker = _SOURCE.unpack_from(packed)
        run = packed[_SOURCE.size :].decode()
        # Not validated anew, which would cost as much as all the rest: it was when it was offered.
        lineage = Lineage.model_construct(run=run, step=step, stage=stage, worker=worker, time=time)
        candidates.append(Candidate.model_construct(digest=digest.hex(), log_odds=log_odds, lineage=lineage))
    return Entry.model_construct(
        id=id,
        candidates=tuple(candidates),
        replacements=int.from_bytes(record[:HEAD]),
    )


def scanned(found: Sequence[Any]) -> Iterator[tuple[int, str, float, bytes]]:
    """Bucket, id, best score and record of what `scan.lua` found."""
    for bucket, entries, scores in zip(found[::3], found[1::3], found[2::3], strict=True):
        for id, record, score in zip(entries[::2], entries[1::2], scores, strict=True):
            yield bucket, id.decode(), float(score), record


def bodies(score: float, record: bytes) -> Iterator[tuple[float, bytes]]:
    """Score and body (digest first) of every candidate, best first."""
    yield score, record[HEAD : HEAD + BODY]
    for at in range(HEAD + BODY, len(record), MORE):
        yield struct.unpack_from(">d", record, at)[0], record[at + 8 : at + MORE]


def digests(record: bytes) -> list[bytes]:
    """The raw digests of the candidates, best first."""
    return [body[:32] for _, body in bodies(0.0, record)]


def worst(score: float, record: bytes) -> tuple[int, float]:
    """How many candidates there are, and the last one's score."""
    count = 1 + (len(record) - HEAD - BODY) // MORE
    return count, score if count == 1 else struct.unpack_from(">d", record, len(record) - MORE)[0]


def unpack_history(packed: bytes) -> list[HistoryItem]:
    """Newest first."""
    return [
        HistoryItem(time=time, step=step, stage=stage, log_odds=log_odds, digest=digest.hex())
        for time, step, stage, log_odds, digest in _ITEM.iter_unpack(packed)
    ]


def pack_history(items: Sequence[HistoryItem]) -> bytes:
    """What `unpack_history` reads."""
    return b"".join(
        _ITEM.pack(item.time, item.step, item.stage, item.log_odds, bytes.fromhex(item.digest))
        for item in items
    )
