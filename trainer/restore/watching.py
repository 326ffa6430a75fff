"""A folder that is watched: what comes into it is derained once it is there as a whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from rgsud_core.errors import FileError, RgsudError
from rgsud_core.files import check_writable
from rgsud_core.images import list_images
from trainer.data.folders import named
from trainer.errors import TrainerError
from trainer.restore.files import check_folders, result_names

Derain = Callable[[Path, Path], object]
"""Derains an image file into another file; raises RgsudError."""
_SECONDS = 1.0
"""Time between two looks at the folder."""
_SHARE = 10
"""How many times longer that is than a look takes, where a folder is large or far away."""


def watch(
    derain: Derain,
    source: Path,
    target: Path,
    *,
    suffix: str | None = None,
    overwrite: bool = False,
    notice: Callable[[str], None] = lambda text: None,
    wait: Callable[[float], object] = time.sleep,
) -> NoReturn:
    """Derains every image below a folder, and whatever comes or changes there, until it is interrupted.

    A file counts as complete when two looks a second apart find the same size and time of change: a program
    that may pause for longer should write under a name that begins with a dot and rename. One that fails is
    tried again when it changes. The folder is looked at, rather than announced changes waited for, since
    network file systems announce none.

    Args:
        derain: called with an image and the file of its result.
        source: may be empty, and may be away for a while.
        target: a folder outside it, for results of the names that `files.result_names` gives.
        suffix: of the results, as in :func:`~trainer.restore.files.derain_path`.
        overwrite: replace files that were there before; otherwise their images are left out. A result of
            this call is always replaced by that of its changed image.
        notice: called with a sentence for whatever fails or is left out.
        wait: called with the seconds until the next look.

    Raises:
        TrainerError: the folders cannot be used so.
        FileError: nothing can be written to the target.
        KeyboardInterrupt: as the usual end.
    """
    if not source.is_dir():
        raise TrainerError(f"{source} is no folder: name one to be watched.")
    check_folders(source, target)
    check_writable(target)
    seen: dict[Path, tuple[int, int]] = {}
    done: dict[Path, tuple[int, int]] = {}
    written: set[Path] = set()
    away = False
    while True:
        began = time.monotonic()
        paths = _images(source)
        if away != (paths is None):
            away = not away
            notice(f"{source} is away; it is looked for." if away else f"{source} is back.")
        names = result_names([path.relative_to(source) for path in paths or ()], suffix)
        if paths is not None:  # what is gone may come again
            seen = {path: seen[path] for path in paths if path in seen}
            done = {path: done[path] for path in paths if path in done}
        left_out = []
        for path, name in zip(paths or (), names, strict=True):
            stamp = _stamp(path)
            if stamp is None or done.get(path) == stamp:
                continue
            if seen.get(path) != stamp:
                seen[path] = stamp
                continue
            done[path], result = stamp, target / name
            if os.path.lexists(result) and result not in written and not overwrite:
                left_out.append(path)
                continue
            try:
                derain(path, result)
                written.add(result)
            except RgsudError as problem:
                notice(str(problem))
        if left_out:
            notice(f"{len(left_out)} images are left out, since their results are there: {named(left_out)}.")
        wait(max(_SECONDS, _SHARE * (time.monotonic() - began)))


def _images(source: Path) -> list[Path] | None:
    """None where the folder is away."""
    try:
        return list_images(source)
    except FileError:  # it may only be empty
        return [] if source.is_dir() else None


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of change; None where the file has gone."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
