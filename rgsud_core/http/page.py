"""The page that a service shows to people: a folder of files that load nothing from elsewhere.

What the pages share, their icon and the base of their style, lies beside this module.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

OPEN = ("/", "/assets/")
"""Paths of a page; anyone may GET them, as they show nothing without the service."""
_SHARED = Path(__file__).with_name("assets")
_REVALIDATED = {"cache-control": "no-cache"}
"""So that the page of a newer service never runs older scripts."""


def add_page(app: FastAPI, folder: Path) -> None:
    """Serves `index.html` of a folder at `/`, and its files and those that pages share below `/assets/`."""

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(folder / "index.html", headers=_REVALIDATED)

    assets = _Assets(directory=folder)
    assets.all_directories.append(_SHARED)
    app.mount("/assets", assets, name="assets")


class _Assets(StaticFiles):
    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers.update(_REVALIDATED)
        return response
