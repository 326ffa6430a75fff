"""The derain service over HTTP: the API under `/v1`, metrics, probes, and the page."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from rgsud.api import Derainer
from rgsud.serving.work import MEDIA, Busy, Deraining, WorkSettings
from rgsud_core.http.limits import Limits
from rgsud_core.http.page import OPEN, add_page
from rgsud_core.http.runner import run
from rgsud_core.http.security import Access, Scope, Tokens
from rgsud_core.http.service import guarded
from rgsud_core.images import WRITTEN
from trainer.errors import TrainerError

PAGE = Path(__file__).with_name("page")
TOKEN_VARIABLES: dict[Scope, str] = {"read": "RGSUD_DERAIN_TOKEN"}
"""Environment variable of the service's token."""
ACCESS = Access(open=OPEN, reading_posts=("derain", "preview"))
LACKS = "rgsud-lacks"
"""Header of an answer that lacks something that the photograph's file has."""
_UNKEPT = {"cache-control": "no-store"}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": dict.fromkeys([*sorted(set(MEDIA.values())), "application/octet-stream"], _BINARY),
    }
}


class Service(BaseModel):
    """What derains here, and how much it takes."""

    model: str
    device: str
    body: int
    """Largest file in bytes."""
    pixels: int
    """Largest photograph in pixels."""


def create_app(
    work: Deraining,
    model: str,
    tokens: Tokens | None = None,
    limits: Limits | None = None,
    *,
    access_log: bool = False,
) -> FastAPI:
    """The application, which does not close `work`.

    Without tokens it serves everyone who reaches it by a name of this machine.
    """
    tokens, limits = tokens or Tokens(), limits or Limits()
    app = FastAPI(
        title="RGSUD derainer",
        version=version("rgsud"),
        summary="Photographs in, the same without their rain out.",
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )

    @app.get("/v1/service")
    def service() -> Service:
        """The derainer that answers here, and its limits."""
        device = str(work.derainer.device)
        return Service(model=model, device=device, body=limits.body, pixels=work.settings.pixels)

    written = sorted({MEDIA[format] for format in MEDIA if format in WRITTEN})
    derained: dict[str, Any] = {
        "description": "The photograph without its rain",
        "content": dict.fromkeys(written, _BINARY),
        "headers": {LACKS: {"description": "What it lacks of the file", "schema": {"type": "string"}}},
    }

    @app.post("/v1/derain", response_class=Response, responses={200: derained}, openapi_extra=_BODY)
    async def derain(request: Request) -> Response:
        """Remove the rain from a photograph: the file is the body, and so is the answer.

        It comes back in the same format and depth, with its transparency, colour profile, EXIF and XMP; a
        format that can only be read comes back as PNG.
        """
        answer = await work.derained(await request.body())
        headers = {LACKS: "; ".join(answer.lacks)} if answer.lacks else {}
        return Response(answer.content, headers=_UNKEPT | headers, media_type=answer.media_type)

    shown: dict[str, Any] = {"description": "The preview", "content": {"image/png": _BINARY}}

    @app.post("/v1/preview", response_class=Response, responses={200: shown}, openapi_extra=_BODY)
    async def preview(request: Request) -> Response:
        """An image in any format as PNG, of 2048 pixels at most, for what cannot show that format."""
        return Response(await work.preview(await request.body()), headers=_UNKEPT, media_type="image/png")

    add_page(app, PAGE)
    return guarded(
        app,
        service="derain",
        tokens=tokens,
        limits=limits,
        access=ACCESS,
        errors={TrainerError: 500, Busy: 503},
        ready=lambda: None,
        registry=work.metrics.registry,
        log_access=access_log,
    )


def serve(
    derainer: Derainer,
    model: str,
    settings: WorkSettings,
    *,
    host: str,
    port: int,
    tokens: Tokens,
    limits: Limits,
    access_log: bool,
    on_ready: Callable[[str], None],
) -> None:
    """Serves a derainer as :func:`rgsud_core.http.runner.run` says; `model` is its name, to be shown.

    Raises:
        ServiceError: see there.
        TrainerError: the derainer's output is none.
    """

    @contextlib.contextmanager
    def opening() -> Iterator[FastAPI]:
        with contextlib.closing(Deraining(derainer, settings)) as work:
            yield create_app(work, model, tokens, limits, access_log=access_log)

    remedy = f"set {TOKEN_VARIABLES['read']}, or use --token-file"
    run(opening(), host=host, port=port, tokens=tokens, remedy=remedy, limits=limits, on_ready=on_ready)
