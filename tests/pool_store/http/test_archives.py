"""Many images in one request: each gets its own answer."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import pytest
from fastapi.testclient import TestClient

from pool_store.client import Pool
from pool_store.engine.images import digest_of, encode
from pool_store.engine.pools import PoolHost
from pool_store.http.app import create_app
from pool_store.http.archive import pack
from pool_store.http.client import HttpPool
from pool_store.http.limits import IMAGES_A_REQUEST, Limits
from rgsud_core.images import Image
from tests.pool_store.answers import sentence

URL = "/v1/pools/demo/blobs"
Picture = Callable[[int], Image]


def send(client: TestClient, body: bytes) -> Any:
    return client.post(URL, content=body, headers={"content-type": "application/x-tar"})


def member(name: str, data: bytes = b"", **fields: Any) -> bytes:
    """One member of an archive; fields of its head may be wrong."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def test_one_bad_image_refuses_only_itself(demo: TestClient, picture: Picture) -> None:
    good, late, other = picture(1), picture(2), digest_of(picture(3))
    png = io.BytesIO()
    PIL.Image.fromarray(late).save(png, "PNG")
    held = encode(good)
    members = [
        (f"{digest_of(good)}.webp", held, "stored", None),
        (f"{other}.webp", held, "refused", f"has digest {digest_of(good)}, not {other}"),
        (f"{other}.webp", held[:40], "refused", "the image is damaged"),
        (f"{other}.webp", b"GIF89a", "refused", "neither PNG nor lossless WebP"),
        (f"../{digest_of(good)}", held, "refused", "no plain file named by a digest"),
        ("\udcff", held, "refused", "no plain file named by a digest"),
        (f"{digest_of(late)}.png", png.getvalue(), "stored", None),
    ]
    links = member(other, type=tarfile.SYMTYPE, linkname="/etc/passwd") + member(other, type=tarfile.DIRTYPE)
    body = b"".join(member(name, data) for name, data, _, _ in members) + links
    answers = send(demo, body).json()["images"]
    for answer, (_, _, status, problem) in zip(answers, members, strict=False):
        assert answer["status"] == status
        assert answer["problem"] is None if problem is None else problem in answer["problem"]
    assert [answer["status"] for answer in answers[len(members) :]] == ["refused", "refused"]
    for image in (good, late):
        found = demo.get(f"{URL}/{digest_of(image)}").content
        np.testing.assert_array_equal(np.asarray(PIL.Image.open(io.BytesIO(found))), image)
    assert demo.get("/v1/pools/demo/stats").json()["blobs"] == 2
    assert [answer["status"] for answer in send(demo, pack([(digest_of(good), held)])).json()["images"]] == [
        "held"
    ]


def test_pixels_are_limited_one_by_one(pool_host: PoolHost) -> None:
    client = TestClient(create_app(pool_host, limits=Limits(pixels=100)), "http://localhost")
    client.put("/v1/pools/demo", json={"fingerprint": "f"})
    images = [np.zeros((10, width, 3), np.uint8) for width in (11, 10)]
    answers = send(client, pack((digest_of(image), encode(image)) for image in images)).json()["images"]
    assert [answer["status"] for answer in answers] == ["refused", "stored"]
    assert "11x10 is too large" in answers[0]["problem"]


@pytest.mark.parametrize(
    "body",
    [
        b"no archive",
        b"x" * 4096,
        member("a", b"x" * 2000)[:1024],
        member("a", size=1 << 40),
        member("a" * 50, b"20 path=" + b"x" * 600, type=tarfile.XHDTYPE)[:700],
    ],
)
def test_what_is_no_whole_archive_is_refused(demo: TestClient, body: bytes) -> None:
    assert "no plain tar archive" in sentence(send(demo, body), 422)


def test_holes_and_loops_cost_nothing(demo: TestClient) -> None:
    sparse = {"GNU.sparse.size": str(1 << 40), "GNU.sparse.map": f"{1 << 40},0"}
    info = tarfile.TarInfo("0" * 64)
    info.pax_headers = sparse
    (answer,) = send(demo, info.tobuf(tarfile.PAX_FORMAT)).json()["images"]
    assert answer["status"] == "refused"
    # A head of negative size leads back to itself.
    back = bytearray(member("0" * 64))
    back[124:136] = b"\xff" * 10 + b"\xfe\x00"
    back[148:156] = b"%06o\0 " % (256 + sum(back[:148]) + sum(back[156:512]))
    assert send(demo, bytes(back)).status_code in (413, 422)


def test_the_number_of_images_is_limited(demo: TestClient) -> None:
    many = b"".join(member(str(number)) for number in range(IMAGES_A_REQUEST + 1))
    assert f"more than {IMAGES_A_REQUEST} files" in sentence(send(demo, many), 413)
    assert send(demo, pack([])).json() == {"images": []}


def test_a_client_sends_what_one_request_takes(
    http: Any, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool: Pool = http.open()
    images = [picture(number) for number in range(IMAGES_A_REQUEST + 3)]
    assert pool.put_images(images) == [digest_of(image) for image in images]
    monkeypatch.setattr("pool_store.http.client.BYTES_A_REQUEST", 500)
    assert pool.put_images(images[:5]) == [digest_of(image) for image in images[:5]]
    assert isinstance(pool, HttpPool)
    wrong = digest_of(images[1])
    with pytest.raises(Exception, match=f"refuses image {'f' * 64}.webp: the image has digest {wrong}"):
        pool.upload({"f" * 64: encode(images[1])})
