"""Who may do what: tokens with a scope, and what a browser on another site may not make its user do."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal, TypeAlias, get_args
from urllib.parse import urlsplit

from pool_store.errors import PoolError
from pool_store.http.problems import Problem

Scope: TypeAlias = Literal["read", "write"]
WRITE_TOKEN, READ_TOKEN = "RGSUD_POOL_TOKEN", "RGSUD_POOL_READ_TOKEN"
"""Environment variables of the service; clients send the first."""
SHORTEST_TOKEN = 16
_OPEN = ("/", "/healthz", "/readyz", "/openapi.json")
_READING_POSTS = ("peek", "entries")
"""Last segments of paths whose POST only asks; any other method but GET and HEAD writes."""
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        b"font-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
)
"""Of every answer. The dashboard shows images that it fetched with its token, hence `blob:`."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Tokens:
    """The tokens that the service takes; only their digests are held, so that none can end up in a log."""

    def __init__(self, tokens: Iterable[tuple[Scope, str]] = ()) -> None:
        self._digests: list[tuple[Scope, bytes]] = []
        for scope, token in tokens:
            if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
                raise PoolError(
                    f"the {scope} token is not {SHORTEST_TOKEN} or more ASCII letters, digits and signs: "
                    "make one with 'openssl rand -hex 32'"
                )
            self._digests.append((scope, _digest(token)))

    @classmethod
    def load(cls, file: Path | None, environment: Mapping[str, str] = os.environ) -> Tokens:
        """From the environment, and from lines `read TOKEN` or `write TOKEN` of `file`.

        PoolError where a token is too short, or the file cannot be read or understood.
        """
        found: list[tuple[Scope, str]] = []
        if token := environment.get(WRITE_TOKEN):
            found.append(("write", token))
        if token := environment.get(READ_TOKEN):
            found.append(("read", token))
        try:
            lines = file.read_text().splitlines() if file else []
        except (OSError, UnicodeDecodeError) as error:
            raise PoolError(f"cannot read the token file {file}: {error}") from error
        for number, line in enumerate(lines, start=1):
            match line.split():
                case [] | ["#", *_]:
                    pass
                case ["read", token]:
                    found.append(("read", token))
                case ["write", token]:
                    found.append(("write", token))
                case _:
                    raise PoolError(
                        f"line {number} of the token file {file} is not '{'|'.join(get_args(Scope))} TOKEN'"
                    )
        return cls(found)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def scope_of(self, token: str) -> Scope | None:
        """What the token allows, None where it is unknown; every token is compared, in constant time."""
        given = _digest(token)
        scopes = {scope for scope, digest in self._digests if hmac.compare_digest(digest, given)}
        return "write" if "write" in scopes else "read" if scopes else None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def needed_scope(method: str, path: str) -> Scope | None:
    """What a request needs; None for the page, its assets and the probes. Unknown ones need `write`."""
    reading = method in ("GET", "HEAD")
    if reading and (path in _OPEN or path.startswith("/assets/")):
        return None
    if reading or (method == "POST" and path.rpartition("/")[2] in _READING_POSTS):
        return "read"
    return "write"


def authorise(tokens: Tokens, scope: Scope | None, headers: list[tuple[bytes, bytes]]) -> None:
    """Problem 401 without a valid bearer token, 403 where the token may only read."""
    if scope is None:
        return
    given = [value for name, value in headers if name == b"authorization"]
    kind, _, token = (given[0] if len(given) == 1 else b"").decode("latin-1").partition(" ")
    allowed = tokens.scope_of(token.strip()) if kind.lower() == "bearer" else None
    if allowed is None:
        said = "that token is unknown" if given else "a token is needed"
        raise Problem(
            401, f"{said}: send 'Authorization: Bearer TOKEN'", {"www-authenticate": 'Bearer realm="rgsud"'}
        )
    if scope == "write" and allowed == "read":
        raise Problem(403, "that token may only read: use one with write scope")


def refuse_other_sites(method: str, headers: list[tuple[bytes, bytes]], loopback_only: bool) -> None:
    """Stops pages of other sites from using a browser's reach: Problem 400, 403 or 421.

    `loopback_only` is for a service without tokens: it then answers only to names of this machine, so that a
    site that points its own name here (DNS rebinding) is refused.
    """
    hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        raise Problem(400, "send one Host header")
    if loopback_only and not is_loopback(_hostname(f"//{hosts[0]}")):
        raise Problem(421, "this service answers to localhost only: set a token to serve other names")
    if method in ("GET", "HEAD"):
        return
    found = dict(headers)
    origin = found.get(b"origin", b"").decode("latin-1")
    crossing = found.get(b"sec-fetch-site", b"same-origin") not in (b"same-origin", b"none")
    if crossing or (origin and origin.partition("://")[2].lower() != hosts[0].lower()):
        raise Problem(403, "a page of another site may not change the pool: use the service's own page")


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
