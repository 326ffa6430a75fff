"""What the HTTP API answers; that it keeps the pool's contract is tested in test_contract.py."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from fastapi.testclient import TestClient

from pool_store.engine.images import digest_of
from pool_store.engine.pool import REGISTRY
from pool_store.engine.pools import PoolHost
from rgsud_core.images import Image
from tests.pool_store.answers import sentence

Picture = Callable[[int], Image]
V1 = "/v1/pools/demo"


def encoded(image: Image, kind: str = "WEBP", **options: Any) -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(image).save(file, kind, **options)
    return file.getvalue()


def decoded(body: bytes) -> Image:
    return np.asarray(PIL.Image.open(io.BytesIO(body)))


def put(client: TestClient, image: Image, body: bytes | None = None, kind: str = "image/webp") -> Any:
    body = encoded(image, lossless=True) if body is None else body
    url = f"{V1}/blobs/{digest_of(image)}"
    return client.put(url, content=body, headers={"content-type": kind})


def offer(client: TestClient, id: str, log_odds: float, image: Image, step: int = 1) -> Any:
    put(client, image)
    lineage = {"run": "run", "step": step, "stage": 1, "worker": 0, "time": 1000.0 + step}
    one = {"id": id, "log_odds": log_odds, "fingerprint": "f", "digest": digest_of(image), "lineage": lineage}
    return client.post(f"{V1}/offers", json={"offers": [one]}).json()["decisions"][0]


def test_the_life_of_a_pool(service: TestClient) -> None:
    assert service.get("/v1/pools").json()["pools"] == []
    sentence(service.get(V1), 404)
    settings = {"fingerprint": "f", "keep": 2, "size": 50}
    made = service.put(V1, json=settings)
    info = {"name": "demo", **settings, "history": 8}
    assert (made.status_code, made.json()) == (201, info)
    assert (service.put(V1, json=settings).status_code, service.get(V1).json()) == (200, info)
    assert service.get("/v1/pools").json()["pools"] == [info]
    assert "'f', not of 'g'" in sentence(service.put(V1, json={**settings, "fingerprint": "g"}), 409)
    sentence(service.put(V1, json={**settings, "keep": 1}), 409)
    assert service.delete(V1).status_code == 204
    sentence(service.delete(V1), 404)
    sentence(service.post(f"{V1}/entries", json={"ids": ["a"]}), 404)
    assert service.put(V1, json={**settings, "fingerprint": "g"}).status_code == 201


def test_a_name_without_its_pool_costs_no_other(service: TestClient, pool_host: PoolHost) -> None:
    assert service.put(V1, json={"fingerprint": "f"}).status_code == 201
    pool_host.server.client.sadd(REGISTRY, "gone")
    assert [pool["name"] for pool in service.get("/v1/pools").json()["pools"]] == ["demo"]
    assert "rgsud_pool_up 1.0" in service.get("/metrics").text
    sentence(service.delete("/v1/pools/gone"), 404)
    assert pool_host.names() == ["demo"]


def test_pools_are_apart(demo: TestClient, picture: Picture) -> None:
    offer(demo, "a", 1.0, picture(1))
    other = V1.replace("demo", "other")
    assert demo.put(other, json={"fingerprint": "g"}).status_code == 201
    assert demo.post(f"{other}/entries", json={"ids": ["a"]}).json() == {"entries": []}
    sentence(demo.get(f"{other}/blobs/{digest_of(picture(1))}"), 404)
    assert demo.post(f"{other}/sweep", json={"grace_seconds": 0}).json()["blobs"] == 0
    demo.delete(other)
    assert demo.get(f"{V1}/stats").json()["entries"] == 1
    assert demo.get(f"{V1}/blobs/{digest_of(picture(1))}").status_code == 200


def test_a_blob_comes_back_with_tag_and_cache_headers(demo: TestClient, picture: Picture) -> None:
    image = picture(1)
    assert [put(demo, image).status_code for _ in range(2)] == [201, 204]
    url = f"{V1}/blobs/{digest_of(image)}"
    answer = demo.get(url)
    assert answer.content == encoded(image, lossless=True)  # the very bytes that were sent
    tag = answer.headers["etag"]
    assert tag == f'"{digest_of(image)}"'
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"] == "image/webp"
    for given, status in ((tag, 304), (f'"x", W/{tag}', 304), ('"x"', 200)):
        assert demo.get(url, headers={"if-none-match": given}).status_code == status
    assert demo.get(url, headers={"if-none-match": tag}).content == b""
    sentence(demo.get(url.replace(digest_of(image), "0" * 64)), 404)


def test_previews_are_smaller_and_tagged_apart(demo: TestClient, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    put(demo, image)
    url = f"{V1}/blobs/{digest_of(image)}"
    small = demo.get(url, params={"width": 30})
    assert decoded(small.content).shape == (20, 30, 3)
    assert small.headers["etag"] != demo.get(url).headers["etag"]
    held = {"if-none-match": small.headers["etag"]}
    assert demo.get(url, params={"width": 30}, headers=held).status_code == 304
    assert decoded(demo.get(url, params={"width": 1000}).content).shape == image.shape
    (file,) = tmp_path.rglob(f"{digest_of(image)}.webp")
    file.write_bytes(file.read_bytes()[:100])
    assert "corrupt" in sentence(demo.get(url, params={"width": 40}), 500)
    for width in (0, 15, 1025, -1, "x"):
        assert "query.width" in sentence(demo.get(url, params={"width": width}), 422)


def test_takes_png_and_stores_it_lossless(demo: TestClient, picture: Picture) -> None:
    image = picture(1)
    assert put(demo, image, encoded(image, "PNG"), "image/png").status_code == 201
    stored = demo.get(f"{V1}/blobs/{digest_of(image)}").content
    assert stored[8:16] == b"WEBPVP8L"
    np.testing.assert_array_equal(decoded(stored), image)


def test_stores_nothing_behind_an_image(demo: TestClient, picture: Picture) -> None:
    for number, (more, inside) in enumerate(((b"<script>", 0), (b"EXIF\x08\0\0\0<script>", 16))):
        image = picture(number)
        plain = encoded(image, lossless=True)
        size = (int.from_bytes(plain[4:8], "little") + inside).to_bytes(4, "little")
        assert put(demo, image, plain[:4] + size + plain[8:] + more).status_code == 201
        demo.put(f"{V1}/sources/a", content=plain[:4] + size + plain[8:] + more)
        for place in (f"blobs/{digest_of(image)}", "sources/a"):
            assert demo.get(f"{V1}/{place}").content == plain


def _bomb(kind: str) -> bytes:
    """A head that claims 16384x16384 pixels, and nothing after it."""
    if kind == "webp":
        body = b"WEBPVP8L" + (30).to_bytes(4, "little") + b"\x2f\xff\xff\xff\x0f" + b"\0" * 25
        return b"RIFF" + len(body).to_bytes(4, "little") + body
    head = bytearray(encoded(np.zeros((2, 2, 3), np.uint8), "PNG"))
    head[16:24] = (16384).to_bytes(4, "big") * 2
    return bytes(head)


def _two_heads(width: int, height: int) -> bytes:
    """A PNG whose second head claims another size than the first one."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    heads = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)) for size in ((1, 1), (width, height))
    ]
    pixels = zlib.compress(bytes((1 + 3 * 3) * 2))
    return b"\x89PNG\r\n\x1a\n" + b"".join(heads) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _swollen(plain: bytes) -> bytes:
    """Lossless WebP with megabytes of zeros behind its pixels, all said to be theirs."""
    body = b"WEBPVP8L" + (len(plain) - 20 + (2 << 20)).to_bytes(4, "little") + plain[20:] + bytes(2 << 20)
    return b"RIFF" + len(body).to_bytes(4, "little") + body


