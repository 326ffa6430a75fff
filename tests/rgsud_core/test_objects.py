"""Object stores: the memory of this process, and an imitation of S3 over real HTTP; files on disk."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pytest

from pool_store.engine.images import Blobs, Image
from pool_store.errors import PoolError, PoolFull, PoolMissing, PoolUnavailable
from pool_store.schemas import Offer
from rgsud_core import objects as storage
from rgsud_core.objects import DiskStorage, ObjectStorage, Storage, open_storage

Picture = Callable[[int], Image]


class S3(BaseHTTPRequestHandler):
    """As much of S3 as an object store needs: put (on condition), get, head, delete, list."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, tuple[bytes, float]]

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        key = unquote(urlsplit(self.path).path)
        if self.headers.get("If-None-Match") == "*" and key in self.objects:
            self.answer(412)
        else:
            self.objects[key] = body, time.time()
            self.answer(200, ETag=f'"{hashlib.md5(body).hexdigest()}"')

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if "list-type" in url.query:
            prefix = parse_qs(url.query).get("prefix", [""])[0]
            found = "".join(
                f"<Contents><Key>{name}</Key><Size>{len(body)}</Size><ETag>x</ETag><LastModified>"
                f"{datetime.fromtimestamp(when, UTC):%Y-%m-%dT%H:%M:%SZ}</LastModified></Contents>"
                for key, (body, when) in list(self.objects.items())
                if (name := key.removeprefix("/bucket/")).startswith(prefix)
            )
            self.answer(200, f"<ListBucketResult>{found}</ListBucketResult>".encode())
        elif unquote(url.path) in self.objects:
            body, when = self.objects[unquote(url.path)]
            size = str(len(body))
            headers = {"ETag": '"x"', "Last_Modified": formatdate(when, usegmt=True), "Content_Length": size}
            self.answer(200, body, **headers)
        else:
            self.answer(404)

    do_HEAD = do_GET

    def do_POST(self) -> None:  # delete several
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        keys = re.findall("<Key>(.*?)</Key>", body)
        for key in keys:
            self.objects.pop(f"/bucket/{key}", None)
        deleted = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        self.answer(200, f"<DeleteResult>{deleted}</DeleteResult>".encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    handler = type("Handler", (S3,), {"objects": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    environment = {
        "AWS_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    yield "s3://bucket/some/prefix"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(storage, "_MEMORY", {})
    return "memory:///pools"


@pytest.fixture(params=["disk", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(ObjectStorage, "tolerance", 0.0)
    return str(tmp_path) if request.param == "disk" else str(request.getfixturevalue(request.param))


def test_keeps_what_is_put(place: str) -> None:
    store = open_storage(place, "a")
    assert store.put("ab/one", b"1")
    assert not store.put("ab/one", b"1")
    assert store.put("cd/two", b"22")
    assert (store.get("ab/one"), store.touch("ab/one"), store.touch("ab/none")) == (b"1", True, False)
    assert sorted((item.key, item.size) for item in store.items()) == [("ab/one", 1), ("cd/two", 2)]
    assert all(abs(item.time - time.time()) < 60 for item in store.items())
    with pytest.raises(PoolMissing, match="ab/none is missing"):
        store.get("ab/none")
    assert (store.remove("ab/one"), store.remove("ab/one")) == (True, False)
    assert not store.remove("cd/two", older_than=3600)
    assert open_storage(place, "a").get("cd/two") == b"22"


def test_parts_of_a_place_are_apart(place: str) -> None:
    one, other = open_storage(place, "a"), open_storage(place, "b")
    one.put("x/1", b"1")
    assert list(other.items()) == []
    with pytest.raises(PoolMissing):
        other.get("x/1")


def test_images_and_sweeps(place: str, picture: Picture) -> None:
    blobs = Blobs(open_storage(place, "a"))
    held, loose = blobs.put(picture(1)), blobs.put(picture(2))
    assert held.added > 0
    assert blobs.put(picture(1)) == (held.digest, 0)
    np.testing.assert_array_equal(blobs.get(held.digest), picture(1))
    blobs.put_source("id", picture(3))
    swept, usage = blobs.sweep({bytes.fromhex(held.digest)}, [], 3600)
    assert (swept.blobs, usage) == (0, (2, held.added + loose.added))
    swept, usage = blobs.sweep({bytes.fromhex(held.digest)}, [], 0)
    assert (swept.blobs, swept.bytes) == (1, loose.added)
    assert usage == (1, held.added)
    assert blobs.touch(held.digest)
    assert blobs.source("id") is not None


def test_a_pool_with_its_images_in_an_object_store(
    server: str, s3: str, make_offer: Callable[..., Offer], tcp: Any
) -> None:
    pool = tcp.open(spec=f"{server}/0?blobs={s3}")
    offer = make_offer(pool, "a", 1.0, 1)
    assert pool.offer(offer).status == "replaced"
    assert tcp.open(spec=pool.address).image(offer.digest).shape == (9, 7, 3)
    with pytest.raises(PoolError, match="put that image first"):
        pool.offer(offer.model_copy(update={"log_odds": 2.0, "digest": "0" * 64}))
    pool.drop()
    assert list(open_storage(s3, "main").items()) == []


def test_a_touch_makes_an_old_object_young(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store: Storage = open_storage(memory, "a")
    store.put("x", b"1")
    monkeypatch.setattr(ObjectStorage, "tolerance", 0.0)
    before = next(store.items()).time
    assert store.touch("x")
    assert next(store.items()).time > before


def test_spares_objects_whose_age_it_may_not_know(memory: str) -> None:
    store = open_storage(memory, "a")
    store.put("x", b"1")
    assert store.tolerance == 60
    assert not store.remove("x", older_than=0)


def test_names_the_object_store_out_of_reach(monkeypatch: pytest.MonkeyPatch, s3: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(storage, "PATIENCE", {"max_retries": 0})
    with pytest.raises(
        PoolUnavailable, match=r"cannot write a blob to s3://bucket/some/prefix/a: .*see to that"
    ):
        open_storage(s3, "a").put("x", b"1")


@pytest.mark.parametrize("place", ["ftp://host/x", "http://host/x"])
def test_names_the_unknown_place(place: str) -> None:
    with pytest.raises(PoolError, match=f"unknown place for images '{place}': use a folder, or one of s3://"):
        open_storage(place)


def test_leaves_room_for_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "RESERVE", 1 << 60)
    with pytest.raises(PoolFull, match="No space left on device"):
        DiskStorage(tmp_path).put("x/1", b"1")
