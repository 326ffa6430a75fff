"""Whatever a request is made of, the scorer's interface answers as its OpenAPI says, never with a 5xx."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import PIL.Image
import pytest
import schemathesis
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from iqa_service.scorers.daclip import DaCLIP, Rule
from iqa_service.scorers.daclip_iqa import DaclipScorer
from iqa_service.serving.batching import ScoringService
from iqa_service.serving.http_api import make_api
from iqa_service.serving.settings import ServiceSettings

CONFIG = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
EXAMPLES = 40
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LIMITS = ServiceSettings(max_images=3, max_pixels=10_000, max_body_bytes=20_000)
OPERATIONS = [
    ("GET", "/v1/scorer"),
    ("POST", "/v1/score"),
    ("POST", "/v1/views"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
]


@pytest.fixture(scope="module")
def api() -> Any:
    torch.manual_seed(0)
    scorer = DaclipScorer(DaCLIP(CONFIG, image_tower=False), Rule(), "tiles", "test")
    return make_api(ScoringService(scorer), LIMITS)


@pytest.fixture(scope="module")
def described(api: Any) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", api, headers={"host": "localhost"})


def test_every_operation_is_described(api: Any) -> None:
    paths = api.openapi()["paths"]
    assert {(method.upper(), path) for path in paths for method in paths[path]} == set(OPERATIONS)


def image_file(width: int, height: int) -> bytes:
    encoded = io.BytesIO()
    PIL.Image.fromarray(np.full((height, width, 3), 99, np.uint8)).save(encoded, "png")
    return encoded.getvalue()


FILES = st.one_of(
    st.builds(image_file, st.integers(1, 150), st.integers(1, 150)), st.binary(max_size=100)
).map(lambda data: base64.b64encode(data).decode())
"""Images within and beyond the limits, and what is none."""


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_makes_it_fail(described: Any, method: str, path: str) -> None:
    @given(case=described[path][method].as_strategy())
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    check()


@pytest.mark.slow
def test_no_image_makes_it_fail(described: Any) -> None:
    images = st.lists(
        st.fixed_dictionaries({"image": FILES}, optional={"rainy": FILES, "id": st.text(max_size=9)}),
        min_size=1,
        max_size=4,
    )

    @given(given_images=images)
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def check(given_images: list[dict[str, str]]) -> None:
        case = described["/v1/score"]["POST"].Case(
            body={"images": given_images}, media_type="application/json"
        )
        case.call_and_validate(checks=CHECKS)

    check()


@pytest.mark.slow
def test_no_views_make_it_fail(described: Any) -> None:
    @given(count=st.integers(0, 70), more=st.integers(0, 2), fingerprint=st.none() | st.text(max_size=140))
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def check(count: int, more: int, fingerprint: str | None) -> None:
        query = {} if fingerprint is None else {"fingerprint": fingerprint}
        case = described["/v1/views"]["POST"].Case(
            body=bytes(count * 16 * 16 * 3 + more), media_type="application/octet-stream", query=query
        )
        case.call_and_validate(checks=CHECKS)

    check()
