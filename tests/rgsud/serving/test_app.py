"""The derain service: a file comes back as it was, and whatever else is sent gets a sentence."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest
import tifffile
from fastapi.testclient import TestClient

from rgsud_core.http.limits import Limits
from rgsud_core.http.security import Tokens
from tests.patience import PATIENCE
from tests.pool_store.answers import raw, sentence
from tests.pool_store.servers import serving
from tests.rgsud.serving.conftest import Broken, Dimmed

DERAIN, PREVIEW = "/v1/derain", "/v1/preview"
TOKEN = "r" * 32
PROFILE = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("XYZ")).tobytes()
Serve = Callable[..., TestClient]


def scene(height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth picture, which lossy formats keep well, uint8 H,W,3."""
    down, across = np.mgrid[:height, :width]
    return np.stack([4 * down, 3 * across, 2 * (down + across)], 2).clip(0, 255).astype(np.uint8)


def file_of(pixels: Any, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    picture.save(file, format, **options)
    return file.getvalue()


def deep_tiff() -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, scene().astype(np.uint16) * 257, photometric="rgb")
    return file.getvalue()


def with_alpha() -> PIL.Image.Image:
    picture = PIL.Image.fromarray(scene())
    picture.putalpha(PIL.Image.fromarray(scene()[..., 0]))
    return picture


@pytest.mark.parametrize(
    ("format", "options"),
    [
        *[("PNG", {}), ("BMP", {}), ("PPM", {}), ("TIFF", {}), ("TGA", {}), ("QOI", {})],
        *[("JPEG", {"quality": 92}), ("WEBP", {"quality": 92}), ("WEBP", {"lossless": True})],
        *[("AVIF", {"quality": 95}), ("JPEG2000", {})],
    ],
)
def test_the_answer_has_the_format_of_the_file(served: Serve, format: str, options: Any) -> None:
    sent = file_of(scene(), format, **options)
    answer = served().post(DERAIN, content=sent)
    assert answer.status_code == 200
    with PIL.Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.mode, image.size) == (format, "RGB", (56, 40))
        assert answer.headers["content-type"] == PIL.Image.MIME.get(format, "image/qoi")
        difference = np.abs(np.asarray(image, float) - np.asarray(scene() / 2))
    assert difference.mean() < (3 if "quality" in options else 0.51)
    assert answer.headers["cache-control"] == "no-store"


def test_grey_alpha_and_notes_come_back(served: Serve) -> None:
    client = served()
    exif = PIL.Image.Exif()
    exif[0x010F], exif[0x0112] = "Camera", 6
    jpeg = file_of(scene(), "JPEG", exif=exif, dpi=(300, 300))
    with PIL.Image.open(io.BytesIO(client.post(DERAIN, content=jpeg).content)) as image:
        found = image.getexif()
        assert (found[0x010F], found[0x0112], image.size) == ("Camera", 1, (40, 56))
        assert image.info["dpi"] == (300, 300)
    png = file_of(with_alpha(), "PNG", icc_profile=PROFILE)
    with PIL.Image.open(io.BytesIO(client.post(DERAIN, content=png).content)) as image:
        assert image.mode == "RGBA"
        assert np.array_equal(np.asarray(image)[..., 3], scene()[..., 0])
    for format in ("PNG", "JPEG", "TIFF"):
        grey = file_of(scene()[..., 0], format)
        with PIL.Image.open(io.BytesIO(client.post(DERAIN, content=grey).content)) as image:
            assert (image.format, image.mode) == (format, "L")


def test_sixteen_bits_stay(served: Serve) -> None:
    client = served()
    answer = client.post(DERAIN, content=deep_tiff())
    found = tifffile.imread(io.BytesIO(answer.content))
    assert found.dtype == np.uint16
    assert np.abs(found - scene() * 128.5).max() <= 1
    grey = (scene()[..., 0].astype(np.uint16)) * 257
    answer = client.post(DERAIN, content=file_of(grey, "PNG"))
    with PIL.Image.open(io.BytesIO(answer.content)) as image:
        assert image.mode == "I;16"
        assert np.abs(np.asarray(image, float) - grey / 2).max() <= 1


def test_what_is_lost_is_told(served: Serve) -> None:
    frames = [PIL.Image.fromarray(scene()), PIL.Image.fromarray(scene()[::-1].copy())]
    film = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert served().post(DERAIN, content=film).headers["rgsud-lacks"] == "1 more frames, pages or previews"


def test_a_preview_is_png_of_any_format(served: Serve) -> None:
    client = served()
    answer = client.post(PREVIEW, content=deep_tiff())
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(PIL.Image.open(io.BytesIO(answer.content))), scene())
    answer = client.post(PREVIEW, content=file_of(np.zeros((9, 3000, 3), np.uint8), "TIFF"))
    assert PIL.Image.open(io.BytesIO(answer.content)).size == (2048, 6)


def head_of_png(width: int, height: int) -> bytes:
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (
        struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in (head, b"IDAT")
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def deep_bomb() -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((400, 400, 3), np.float32), photometric="rgb", compression="zlib")
    return file.getvalue()


