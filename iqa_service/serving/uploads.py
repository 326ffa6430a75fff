"""Requests with photographs: the body within its limit, and what is in it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from fastapi import HTTPException, Request
from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from iqa_service.serving.schemas import ImagesIn
from iqa_service.serving.settings import ServiceSettings


@dataclass(frozen=True)
class Upload:
    """One photograph to score, as it came."""

    id: str
    image: bytes
    rainy: bytes | None

    @property
    def sides(self) -> tuple[bytes, ...]:
        """The image, and the rainy one if there is one."""
        return (self.image,) if self.rainy is None else (self.image, self.rainy)


async def read_body(request: Request, limit: int) -> bytes:
    """The body; what is longer than ``limit`` bytes is neither kept nor read to its end.

    Raises:
        HTTPException: 413.
    """
    parts: list[bytes] = []
    length = 0
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) <= limit:
        async for part in request.stream():
            length += len(part)
            if length > limit:
                break
            parts.append(part)
        else:
            return b"".join(parts)
    raise HTTPException(413, f"the body is longer than {limit} bytes: send fewer or smaller images")


async def read_uploads(request: Request, settings: ServiceSettings) -> list[Upload]:
    """The photographs of a request, multipart or JSON.

    Raises:
        HTTPException: 400, 413, 415 or 422, with what is wrong.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", "multipart/form-data"):
        raise HTTPException(415, f"'{kind}' is not taken: send application/json or multipart/form-data")
    body = await read_body(request, settings.max_body_bytes)
    uploads = _from_json(body) if kind == "application/json" else await _from_form(request, body, settings)
    if len(uploads) > settings.max_images:
        raise HTTPException(
            413, f"{len(uploads)} images are more than the {settings.max_images} of a request: send several"
        )
    return uploads


def _from_json(body: bytes) -> list[Upload]:
    try:
        given = ImagesIn.model_validate_json(body)
    except ValidationError as problem:
        first = problem.errors()[0]
        if first["type"] == "json_invalid":
            raise HTTPException(400, f"the body is no JSON: {first['msg']}") from None
        place = ".".join(map(str, first["loc"]))
        raise HTTPException(422, f"{place or 'the body'}: {first['msg']}") from None
    return [
        Upload(
            str(index) if item.id is None else item.id,
            _base64(item.image, f"images.{index}.image"),
            None if item.rainy is None else _base64(item.rainy, f"images.{index}.rainy"),
        )
        for index, item in enumerate(given.images)
    ]


def _base64(text: str, place: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as problem:
        raise HTTPException(422, f"{place} is not base64 ({problem}): encode the image file") from None


async def _from_form(request: Request, body: bytes, settings: ServiceSettings) -> list[Upload]:
    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    most = 2 * settings.max_images  # an image and its rainy one
    try:
        form = await MultiPartParser(request.headers, once(), max_files=most, max_fields=0).parse()
    except (MultiPartException, FormParserError, KeyError, ValueError) as problem:
        # Too many files is told in the same way as a malformed body.
        reason = getattr(problem, "message", None) or str(problem)
        status = 413 if "Too many files" in reason else 400
        raise HTTPException(status, f"the multipart body cannot be read: {reason}") from None
    try:
        files = [(name, file) for name, file in form.multi_items() if isinstance(file, UploadFile)]
        if not {name for name, _ in files} <= {"images", "rainy"}:
            raise HTTPException(422, "a part is neither 'images' nor 'rainy': send files of these names")
        images = [(file.filename, await file.read()) for name, file in files if name == "images"]
        rainy = [await file.read() for name, file in files if name == "rainy"]
    finally:
        await form.close()
    if not images or len(rainy) not in (0, len(images)):
        raise HTTPException(
            422,
            f"{len(images)} images came with {len(rainy)} rainy ones: send at least one file 'images', and "
            "one 'rainy' for each or none",
        )
    sides: list[bytes | None] = [*rainy] or [None] * len(images)
    return [
        Upload(name or str(index), data, side)
        for index, ((name, data), side) in enumerate(zip(images, sides, strict=True))
    ]