@pytest.mark.parametrize(
    ("make", "status", "said"),
    [
        (lambda i: encoded(i, "JPEG"), 415, "neither PNG nor lossless WebP"),
        (lambda i: encoded(i, "WEBP", quality=90), 415, "neither PNG nor lossless WebP"),
        (lambda i: encoded(i, "GIF"), 415, "neither PNG nor lossless WebP"),
        (lambda _: b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "neither PNG nor lossless WebP"),
        (lambda i: encoded(i, lossless=True)[:-9], 422, "damaged"),
        (lambda i: encoded(i, lossless=True)[:20], 422, "damaged"),
        (lambda i: encoded(i, "PNG")[:-40], 422, "damaged"),
        (lambda i: encoded(i, "PNG")[:20], 415, "neither PNG nor lossless WebP"),
        (lambda _: _bomb("webp"), 413, "16384x16384 is too large"),
        (lambda _: _bomb("png"), 413, "16384x16384 is too large"),
        (lambda _: _two_heads(3, 2), 422, "two sizes, (1, 1) and (3, 2)"),
        (lambda _: _two_heads(13_000, 13_000), 422, "two sizes"),
        (lambda _: _two_heads(30_000, 30_000), 422, "damaged"),
        (lambda i: _swollen(encoded(i, lossless=True)), 422, "more than its pixels"),
        (lambda i: encoded(i[..., 0], "PNG"), 422, "mode L"),
        (lambda i: encoded(np.dstack([i, i[..., :1]]), lossless=True), 422, "mode RGBA"),
        (lambda i: encoded(i[::-1], lossless=True), 422, "put it under its own"),
    ],
)
def test_an_upload_is_what_it_says_it_is(
    demo: TestClient, picture: Picture, make: Callable[[Image], bytes], status: int, said: str
) -> None:
    image = picture(1)
    for kind in ("image/webp", "image/png"):
        assert said in sentence(put(demo, image, make(image), kind), status)
    sentence(demo.get(f"{V1}/blobs/{digest_of(image)}"), 404)