@pytest.mark.parametrize("path", [DERAIN, PREVIEW])
@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 415, "is no image"),
        (b"a text", 415, "is no image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415, "is no image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "is no image"),
        (b"II*\0" + bytes(20), 422, "the photograph cannot be read"),
        (file_of(scene(), "PNG")[:-60], 422, "the photograph cannot be read"),
        (file_of(scene(), "JPEG")[:300], 422, "the photograph cannot be read"),
        (file_of(np.zeros((200, 200, 3), np.uint8), "PNG"), 413, "more than 0.02 megapixels"),
        (head_of_png(1 << 16, 1 << 15), 413, "more than 0.02 megapixels"),
        (deep_bomb(), 413, "more than 0.02 megapixels"),
        (bytes(70_000), 413, "larger than 60000 bytes"),
    ],
)
def test_what_is_no_photograph_gets_a_sentence(
    served: Serve, path: str, body: bytes, status: int, said: str
) -> None:
    client = served(limits=Limits(body=60_000), pixels=20_000)
    answer = client.post(path, content=body)
    detail = sentence(answer, status)
    assert said in detail
    assert "/tmp" not in detail
    assert "rgsud-" not in detail


def test_a_network_that_fails_is_told_and_logged(served: Serve) -> None:
    answer = served(net=Broken()).post(DERAIN, content=file_of(scene(), "PNG"))
    assert "not finite" in sentence(answer, 500)


def test_only_holders_of_a_token_and_names_of_this_machine(served: Serve) -> None:
    png = file_of(scene(), "PNG")
    client = served(Tokens([("read", TOKEN)]))
    for path in (DERAIN, PREVIEW):
        assert "a token is needed" in sentence(client.post(path, content=png), 401)
        wrong = {"authorization": "Bearer " + "w" * 32}
        assert "unknown" in sentence(client.post(path, content=png, headers=wrong), 401)
        right = {"authorization": f"Bearer {TOKEN}"}
        assert client.post(path, content=png, headers=right).status_code == 200
    assert client.get("/v1/service").status_code == 401
    for path in ("/", "/assets/style.css", "/assets/base.css", "/assets/icon.svg"):
        assert client.get(path).status_code == 200
    client = served()
    assert "localhost only" in sentence(
        client.post(DERAIN, content=png, headers={"host": "evil.example"}), 421
    )
    crossing = {"origin": "http://evil.example"}
    assert "another site" in sentence(client.post(DERAIN, content=png, headers=crossing), 403)


def test_a_full_queue_refuses_and_says_when_to_come_again(served: Serve, network: Dimmed) -> None:
    png = file_of(scene(), "PNG")
    client = served(workers=1, waiting=1)
    network.entered.acquire()  # the try at the start
    network.going.clear()
    with ThreadPoolExecutor(2) as threads, client:
        inside = [threads.submit(client.post, DERAIN, content=png)]
        network.entered.acquire()
        waits = threading.Event()
        inside.append(threads.submit(client.post, DERAIN, content=png))
        while not waits.is_set():
            if "rgsud_derain_inside 2.0" in client.get("/metrics").text:
                waits.set()
        answer = client.post(DERAIN, content=png)
        assert "1 photographs are waiting" in sentence(answer, 503)
        assert int(answer.headers["retry-after"]) >= 1
        assert client.get("/healthz").status_code == client.get("/").status_code == 200
        network.going.set()
        assert [one.result().status_code for one in inside] == [200, 200]
        assert client.post(DERAIN, content=png).status_code == 200
    counted = client.get("/metrics").text
    assert 'rgsud_derain_images_total{result="derained"} 3.0' in counted
    assert 'rgsud_derain_images_total{result="busy"} 1.0' in counted


@pytest.fixture
def port(served: Serve) -> Iterator[int]:
    with serving(served(workers=2, waiting=8).app) as port:
        yield port


def test_of_64_clients_each_gets_an_image_or_is_asked_to_come_again(port: int) -> None:
    kinds = [file_of(scene(200, 300), "PNG"), file_of(scene(300, 200), "JPEG"), deep_tiff(), b"no image"]
    began = threading.Barrier(64)

    def client(number: int) -> tuple[int, str]:
        began.wait()
        answer = httpx.post(f"http://localhost:{port}{DERAIN}", content=kinds[number % 4], timeout=PATIENCE)
        if answer.status_code == 503:
            assert int(answer.headers["retry-after"]) >= 1
        elif answer.status_code == 200:
            PIL.Image.open(io.BytesIO(answer.content)).load()
        return answer.status_code, answer.headers["content-type"]

    with ThreadPoolExecutor(64) as threads:
        found = Counter(threads.map(client, range(64)))
    assert sum(found.values()) == 64
    assert {status for status, _ in found} <= {200, 415, 429, 503}
    assert sum(count for (status, _), count in found.items() if status == 200) >= 8


def test_two_lengths_of_a_body_are_refused(port: int) -> None:
    lines = ["POST /v1/derain HTTP/1.1", "Host: localhost", "Content-Length: 3", "Transfer-Encoding: chunked"]
    assert raw(port, *lines, body=b"abc")[0] == 400


def test_nothing_of_a_photograph_stays(served: Serve, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    client = served()
    for body in (file_of(scene(), "PNG"), b"no image"):
        client.post(DERAIN, content=body)
    assert list(tmp_path.iterdir()) == []
