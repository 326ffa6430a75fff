"""An image from standard input, or to standard output."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rgsud_core.errors import RgsudError

STREAM = "-"


@contextmanager
def piped(
    source: str, target: str, suffix: str | None, notice: Callable[[str], None]
) -> Iterator[tuple[Path, Path, Callable[[str], None]]]:
    """Files in place of streams: ``with piped("-", "-", None, print) as (given, result, notice)``.

    What the block writes to ``result`` goes to standard output afterwards, where that is the target; it has
    the format of the source, or that of ``suffix``. Errors and notices call the file that stands for standard
    input by that name.

    Raises:
        RgsudError: one is a folder, a stream is a terminal, or there is no image in standard input.
    """
    from rgsud_core.images import WRITTEN, opened, written_format

    if source == STREAM and (target.endswith("/") or Path(target).is_dir()):
        raise RgsudError(f"{target} is a folder: name a file for what comes from standard input.")
    if source != STREAM and Path(source).is_dir():
        raise RgsudError(f"{source} is a folder: standard output takes one image.")
    if source == STREAM and sys.stdin.isatty():
        raise RgsudError("standard input is a terminal: lead an image into it, < photo.jpg.")
    if target == STREAM and sys.stdout.isatty():
        raise RgsudError("standard output is a terminal: lead it into a file, > derained.jpg.")
    with tempfile.TemporaryDirectory(prefix="rgsud-") as folder:
        given, result = Path(source), Path(target)

        def renamed(text: str) -> str:
            return text.replace(str(given), "standard input") if source == STREAM else text

        try:
            if source == STREAM:
                given = Path(folder, "image")
                with given.open("wb") as file:
                    shutil.copyfileobj(sys.stdin.buffer, file)
            if target == STREAM:
                with opened(given, decoded=False) as image:
                    result = Path(folder, f"derained{suffix or WRITTEN[written_format(str(image.format))]}")
            yield given, result, lambda text: notice(renamed(text))
        except RgsudError as problem:
            raise RgsudError(renamed(str(problem))) from None
        if target == STREAM:
            sys.stdout.buffer.write(result.read_bytes())
            sys.stdout.buffer.flush()
