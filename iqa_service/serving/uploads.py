"""Parsing of the bodies of requests with photographs."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from pydantic import ValidationError
from python_multipart.exceptions import FormParserError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from iqa_service.serving.schemas import ImagesIn
from iqa_service.serving.settings import ServiceSettings
from rgsud_core.http.problems import Problem

_SIGNS_AN_IMAGE = 300
"""Commas and brackets that the JSON of an image may hold; nearly all of them could be in its id."""


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


def read_uploads(body: bytes, headers: Headers, settings: ServiceSettings) -> list[Upload]:
    """The photographs of a request, multipart or JSON; takes time, so call it in a thread.

    Raises:
        Problem: 400, 413, 415 or 422, with what is wrong.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("application/json", "multipart/form-data"):
        raise Problem(415, f"'{kind}' is not taken: send application/json or multipart/form-data")
    if kind == "application/json":
        return _from_json(body, settings.max_images)
    uploads = asyncio.run(_from_form(body, headers, settings.max_images))
    if len(uploads) > settings.max_images:
        raise _too_many(settings.max_images)
    return uploads


def _too_many(most: int) -> Problem:
    return Problem(413, f"there are more than the {most} images of a request: send several requests")


def _from_json(body: bytes, most: int) -> list[Upload]:
    # Counted before anything is parsed, since parsed values take many times the memory of their text. Base64
    # has none of these signs, ids may.
    if sum(map(body.count, (b",", b"[", b"{"))) > most * _SIGNS_AN_IMAGE:
        raise _too_many(most)
    try:
        given = ImagesIn.model_validate_json(body)
    except ValidationError as problem:
        first = problem.errors()[0]
        if first["type"] == "json_invalid":
            raise Problem(400, f"the body is no JSON: {first['msg']}") from None
        place = ".".join(map(str, first["loc"]))
        raise Problem(422, f"{place or 'the body'}: {first['msg']}") from None
    if len(given.images) > most:
        raise _too_many(most)
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
        raise Problem(422, f"{place} is not base64 ({problem}): encode the image file") from None


async def _from_form(body: bytes, headers: Headers, most: int) -> list[Upload]:
    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    files_at_most = 2 * most  # an image and its rainy one
    try:
        form = await MultiPartParser(headers, once(), max_files=files_at_most, max_fields=0).parse()
    except (MultiPartException, FormParserError, KeyError, ValueError) as problem:
        # Too many files raise the same error as a malformed body.
        reason = getattr(problem, "message", None) or str(problem)
        status = 413 if "Too many files" in reason else 400
        raise Problem(status, f"the multipart body cannot be read: {reason}") from None
    try:
        files = [(name, file) for name, file in form.multi_items() if isinstance(file, UploadFile)]
        if not {name for name, _ in files} <= {"images", "rainy"}:
            raise Problem(422, "a part is neither 'images' nor 'rainy': send files of these names")
        images = [(file.filename, await file.read()) for name, file in files if name == "images"]
        rainy = [await file.read() for name, file in files if name == "rainy"]
    finally:
        await form.close()
    if not images or len(rainy) not in (0, len(images)):
        raise Problem(
            422,
            f"{len(images)} images came with {len(rainy)} rainy ones: send at least one file 'images', and "
            "one 'rainy' for each or none",
        )
    sides: list[bytes | None] = [*rainy] or [None] * len(images)
    return [
        Upload(name or str(index), data, side)
        for index, ((name, data), side) in enumerate(zip(images, sides, strict=True))
    ]