def test_entries_rewards_and_history(demo: TestClient, picture: Picture) -> None:
    for step, log_odds in enumerate((1.0, 0.5, 2.0)):
        offer(demo, "day/rain 1#%", log_odds, picture(step), step)
    path = "day/rain%201%23%25"
    shown = demo.get(f"{V1}/entries/{path}").json()
    assert shown["entry"]["id"] == "day/rain 1#%"
    assert [item["log_odds"] for item in shown["history"]] == [1.0, 2.0]
    assert [candidate["digest"] for candidate in shown["entry"]["candidates"]] == [digest_of(picture(2))]
    reward = demo.get(f"{V1}/rewards/{path}")
    np.testing.assert_array_equal(decoded(reward.content), picture(2))
    assert reward.headers["etag"] == f'"{digest_of(picture(2))}"'
    assert reward.headers["cache-control"] == "no-cache"
    held = {"if-none-match": reward.headers["etag"]}
    assert demo.get(f"{V1}/rewards/{path}", headers=held).status_code == 304
    offer(demo, "day/rain 1#%", 3.0, picture(3), 3)
    assert demo.get(f"{V1}/rewards/{path}", headers=held).status_code == 200
    for place in ("entries", "rewards", "sources"):
        assert "night" in sentence(demo.get(f"{V1}/{place}/night"), 404)


def test_lists_entries_by_score_and_name(demo: TestClient, picture: Picture) -> None:
    for number, id in enumerate(("day/a", "day/b", "night/c", "night/d")):
        offer(demo, id, float(number), picture(number), number)

    def listed(**params: Any) -> tuple[list[str], int]:
        page = demo.get(f"{V1}/entries", params=params).json()
        return [entry["id"] for entry in page["entries"]], page["total"]

    assert listed(sort="worst") == (["day/a", "day/b", "night/c", "night/d"], 4)
    assert listed(sort="best", limit=1) == (["night/d"], 4)
    assert listed(sort="worst", offset=3, limit=5) == (["night/d"], 4)
    assert listed(minimum=1, maximum=2) == (["day/b", "night/c"], 2)
    assert listed(contains="day") == (["day/a", "day/b"], 2)
    assert listed(sort="best", contains="night", limit=1) == (["night/d"], 2)
    for wrong in ({"limit": 501}, {"limit": 0}, {"offset": -1}, {"sort": "size"}, {"minimum": "nan"}):
        assert f"query.{next(iter(wrong))}" in sentence(demo.get(f"{V1}/entries", params=wrong), 422)


def test_sources_stand_beside_rewards(demo: TestClient, picture: Picture) -> None:
    url = f"{V1}/sources/day/rain%201"
    image = np.random.default_rng(1).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    for body, kind in ((encoded(image, lossless=True), "image/webp"), (encoded(image, "PNG"), "image/png")):
        assert demo.put(url, content=body, headers={"content-type": kind}).status_code == 204
        answer = demo.get(url)
        np.testing.assert_array_equal(decoded(answer.content), image)
    assert decoded(demo.get(url, params={"width": 20}).content).shape == (15, 20, 3)
    held = {"if-none-match": answer.headers["etag"]}
    assert demo.get(url, headers=held).status_code == 304
    demo.put(url, content=encoded(picture(1), lossless=True), headers={"content-type": "image/webp"})
    assert demo.get(url, headers=held).status_code == 200
    assert demo.post(f"{V1}/sweep", json={"grace_seconds": 0}).json()["blobs"] == 0
    assert demo.get(url).status_code == 200


