"""Binary layouts of offers, as the scripts take them, and of entries, as Redis holds them (`common.lua`)."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set

from pool_store.errors import PoolError
from pool_store.schemas import LARGEST, Entry, HistoryItem, Kept, Lineage, Offer

HEAD, BODY, MORE = 3, 47, 55
"""Bytes of a record's head, of a candidate's body, and of a further candidate with its score."""
LOWEST, WIDTH, BINS = -16.0, 0.25, 128
"""The histogram: log-odds of the first edge, width and number of bins."""
LATEST, MINUTES = 512, 1440
"""Ids in `latest`, and minutes in `timeline`."""
_SHARED = {"HEAD": HEAD, "BODY": BODY, "MORE": MORE, "LOWEST": LOWEST, "WIDTH": WIDTH, "BINS": BINS}
_SHARED |= {"LATEST": LATEST, "MINUTES": MINUTES}
LUA = "".join(f"local {name} = {value}\n" for name, value in _SHARED.items())
"""The constants above, as every script begins with them."""
ANSWER = struct.Struct(">cd")
_OFFER = struct.Struct(">cId32sdIHH")
_BODY = struct.Struct(">32sdI")
_ITEM = struct.Struct(">dIBd32s")
_SOURCE = struct.Struct(">BH")
_HASHES = struct.Struct(">II")


def text(fields: Mapping[bytes, bytes]) -> dict[str, str]:
    """The fields and values of a hash, decoded."""
    return {field.decode(): value.decode() for field, value in fields.items()}


def hashes(id: str) -> tuple[int, int]:
    """Two hashes of an id, 32 bits each: one recognises its offers, the other chooses its shard."""
    first, second = _HASHES.unpack_from(hashlib.sha1(id.encode(), usedforsecurity=False).digest())
    return first, second


def source(lineage: Lineage) -> bytes:
    """Run, stage and worker, which many candidates share and a record names by number."""
    return _SOURCE.pack(lineage.stage, lineage.worker) + lineage.run.encode()


def _pack_offer(flag: bytes, offer: Offer, source: int) -> bytes:
    score, lineage, id = offer.log_odds, offer.lineage, offer.id.encode()
    if not abs(score) <= LARGEST:
        raise PoolError(f"the score offered is {score}: offer finite float32 log-odds only")
    hash, digest = hashes(offer.id)[0], bytes.fromhex(offer.digest)
    # Zero has no sign here, or the same offer would look like two.
    return _OFFER.pack(flag, hash, score + 0.0, digest, lineage.time, lineage.step, source, len(id)) + id


def pack_offers(
    offers: Iterable[Offer], stored: Set[str], fingerprint: str, added: Sequence[int]
) -> list[bytes | str | int]:
    """Offers as `decide.lua` takes them; PoolError where a score is no finite float32.

    Args:
        stored: digests of the images that are known to be stored.
        added: bytes of each image that is to be counted as stored.
    """
    sources: dict[bytes, int] = {}
    packed = []
    for offer in offers:
        number = sources.setdefault(source(offer.lineage), len(sources) + 1)
        flag = b"C" if offer.digest in stored else b"F"
        packed.append(_pack_offer(flag if offer.fingerprint == fingerprint else b"S", offer, number))
    # All in one argument: a thousand of them would take longer to send and to read than to decide.
    return [fingerprint, len(added), sum(added), len(sources), *sources, b"".join(packed)]


def pack_entry(entry: Entry, number_of: Callable[[bytes], int]) -> bytes:
    """The record of an entry; `number_of` gives the number of a source."""
    parts = [entry.replacements.to_bytes(HEAD)]
    for rank, candidate in enumerate(entry.candidates):
        if rank:
            parts.append(struct.pack(">d", candidate.log_odds))
        lineage = candidate.lineage
        parts.append(_BODY.pack(bytes.fromhex(candidate.digest), lineage.time, lineage.step))
        parts.append(number_of(source(lineage)).to_bytes(3))
    return b"".join(parts)


def unpack_entry(id: str, score: float, record: bytes, source_of: Callable[[int], bytes]) -> Entry:
    """The entry of a record and its best score; `source_of` gives the source of a number."""
    candidates = []
    for log_odds, body in bodies(score, record):
        digest, time, step = _BODY.unpack_from(body)
        packed = source_of(int.from_bytes(body[-3:]))
        stage, worker = _SOURCE.unpack_from(packed)
        run = packed[_SOURCE.size :].decode()
        # Not validated again, which would double the time: it was validated when it was offered.
        lineage = Lineage.model_construct(run=run, step=step, stage=stage, worker=worker, time=time)
        candidates.append(Kept.model_construct(digest=digest.hex(), log_odds=log_odds, lineage=lineage))
    return Entry.model_construct(
        id=id,
        candidates=tuple(candidates),
        replacements=int.from_bytes(record[:HEAD]),
    )


def bodies(score: float, record: bytes) -> Iterator[tuple[float, bytes]]:
    """Score and body (digest first) of every candidate, best first."""
    yield score, record[HEAD : HEAD + BODY]
    for at in range(HEAD + BODY, len(record), MORE):
        yield struct.unpack_from(">d", record, at)[0], record[at + 8 : at + MORE]


def digests(record: bytes) -> list[bytes]:
    """The raw digests of the candidates, best first."""
    return [body[:32] for _, body in bodies(0.0, record)]


def unpack_history(packed: bytes) -> list[HistoryItem]:
    """The replacements of an entry, newest first."""
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
