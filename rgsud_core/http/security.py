"""Access control: tokens with a scope, and protection against requests from pages of other sites."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args
from urllib.parse import urlsplit

from rgsud_core.errors import ServiceError
from rgsud_core.http.problems import Problem

Scope: TypeAlias = Literal["read", "write"]
SHORTEST_TOKEN = 16
HEALTH = ("/healthz", "/readyz")
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
"""Sent with every answer. Pages show images that they fetched with their token, hence `blob:`."""


@dataclass(frozen=True)
class Access:
    """What requests of a service need: nothing, or a token that may read or write.

    Args:
        open: paths that anyone may GET, beside health and OpenAPI; one that ends in "/" opens all below it.
        reading_posts: last segments of paths whose POST changes nothing.
    """

    open: tuple[str, ...] = ()
    reading_posts: tuple[str, ...] = ()

    def needed(self, method: str, path: str) -> Scope | None:
        """The scope that a request needs, None for open paths; whatever is unknown needs "write"."""
        reading = method in ("GET", "HEAD")
        if reading and (
            path in (*HEALTH, "/openapi.json", *self.open)
            or any(path.startswith(folder) for folder in self.open if folder.endswith("/") and folder != "/")
        ):
            return None
        return "read" if reading or path.rpartition("/")[2] in self.reading_posts else "write"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Tokens:
    """The tokens that a service takes; only their digests are held, so that none can end up in a log.

    ServiceError where a token is too short, or cannot be part of a header; the token itself is not shown.
    """

    def __init__(self, tokens: Iterable[tuple[Scope, str]] = ()) -> None:
        self._digests: list[tuple[Scope, bytes]] = []
        for scope, token in tokens:
            if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
                raise ServiceError(
                    f"the {scope} token is not {SHORTEST_TOKEN} or more ASCII letters, digits and signs: "
                    "make one with 'openssl rand -hex 32'"
                )
            self._digests.append((scope, _digest(token)))

    @classmethod
    def load(
        cls, variables: Mapping[Scope, str], file: Path | None, environment: Mapping[str, str] = os.environ
    ) -> Tokens:
        """The tokens of the environment `variables`, and of lines `read TOKEN` or `write TOKEN` of `file`.

        ServiceError where a token cannot be used, or the file cannot be read or understood.
        """
        given = ((scope, environment.get(name, "").strip()) for scope, name in variables.items())
        found: list[tuple[Scope, str]] = [(scope, token) for scope, token in given if token]
        try:
            lines = file.read_text().splitlines() if file else []
        except (OSError, UnicodeDecodeError) as error:
            raise ServiceError(f"cannot read the token file {file}: {error}") from error
        for number, line in enumerate(lines, start=1):
            match line.split():
                case [] | ["#", *_]:
                    pass
                case ["read" | "write" as scope, token]:
                    found.append((scope, token))
                case _:
                    raise ServiceError(
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


def refuse_other_sites(scope: Scope | None, headers: list[tuple[bytes, bytes]], loopback_only: bool) -> None:
    """Stops pages of other sites from using a browser's reach: Problem 400, 403 or 421.

    Open paths (`scope` None) may be linked to. `loopback_only` is for a service without tokens: it then
    answers only to names of this machine, so that a site that points its own name here (DNS rebinding) is
    refused.
    """
    hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        raise Problem(400, "send one Host header")
    if loopback_only and not is_loopback(_hostname(f"//{hosts[0]}")):
        raise Problem(421, "this service answers to localhost only: set a token to serve other names")
    if scope is None:
        return
    found = dict(headers)
    origin = found.get(b"origin", b"").decode("latin-1")
    crossing = found.get(b"sec-fetch-site", b"same-origin") not in (b"same-origin", b"none")
    if crossing or (origin and origin.partition("://")[2].lower() != hosts[0].lower()):
        raise Problem(403, "a page of another site may not use this service: use the service's own page")


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
