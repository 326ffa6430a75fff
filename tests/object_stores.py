"""Places for objects: the memory of this process, an imitation of S3 over real HTTP, and folders."""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from rgsud_core import objects as storage
from rgsud_core.objects import ObjectStorage


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
