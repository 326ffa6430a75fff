"""`rgsud pool ...`: what it prints, and that what is wrong is one sentence and an exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from pool_store.engine.images import digest_of, encode
from pool_store.schemas import Lineage, Offer
from rgsud import cli
from rgsud_core.images import Image
from tests.patience import PATIENCE

Picture = Callable[[int], Image]
RGSUD = (sys.executable, "-c", "from rgsud.cli import main; main()")
TOKEN = "t" * 32


@pytest.fixture
def rgsud(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs a command here: its exit code and what it printed and complained."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["rgsud", "pool", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def filled(tcp: Any, make_offer: Callable[..., Offer]) -> Any:
    """A backend whose pool has two entries and one replaced image."""
    pool = tcp.open()
    for number, (id, log_odds) in enumerate((("day/a", 1.0), ("day/a", 2.0), ("day/b", -1.0))):
        pool.offer(make_offer(pool, id, log_odds, number))
    pool.declare_size(4)
    return tcp


def test_stats(filled: Any, rgsud: Any) -> None:
    code, out, _ = rgsud("stats", filled.spec)
    assert code == 0
    for said in ("2 of 4", "50.0%", "3 (100.0%)", "0.500", "stage 1"):
        assert said in out
    code, out, _ = rgsud("stats", filled.spec, "--json")
    assert (code, json.loads(out)["entries"], json.loads(out)["mean_log_odds"]) == (0, 2, 0.5)


def test_sweep(filled: Any, rgsud: Any) -> None:
    assert json.loads(rgsud("sweep", filled.spec, "--json")[1])["blobs"] == 0
    assert "1 images" in rgsud("sweep", filled.spec, "--grace", 0)[1]


def test_verify_has_an_exit_code(filled: Any, rgsud: Any, picture: Picture) -> None:
    code, out, _ = rgsud("verify", filled.spec)
    assert (code, "2 entries, 2 images, 0 damaged" in out) == (0, True)
    filled.file(digest_of(picture(1))).unlink()
    code, out, _ = rgsud("verify", filled.spec)
    assert (code, "day/a" in out, "day/b" in out) == (1, True, False)
    code, out, _ = rgsud("verify", filled.spec, "--json")
    assert (code, [damage["id"] for damage in json.loads(out)["damaged"]]) == (1, ["day/a"])


@pytest.mark.parametrize("name", ["out", "out.tar"])
def test_export_and_import(filled: Any, rgsud: Any, tmp_path: Path, name: str) -> None:
    code, out, _ = rgsud("export", filled.spec, tmp_path / name, "--format", "png")
    assert (code, "2 entries, 2 images" in out) == (0, True)
    target = f"embedded:{tmp_path / 'copy'}?fsync=everysec"
    for _ in range(2):  # the second time changes nothing
        code, out, _ = rgsud("import", tmp_path / name, target, "--json")
        assert (code, json.loads(out)) == (0, {"entries": 2, "candidates": 2, "replaced": 2})
        stats = json.loads(rgsud("stats", target, "--json")[1])
        assert (stats["mean_log_odds"], stats["offers"]) == (0.5, 2)
    code, _, errors = rgsud("export", filled.spec, tmp_path / name)
    assert (code, "File exists" in errors) == (2, True)
    code, _, errors = rgsud("import", tmp_path / "none", target)
    assert (code, "give the folder or the .tar of an export" in errors) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("stats", "somewhere"), "unknown pool 'somewhere'"),
        (("stats", "http://127.0.0.1:1/demo"), "does not answer"),
        (("stats", "redis://127.0.0.1:1/0?blobs=a"), "does not serve"),
        (("serve", "somewhere", "--port", "0"), "unknown"),
        (("serve", "embedded:x", "--host", "0.0.0.0"), "so a token is needed"),
        (
            ("serve", "embedded:x", "--host", "192.0.2.1", "--token-file", "none"),
            "token file none",
        ),
        (("serve",), "Missing argument 'pools'"),
        (("sweep", "http://127.0.0.1:1", "--grace", "-1"), "--grace"),
    ],
)
def test_what_is_wrong_is_a_sentence(
    rgsud: Any, arguments: tuple[str, ...], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, errors = rgsud(*arguments)
    assert (code, said in errors, "Traceback" in errors) == (2, True, False)


def test_joins_no_pool_that_is_not_there(tcp: Any, rgsud: Any) -> None:
    code, _, errors = rgsud("stats", tcp.spec)
    assert (code, "no pool" in errors) == (2, True)


class Served:
    """`rgsud pool serve` in a process of its own."""

    def __init__(self, folder: Path, *options: str, **environment: str) -> None:
        spec = (f"embedded:{folder}", "--port", "0")
        self.process = subprocess.Popen(
            [*RGSUD, "pool", "serve", *spec, *options],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "200", **environment},
        )
        assert self.process.stderr is not None
        self.said = self.process.stderr.readline()
        found = re.search(r"http://(\S+):(\d+)", self.said)
        assert found, self.said + self.process.stderr.read()
        self.port = int(found[2])
        self.url = f"http://127.0.0.1:{self.port}"

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """The exit code, and what it said after its first line."""
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, errors


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    started: list[Served] = []

    def start(*options: str, **environment: str) -> Served:
        started.append(Served(tmp_path / "pools", *options, **environment))
        return started[-1]

    yield start
    for service in started:
        if service.process.poll() is None:
            service.process.kill()
            service.process.wait()


def test_serves_until_it_is_told_to_end(serve: Callable[..., Served], picture: Picture, rgsud: Any) -> None:
    service = serve(RGSUD_POOL_TOKEN="")
    httpx.put(f"{service.url}/v1/pools/demo", json={"fingerprint": "f"}, timeout=PATIENCE).raise_for_status()
    code, out, _ = rgsud("stats", f"{service.url}/demo", "--json")
    assert (code, json.loads(out)["entries"]) == (0, 0)

    # A request in hand is finished, and only then the service ends.
    body = encode(picture(1))
    with socket.create_connection(("127.0.0.1", service.port), timeout=PATIENCE) as connection:
        head = (
            f"PUT /v1/pools/demo/blobs/{digest_of(picture(1))} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: image/webp\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body[:10])
        httpx.get(
            f"{service.url}/healthz", timeout=PATIENCE
        ).raise_for_status()  # by now the service has seen that head
        service.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            service.process.wait(0.5)
        connection.sendall(body[10:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 201")
    _, errors = service.process.communicate(timeout=PATIENCE)
    assert (service.process.returncode, errors) == (0, "")

    service = serve(RGSUD_POOL_TOKEN="")  # the folder is free again, and nothing is lost
    answer = httpx.get(f"{service.url}/v1/pools/demo/blobs/{digest_of(picture(1))}", timeout=PATIENCE)
    assert answer.content == body
    assert service.end(signal.SIGINT) == (0, "")


def test_serves_other_machines_with_a_token_and_logs_no_token(serve: Callable[..., Served]) -> None:
    service = serve("--host", "0.0.0.0", "--access-log", RGSUD_POOL_TOKEN=TOKEN)
    url = f"{service.url}/v1/pools"
    assert httpx.get(url, timeout=PATIENCE).status_code == 401
    assert httpx.get(url, headers={"authorization": f"Bearer {TOKEN}"}, timeout=PATIENCE).json() == {
        "pools": []
    }
    code, errors = service.end()
    lines = [json.loads(line) for line in errors.splitlines()]
    assert code == 0
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("GET", "/v1/pools", 401),
        ("GET", "/v1/pools", 200),
    ]
    assert TOKEN not in service.said + errors


def test_offers_by_http_reach_the_pool_that_is_looked_at(
    serve: Callable[..., Served], rgsud: Any, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pool_store.client import open_pool

    service = serve(RGSUD_POOL_TOKEN=TOKEN)
    monkeypatch.setenv("RGSUD_POOL_TOKEN", TOKEN)
    pool = open_pool(f"{service.url}/demo", fingerprint="f")
    lineage = Lineage(run="run", step=1, stage=1, time=0.0)
    digest = pool.put_image(picture(1))
    pool.offer(Offer(id="a", log_odds=1.0, fingerprint="f", digest=digest, lineage=lineage))
    pool.close()
    assert json.loads(rgsud("stats", f"{service.url}/demo", "--json")[1])["entries"] == 1
    monkeypatch.setenv("RGSUD_POOL_TOKEN", "x" * 32)
    code, _, errors = rgsud("stats", f"{service.url}/demo")
    assert (code, "refuses (that token is unknown" in errors) == (2, True)


@pytest.mark.slow
def test_many_previews_take_bounded_memory_and_give_it_back(serve: Callable[..., Served]) -> None:
    service = serve(RGSUD_POOL_TOKEN="")
    image = np.full((2000, 3000, 3), 7, np.uint8)
    with httpx.Client(base_url=f"{service.url}/v1/pools", timeout=PATIENCE) as client:
        client.put("/demo", json={"fingerprint": "f"}).raise_for_status()
        path = f"/demo/blobs/{digest_of(image)}"
        client.put(path, content=encode(image), headers={"content-type": "image/webp"}).raise_for_status()
        with ThreadPoolExecutor(24) as threads:
            widths = range(100, 148)
            answers = list(threads.map(lambda width: client.get(path, params={"width": width}), widths))
    assert {answer.status_code for answer in answers} == {200}
    status = Path(f"/proc/{service.process.pid}/status").read_text()
    peak, now = (int(re.findall(rf"{name}:\s*(\d+) kB", status)[0]) >> 10 for name in ("VmHWM", "VmRSS"))
    assert peak < 700  # all at a time they would take some 5 GB
    assert now < 200


def test_a_hostile_export_ends_the_import_with_code_2_and_a_sentence(
    filled: Any, rgsud: Any, tmp_path: Path
) -> None:
    rgsud("export", filled.spec, tmp_path / "out")
    (tmp_path / "out" / "rewards" / "day" / "a.webp").unlink()
    os.mkfifo(tmp_path / "out" / "rewards" / "day" / "a.webp")
    code, _, errors = rgsud("import", tmp_path / "out", f"embedded:{tmp_path / 'pool'}")
    assert (code, "Traceback" in errors) == (2, False)
    assert "is no file but a link or a device" in " ".join(errors.split())
