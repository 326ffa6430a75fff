"""Whatever a request is made of, the service answers as its OpenAPI description says, never with a 5xx."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from pool_store.engine.images import digest_of
from pool_store.engine.pools import PoolHost, open_host
from pool_store.http.app import create_app
from pool_store.schemas import Lineage, Offer, PoolSettings

EXAMPLES = 25
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
schemathesis.serializer.alias("application/x-tar", "application/octet-stream")
schemathesis.serializer.alias("application/x-ndjson", "application/octet-stream")
LOCAL = {"host": "localhost"}
IMAGE = np.zeros((4, 4, 3), np.uint8)
THERE = {"pool": "0", "id": "0", "digest": digest_of(IMAGE)}
"""What paths may name that is there."""
OPERATIONS = [
    (method.upper(), path)
    for path, operations in create_app(cast(PoolHost, None)).openapi()["paths"].items()
    for method in operations
]


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The description of a service with one pool that has one entry."""
    folder: Path = tmp_path_factory.mktemp("pools")
    host = open_host(f"embedded:{folder}?fsync=everysec")
    pool, _ = host.create(THERE["pool"], PoolSettings(fingerprint="f", keep=2, history=8))
    digest = pool.put_image(IMAGE)
    lineage = Lineage(run="run", step=1, stage=1, time=0.0)
    pool.put_source(THERE["id"], IMAGE)
    pool.offer(Offer(id=THERE["id"], log_odds=1.0, fingerprint="f", digest=digest, lineage=lineage))
    yield schemathesis.openapi.from_asgi("/openapi.json", create_app(host), headers=LOCAL)
    host.close()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_makes_it_fail(described: Any, method: str, path: str) -> None:
    @given(case=described[path][method].as_strategy(), there=st.booleans())
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def check(case: Any, there: bool) -> None:
        if there and method != "DELETE":
            case.path_parameters = {name: THERE[name] for name in case.path_parameters or {}}
        answer = case.call(headers=LOCAL)
        case.validate_response(answer, checks=CHECKS)
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == ["application/problem+json"]

    check()