def test_scans_snapshots_and_restores(demo: TestClient, picture: Picture) -> None:
    for number in range(3):
        offer(demo, f"id{number}", float(number), picture(number))
    lines = demo.get(f"{V1}/scan").text.splitlines()
    assert sorted(json.loads(line)["id"] for line in lines) == ["id0", "id1", "id2"]
    dump, headers = demo.get(f"{V1}/dump").content, {"content-type": "application/x-ndjson"}
    offer(demo, "id0", 9.0, picture(9))
    assert demo.put(f"{V1}/dump", content=dump, headers=headers).status_code == 204
    assert demo.get(f"{V1}/dump").content == dump
    meta, *rest = dump.splitlines()
    for wrong in (
        b"",
        b"{}",
        b'{"meta": {}}',
        dump + b'{"id": "a", "value": "nonsense"}',
        dump + b"[" * 100_000,
        dump + b'{"id": "a", "value": [' + b"0," * 200_000 + b"0]}",
        b"\n".join(rest),
        meta[:-1],
    ):
        sentence(demo.put(f"{V1}/dump", content=wrong, headers=headers), 422)
    assert demo.get(f"{V1}/dump").content == dump


def test_verify_names_what_is_damaged(demo: TestClient, picture: Picture, tmp_path: Path) -> None:
    offer(demo, "a", 1.0, picture(1))
    assert demo.post(f"{V1}/verify").json() == {"entries": 1, "candidates": 1, "damaged": []}
    (file,) = tmp_path.rglob(f"{digest_of(picture(1))}.webp")
    file.write_bytes(b"rot")
    (damage,) = demo.post(f"{V1}/verify").json()["damaged"]
    assert (damage["id"], damage["digest"]) == ("a", digest_of(picture(1)))
    assert "is corrupt" in sentence(demo.get(f"{V1}/blobs/{digest_of(picture(1))}?width=16"), 500)


def test_metrics_tell_the_pool_and_the_requests(demo: TestClient, picture: Picture) -> None:
    for number, log_odds in enumerate((1.0, 2.0, 0.0)):
        offer(demo, "a", log_odds, picture(number))
    demo.put(V1, json={"fingerprint": "f", "size": 4})
    text, route = demo.get("/metrics").text, 'route="/v1/pools/{pool}/offers"'
    for line in (
        'rgsud_pool_entries{pool="demo"} 1.0',
        'rgsud_pool_coverage{pool="demo"} 0.25',
        'rgsud_pool_mean_log_odds{pool="demo"} 2.0',
        'rgsud_pool_offers_total{decision="replaced",pool="demo"} 2.0',
        'rgsud_pool_offers_total{decision="kept",pool="demo"} 1.0',
        'rgsud_pool_offers_total{decision="stale",pool="demo"} 0.0',
        'rgsud_pool_blobs{pool="demo"} 3.0',
        "rgsud_pool_up 1.0",
        f'rgsud_pool_http_request_seconds_count{{method="POST",{route},status="200"}} 3.0',
    ):
        assert line in text.splitlines()


def test_probes_answer(service: TestClient) -> None:
    for path in ("/healthz", "/readyz"):
        assert service.get(path).json() == {"status": "ok"}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("GET", "/nowhere", None, 404, "nothing at /nowhere"),
        ("GET", "/docs", None, 404, "nothing at /docs"),
        ("PATCH", V1, None, 405, "does not take PATCH"),
        ("POST", f"{V1}/entries", "{", 400, "the body is no JSON"),
        ("POST", f"{V1}/entries", "[" * 100_000, 413, "more than 32768 values"),
        ("POST", f"{V1}/entries", "[" * 20_000, 400, "parsing the body"),
        ("POST", f"{V1}/entries", '{"ids": ["\\ud800"]}', 422, "'\\ud800' cannot name an image"),
        ("POST", f"{V1}/entries", '{"ids": 3}', 422, "body.ids"),
        ("POST", f"{V1}/entries", '{"ids": [], "extra": 1}', 422, "body: unknown setting 'extra'"),
        ("POST", f"{V1}/offers", '{"offers": [{}]}', 422, "(and 4 more problems like it)"),
        ("POST", f"{V1}/sweep", '{"grace_seconds": -1}', 422, "body.grace_seconds"),
        ("PUT", "/v1/pools/Demo", '{"fingerprint": "f"}', 422, "path.pool"),
        ("PUT", "/v1/pools/new", '{"fingerprint": ""}', 422, "body.fingerprint"),
    ],
)
def test_errors_are_problems(
    demo: TestClient, method: str, path: str, body: str | None, status: int, said: str
) -> None:
    headers = {"content-type": "application/json"} if body else {}
    assert said in sentence(demo.request(method, path, content=body, headers=headers), status)


def test_json_has_to_say_that_it_is(demo: TestClient) -> None:
    answer = demo.post(f"{V1}/entries", content='{"ids": []}', headers={"content-type": "text/plain"})
    assert "Content-Type: application/json" in sentence(answer, 415)
