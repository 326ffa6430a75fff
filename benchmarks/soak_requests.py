"""The requests of a soak: what a client of the services sends in a day, and what one sends who means harm."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import socket
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx
import numpy as np
import PIL.Image

from pool_store.engine.images import digest_of, encode

POOL = "/v1/pools/soak"
IMAGES = 200
"""Different images, and ids of entries."""
Send = Callable[[httpx.Client, random.Random], int]
"""Sends one request and gives its status; 0 where the connection ended without an answer, as it should."""


class NoRetryAfterError(Exception):
    """An answer 503 that does not say when to come back."""


@dataclass(frozen=True)
class Request:
    """One kind of request, and how often it is sent relative to the others."""

    name: str
    send: Send
    weight: float
    good: bool = True


def status(answer: httpx.Response) -> int:
    """The status of an answer, once it has been read."""
    if answer.status_code == 503 and not answer.headers.get("retry-after", "").isdigit():
        raise NoRetryAfterError(answer.text[:200])
    return answer.status_code


def pictures() -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    """Small photographs' stand-ins, uint8 H,W,3."""
    numbers = np.random.default_rng(0)
    sizes = numbers.integers(48, 320, (IMAGES, 2))
    return [
        np.asarray(PIL.Image.fromarray(numbers.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize((w, h), 2))
        for w, h in sizes.tolist()
    ]


def png(width: int, height: int, *more: tuple[int, int]) -> bytes:
    """A PNG that says it is so large; ``more`` are further headers."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    heads = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)) for size in ((width, height), *more)
    ]
    pixels = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(heads) + pixels + chunk(b"IEND", b"")


def hostile_bodies() -> list[bytes]:
    """Bodies that no service takes."""
    whole = encode(pictures()[0])
    return [
        b"",
        b"\0" * 4096,
        random.Random(0).randbytes(200_000),
        whole[: len(whole) // 2],
        whole[:20] + random.Random(1).randbytes(len(whole) - 20),
        png(1 << 15, 1 << 15),
        png(8, 8, (1 << 14, 1 << 14)),
        b"[" * 200_000,
        b'{"ids":[' + b",".join([b"[]"] * 200_000) + b"]}",
        b'{"images":[' + b",".join([b"0"] * 200_000) + b"]}",
        b'{"offers":[{"id":"a","log_odds":NaN}]}',
        json.dumps({"ids": ["x" * 100_000]}).encode(),
        json.dumps({"images": [{"image": "no base64!"}]}).encode(),
        b"\xff\xfe" * 1000,
    ]


def _archive(names: list[str], data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("a" * 64 + ".webp")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return file.getvalue()


def _broken_off(client: httpx.Client, path: str, announced: int, sent: int) -> int:
    """A request whose body is not finished: the client leaves."""
    url = urlsplit(str(client.base_url))
    head = f"PUT {path} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {announced}\r\n\r\n"
    with socket.create_connection((url.hostname, url.port or 80), timeout=10) as connection:
        connection.sendall(head.encode() + bytes(sent))
    return 0


def pool_requests() -> list[Request]:
    """What is sent to the pool's service."""
    images = pictures()
    digests, encoded = [digest_of(image) for image in images], [encode(image) for image in images]
    bodies = hostile_bodies()
    kinds = {"content-type": "application/json"}, {"content-type": "image/webp"}

    def put(client: httpx.Client, draw: random.Random) -> int:
        at = draw.randrange(IMAGES)
        return status(client.put(f"{POOL}/blobs/{digests[at]}", content=encoded[at], headers=kinds[1]))

    def offer(client: httpx.Client, draw: random.Random) -> int:
        lineage = {"run": "soak", "step": draw.randrange(1 << 20), "stage": 1, "worker": 0, "time": 0.0}
        offers = [
            {
                "id": f"street/{draw.randrange(IMAGES)}",
                "log_odds": draw.gauss(0, 2),
                "fingerprint": "soak",
                "digest": digests[draw.randrange(IMAGES)],
                "lineage": lineage,
            }
            for _ in range(16)
        ]
        return status(client.post(f"{POOL}/offers", json={"offers": offers}))

    def entries(client: httpx.Client, draw: random.Random) -> int:
        ids = [f"street/{draw.randrange(IMAGES)}" for _ in range(16)]
        return status(client.post(f"{POOL}/entries", json={"ids": ids}))

    def preview(client: httpx.Client, draw: random.Random) -> int:
        width = draw.choice((64, 128, 256))
        return status(client.get(f"{POOL}/blobs/{draw.choice(digests)}", params={"width": width}))

    def get(*paths: str) -> Send:
        return lambda client, draw: status(client.get(draw.choice(paths)))

    def source(client: httpx.Client, draw: random.Random) -> int:
        at = draw.randrange(IMAGES)
        return status(client.put(f"{POOL}/sources/street/{at}", content=encoded[at], headers=kinds[1]))

    def archive(client: httpx.Client, draw: random.Random) -> int:
        at = draw.randrange(IMAGES)
        body = _archive([f"{digests[at]}.webp", f"{digests[at - 1]}.webp", "../x.webp"], encoded[at])
        answer = client.post(f"{POOL}/blobs", content=body, headers={"content-type": "application/x-tar"})
        return status(answer)

    def hostile(client: httpx.Client, draw: random.Random) -> int:
        method, path = draw.choice(
            [
                ("PUT", f"{POOL}/blobs/{draw.choice(digests)[:-1]}0"),
                ("PUT", f"{POOL}/blobs/{hashlib.sha256(draw.randbytes(8)).hexdigest()}"),
                ("PUT", f"{POOL}/sources/a"),
                ("POST", f"{POOL}/blobs"),
                ("POST", f"{POOL}/offers"),
                ("POST", f"{POOL}/entries"),
                ("POST", f"{POOL}/sweep"),
                ("PUT", f"{POOL}/dump"),
                ("PUT", POOL),
            ]
        )
        return status(client.request(method, path, content=draw.choice(bodies), headers=draw.choice(kinds)))

    def astray(client: httpx.Client, draw: random.Random) -> int:
        method = draw.choice(("GET", "POST", "DELETE", "PATCH", "TRACE"))
        path = draw.choice(("/v1/pools/none", "/%2e%2e/etc/passwd", f"{POOL}/blobs/x", "/" + "x" * 5000))
        headers = draw.choice(({}, {"host": "elsewhere.example"}, {"sec-fetch-site": "cross-site"}))
        return status(client.request(method, path, headers=headers))

    def gone(client: httpx.Client, draw: random.Random) -> int:
        return _broken_off(client, f"{POOL}/sources/a", 60 << 20, draw.randrange(1 << 20))

    return [
        Request("put an image", put, 3),
        Request("offer 16 candidates", offer, 5),
        Request("read 16 entries", entries, 4),
        Request("preview", preview, 4),
        Request(
            "whole image, page of entries, figures", get(f"{POOL}/entries", f"{POOL}/stats", "/metrics"), 3
        ),
        Request("snapshot and scan", get(f"{POOL}/dump", f"{POOL}/scan"), 0.5),
        Request("put a rainy image", source, 1),
        Request("archive with a link in it", archive, 1),
        Request("bodies that are not taken", hostile, 6, good=False),
        Request("paths and hosts that are not there", astray, 2, good=False),
        Request("uploads broken off", gone, 1, good=False),
    ]


def scorer_requests(side: int) -> list[Request]:
    """What is sent to the scorer's service, whose views have ``side`` pixels."""
    images = pictures()
    bodies = hostile_bodies()

    def file_of(draw: random.Random, format: str) -> bytes:
        file = io.BytesIO()
        PIL.Image.fromarray(draw.choice(images)).save(file, format)
        return file.getvalue()

    def form(client: httpx.Client, draw: random.Random) -> int:
        files = [("images", (f"{n}.png", file_of(draw, "PNG"))) for n in range(draw.randint(1, 3))]
        return status(client.post("/v1/score", files=files))

    def in_json(client: httpx.Client, draw: random.Random) -> int:
        image = base64.b64encode(file_of(draw, "JPEG")).decode()
        return status(client.post("/v1/score", json={"images": [{"id": "a", "image": image}]}))

    def views(client: httpx.Client, draw: random.Random) -> int:
        return status(client.post("/v1/views", content=draw.randbytes(8 * side * side * 3)))

    def about(client: httpx.Client, draw: random.Random) -> int:
        return status(client.get(draw.choice(("/v1/scorer", "/metrics"))))

    def neighbours(client: httpx.Client, draw: random.Random) -> int:
        files = [
            ("images", ("good.png", file_of(draw, "PNG"))),
            ("images", ("bad.png", draw.choice(bodies) or b"x")),
        ]
        return status(client.post("/v1/score", files=files))

    def hostile(client: httpx.Client, draw: random.Random) -> int:
        kind = draw.choice(
            ("application/json", "multipart/form-data; boundary=x", "multipart/form-data", "text/plain")
        )
        path = draw.choice(("/v1/score", "/v1/views", "/v1/views?fingerprint=other"))
        return status(client.post(path, content=draw.choice(bodies), headers={"content-type": kind}))

    def gone(client: httpx.Client, draw: random.Random) -> int:
        return _broken_off(client, "/v1/score", 30 << 20, draw.randrange(1 << 20))

    return [
        Request("1 to 3 images as files", form, 3),
        Request("an image in JSON", in_json, 2),
        Request("8 views", views, 2),
        Request("scorer and figures", about, 2),
        Request("a bad image beside a good one", neighbours, 2),
        Request("bodies that are not taken", hostile, 5, good=False),
        Request("uploads broken off", gone, 1, good=False),
    ]
