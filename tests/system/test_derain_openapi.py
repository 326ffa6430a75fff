"""Whatever a request is made of, the derain service answers as its OpenAPI says, never with a 5xx."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
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
from torch import nn

from rgsud.api import Derainer
from rgsud.serving.app import create_app
from rgsud.serving.work import MEDIA, Deraining, WorkSettings
from rgsud_core.http.limits import Limits

EXAMPLES = 40
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = [
    *[("GET", path) for path in ("/v1/service", "/healthz", "/readyz", "/metrics")],
    *[("POST", path) for path in ("/v1/derain", "/v1/preview")],
]
for kind in set(MEDIA.values()):
    schemathesis.serializer.alias(kind, "application/octet-stream")


@pytest.fixture(scope="module")
def api() -> Iterator[Any]:
    work = Deraining(Derainer(nn.Identity(), device="cpu"), WorkSettings(workers=2, pixels=10_000))
    yield create_app(work, "tiny", limits=Limits(body=40_000))
    work.close()


@pytest.fixture(scope="module")
def described(api: Any) -> Any:
    return schemathesis.openapi.from_asgi("/openapi.json", api, headers={"host": "localhost"})


def test_every_operation_is_described(api: Any) -> None:
    paths = api.openapi()["paths"]
    assert {(method.upper(), path) for path in paths for method in paths[path]} == set(OPERATIONS)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_no_request_makes_it_fail(described: Any, method: str, path: str) -> None:
    @given(case=described[path][method].as_strategy())
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    def check(case: Any) -> None:
        case.call_and_validate(checks=CHECKS)

    check()


def image_file(width: int, height: int, mode: str, format: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 4), dtype=np.uint8)
    PIL.Image.fromarray(pixels).convert(mode).save(file, format)
    return file.getvalue()


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """Files of images within and beyond the limits, whole and damaged, and what is none."""
    modes = {
        "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
        "TIFF": ["1", "L", "P", "RGBA", "CMYK", "F"],
    }
    modes |= {"JPEG": ["L", "RGB", "CMYK"], "WEBP": ["RGB", "RGBA"], "GIF": ["L", "P"], "BMP": ["1", "RGB"]}
    format = draw(st.sampled_from(sorted(modes)))
    sides = st.integers(1, 130)
    whole = bytearray(image_file(draw(sides), draw(sides), draw(st.sampled_from(modes[format])), format))
    for place in draw(st.lists(st.integers(0, len(whole) - 1), max_size=8)):
        whole[place] = draw(st.integers(0, 255))
    return bytes(whole[: draw(st.integers(0, len(whole)) | st.just(len(whole)))])


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/v1/derain", "/v1/preview"])
def test_no_file_makes_it_fail(described: Any, path: str) -> None:
    @given(body=files())
    @settings(
        max_examples=8 * EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    def check(body: bytes) -> None:
        case = described[path]["POST"].Case(body=body, media_type="application/octet-stream")
        case.call_and_validate(checks=CHECKS)

    check()
