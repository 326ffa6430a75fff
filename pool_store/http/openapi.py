"""The OpenAPI description: what FastAPI finds, and what it cannot know: problems and tokens."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from pool_store.http.problems import ProblemDetail
from pool_store.http.security import needed_scope

_METHODS = ("get", "put", "post", "delete")


def describe(app: FastAPI) -> None:
    """Sets `app.openapi`."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _complete(
                get_openapi(
                    title=app.title, version=app.version, description=app.description, routes=app.routes
                )
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(schema: dict[str, Any]) -> dict[str, Any]:
    components = schema.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["Problem"] = ProblemDetail.model_json_schema()
    components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
    problem = {
        "description": "What went wrong, in a sentence",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if method in _METHODS:
                operation["responses"].pop("422", None)
                operation["responses"]["default"] = problem
                scope = needed_scope(method.upper(), path)
                operation["security"] = [{"token": [scope]}] if scope else []
    return schema
