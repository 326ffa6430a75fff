"""The reward pool over HTTP: the client of `pool_store.http.app`."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from pool_store.engine.images import decode, digest_of, encode, several
from pool_store.engine.pools import DEFAULT
from pool_store.engine.shards import sliced
from pool_store.errors import PoolConflict, PoolError, PoolFull, PoolMissing, PoolUnavailable
from pool_store.http import snapshots
from pool_store.http.archive import pack
from pool_store.http.limits import IDS_A_REQUEST, IMAGES_A_REQUEST, OFFERS_A_REQUEST
from pool_store.http.messages import (
    Decisions,
    Entries,
    EntryDetail,
    Grace,
    Ids,
    Offers,
    PoolInfo,
    Uploads,
)
from pool_store.schemas import Decision, Entry, HistoryItem, Offer, PoolSettings, Stats, Swept, Verified
from rgsud_core.errors import first_line
from rgsud_core.images import Image

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)
TOKEN = "RGSUD_POOL_TOKEN"
"""Environment variable that holds the token."""
RETRY_SECONDS = 5.0
"""Time for which transient failures are retried; then the caller decides what to do without the pool."""
TIMEOUT = httpx.Timeout(30.0, connect=5.0)
WHOLE_POOL = httpx.Timeout(3600.0, connect=5.0)
"""Timeout of requests that read or write a whole pool."""
BYTES_A_REQUEST = 16 << 20
"""Size limit of several images in one request; a single image may exceed it."""
_KINDS = {404: PoolMissing, 409: PoolConflict, 429: PoolUnavailable, 503: PoolUnavailable, 507: PoolFull}


class HttpPool:
    """The pool NAME ("main" by default) of the service at `http[s]://HOST:PORT[/NAME]`; see `RewardPool`.

    It is created on the server if it is missing; with `settings` None an existing pool is taken as it is. The
    token is read from the environment variable RGSUD_POOL_TOKEN. May be shared between threads. Every method
    raises PoolError in one sentence, PoolUnavailable if the service is unreachable or busy for
    `RETRY_SECONDS`. Until then all requests but `sweep`, `verify` and `drop` are repeated: they are
    idempotent.
    """

    def __init__(self, url: str, *, settings: PoolSettings | None) -> None:
        self.address = url
        base, name = _parts(url)
        self._name = f"the pool at {base}"
        self._path = f"/v1/pools/{name}"
        token = os.environ.get(TOKEN, "")
        try:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            self._http = httpx.Client(base_url=base, headers=headers, timeout=TIMEOUT, trust_env=False)
        except (ValueError, UnicodeError) as error:
            raise PoolError(f"{TOKEN} holds no token: copy it anew from where the pool is served") from error
        try:
            info = self._open(settings)
        except BaseException:
            self._http.close()
            raise
        self.fingerprint, self.keep = info.fingerprint, info.keep

    def _open(self, settings: PoolSettings | None) -> PoolInfo:
        if settings is None:
            return self._ask(PoolInfo, "GET", "")
        return self._ask(PoolInfo, "PUT", "", body=settings)

    def put_image(self, image: Image) -> str:
        digest = digest_of(image)
        self._send("PUT", f"/blobs/{digest}", content=encode(image), headers={"content-type": "image/webp"})
        return digest

    def put_images(self, images: Sequence[Image]) -> list[str]:
        digests = several(digest_of, images)
        different = dict(zip(digests, images, strict=True))
        self.upload(dict(zip(different, several(encode, [*different.values()]), strict=True)))
        return digests

    def upload(self, encoded: Mapping[str, bytes]) -> None:
        """Stores images given as lossless WebP by digest; PoolError for the first that is refused."""
        for page in _parcels(encoded.items()):
            headers = {"content-type": "application/x-tar"}
            response = self._send("POST", "/blobs", content=pack(page), headers=headers)
            for image in self._read(Uploads, response).images:
                if image.problem is not None:
                    raise PoolError(f"{self._name} refuses image {image.name}: {image.problem}")

    def offer(self, offer: Offer) -> Decision:
        return self.offer_many([offer])[0]

    def offer_many(self, offers: Sequence[Offer]) -> list[Decision]:
        decisions: list[Decision] = []
        for page in sliced(list(offers), OFFERS_A_REQUEST):
            decisions += self._ask(Decisions, "POST", "/offers", body=Offers(offers=page)).decisions
        return decisions

    def entries(self, ids: Iterable[str]) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        for page in sliced(list(ids), IDS_A_REQUEST):
            answer = self._ask(Entries, "POST", "/entries", body=Ids(ids=page))
            found.update((entry.id, entry) for entry in answer.entries)
        return found

    def history(self, id: str) -> list[HistoryItem]:
        try:
            return self._ask(EntryDetail, "GET", f"/entries/{quote(id)}").history[::-1]
        except PoolMissing:
            return []

    def scan(self) -> Iterator[Entry]:
        try:
            with self._http.stream("GET", f"{self._path}/scan") as response:
                if response.is_error:
                    response.read()
                    raise self._refusal(response)
                for line in response.iter_lines():
                    yield Entry.model_validate_json(line)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def encoded(self, digest: str) -> bytes:
        return self._send("GET", f"/blobs/{digest}").content

    def image(self, digest: str) -> Image:
        return self._image(f"/blobs/{digest}")[1]

    def reward(self, id: str) -> tuple[str, Image]:
        return self._image(f"/rewards/{quote(id)}")

    def put_source(self, id: str, image: Image) -> None:
        headers = {"content-type": "image/webp"}
        self._send("PUT", f"/sources/{quote(id)}", content=encode(image), headers=headers)

    def source(self, id: str) -> Image | None:
        try:
            response = self._send("GET", f"/sources/{quote(id)}")
        except PoolMissing:
            return None
        return decode(response.content, f"of the rainy image of '{id}' of {self._name}")

    def stats(self) -> Stats:
        return self._ask(Stats, "GET", "/stats")

    def declare_size(self, size: int) -> None:
        settings = PoolSettings(fingerprint=self.fingerprint, keep=self.keep, size=size)
        self._ask(PoolInfo, "PUT", "", body=settings)

    def verify(self) -> Verified:
        return self._ask(Verified, "POST", "/verify", again=False, timeout=WHOLE_POOL)

    def sweep(self, grace_seconds: float) -> Swept:
        grace = Grace(grace_seconds=grace_seconds)
        return self._ask(Swept, "POST", "/sweep", body=grace, again=False, timeout=WHOLE_POOL)

    def dump(self) -> dict[str, Any]:
        return snapshots.read(self._send("GET", "/dump", timeout=WHOLE_POOL).content)

    def restore(self, state: Mapping[str, Any]) -> None:
        body, headers = b"\n".join(snapshots.write(state)), {"content-type": snapshots.MEDIA_TYPE}
        self._send("PUT", "/dump", content=body, headers=headers, timeout=WHOLE_POOL)

    def drop(self) -> None:
        self._send("DELETE", "", again=False)

    def close(self) -> None:
        """Closes the connections; the pool stays."""
        self._http.close()

    def _image(self, path: str) -> tuple[str, Image]:
        response = self._send("GET", path)
        digest = response.headers.get("etag", "").strip('"')
        what = f"{digest} of {self._name}"
        image = decode(response.content, what)
        if digest_of(image) != digest:
            raise PoolError(f"blob {what} is corrupt (other pixels): see 'rgsud pool verify'")
        return digest, image

    def _ask(self, kind: type[M], method: str, path: str, body: BaseModel | None = None, **options: Any) -> M:
        if body is not None:
            options |= {
                "content": body.model_dump_json(exclude_unset=True),
                "headers": {"content-type": "application/json"},
            }
        return self._read(kind, self._send(method, path, **options))

    def _read(self, kind: type[M], response: httpx.Response) -> M:
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise PoolError(
                f"{self._name} answers otherwise than this version expects: use one version on both sides"
            ) from error

    def _send(self, method: str, path: str, *, again: bool = True, **options: Any) -> httpx.Response:
        deadline = time.monotonic() + RETRY_SECONDS
        for pause in (0.05 * 2**attempt for attempt in itertools.count()):
            try:
                response = self._http.request(method, self._path + path, **options)
            except httpx.HTTPError as error:
                failure: PoolError = self._unreachable(error)
            else:
                if response.is_success:
                    return response
                failure = self._refusal(response)
                if response.status_code not in (429, 503):
                    raise failure
                pause = max(pause, _seconds(response.headers.get("retry-after", "")))
            if not again or time.monotonic() + pause > deadline:
                raise failure
            time.sleep(pause)
        raise AssertionError

    def _unreachable(self, error: httpx.HTTPError) -> PoolError:
        reason = first_line(error)
        return PoolUnavailable(f"{self._name} does not answer ({reason}): see that 'rgsud pool serve' runs")

    def _refusal(self, response: httpx.Response) -> PoolError:
        try:
            detail = response.json()["detail"]
        except (ValueError, KeyError, TypeError):
            detail = f"HTTP {response.status_code} and no reason"
        status = response.status_code
        if status in (401, 403):
            return PoolError(f"{self._name} refuses ({detail}): set {TOKEN} to a token that it takes")
        if response.headers.get("content-type") != "application/problem+json":
            return PoolUnavailable(f"{self._name} answers {detail}: see that it is a reward pool's service")
        return _KINDS.get(status, PoolError)(str(detail))


def _parts(url: str) -> tuple[str, str]:
    """Base address and pool name of `http[s]://HOST[:PORT][/NAME]`."""
    wrong = PoolError(
        "a pool's HTTP address is http://HOST:PORT/NAME, without user, token or options: "
        f"the token goes into the environment variable {TOKEN}"
    )
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        raise wrong from None
    name = parts.path.strip("/") or DEFAULT
    if not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment or "/" in name:
        raise wrong
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}", quote(name)


def _seconds(retry_after: str) -> float:
    return float(retry_after) if retry_after.isdigit() else 0.0


def _parcels(encoded: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """Images in parts that fit into one request."""
    parcel: list[tuple[str, bytes]] = []
    size = 0
    for image in encoded:
        size += len(image[1])
        if parcel and (size > BYTES_A_REQUEST or len(parcel) == IMAGES_A_REQUEST):
            yield parcel
            parcel, size = [], len(image[1])
        parcel.append(image)
    if parcel:
        yield parcel
