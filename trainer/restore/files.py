"""Deraining of files and folders: what comes back as what, and where."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from torch import nn

from rgsud_core.errors import FileError, RgsudError, first_line
from rgsud_core.files import check_writable
from rgsud_core.images import FORMATS, SUFFIXES, image_format, listing
from rgsud_core.photographs import read_photograph
from trainer.data.folders import named
from trainer.errors import TrainerError
from trainer.restore.inference import derain_image

Existing = Literal["refuse", "skip", "replace"]
"""What is done where a file lies in the place of a result whose name was not given."""


class _Work(NamedTuple):
    source: Path
    result: Path


def derain_path(
    net: nn.Module,
    source: Path | str,
    target: Path | str,
    *,
    tile: int | None = None,
    overlap: int = 32,
    existing: Existing = "refuse",
    on_progress: Callable[[int, int], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> int:
    """Derains an image file, or every image below a folder, and returns the number of results written.

    Results have the names, formats and depths of their sources, with transparency, colour profile, EXIF, XMP
    and time stamps; a format that is only read becomes NAME.png. A folder's structure is kept. For a single
    file `target` may be a file, whose suffix chooses the format, or a folder (also one that ends in `/`).

    Args:
        existing: what is done where a file lies in the place of a result: nothing is derained (`refuse`), the
            others are (`skip`), or it is replaced. A file that was named as the target is replaced.
        on_progress: called with (done, total) after each image.
        on_notice: called with a sentence for whatever was left out of the results.

    Other arguments are those of :func:`~trainer.restore.inference.derain_pixels`.

    Raises:
        TrainerError: names every image that cannot be derained, after all others are done.
        FileError: the source is missing or empty, or nothing can be written to the target.
    """
    notice = on_notice or (lambda text: None)
    work = _plan(Path(source), str(target), existing, notice)
    problems: list[str] = []
    lost: dict[str, list[Path]] = {}
    for number, one in enumerate(work, 1):
        try:
            for what in _derain(net, one, tile, overlap):
                lost.setdefault(what, []).append(one.source)
        # Whatever is odd about one file, the others are derained.
        except Exception as error:
            message = _sentence(error)
            problems.append(message if str(one.source) in message else f"{one.source}: {message}")
        if on_progress:
            on_progress(number, len(work))
    for what, files in lost.items():
        notice(f"The results of {len(files)} images are without {what}: {named(files)}.")
    if problems:
        done = len(work) - len(problems)
        raise TrainerError(
            "\n".join([f"{len(problems)} of {len(work)} images failed, {done} are done:", *problems])
        )
    return len(work)


def derain_file(
    net: nn.Module, source: Path, result: Path, *, tile: int | None = None, overlap: int = 32
) -> Sequence[str]:
    """Derains one image file into another, in the format of its suffix; what that lacks, in words.

    Arguments are those of :func:`~trainer.restore.inference.derain_pixels`.

    Raises:
        FileError: the source cannot be read, or the result cannot be written.
        TrainerError: the network's output is none.
    """
    photograph = read_photograph(source)
    lost = photograph.write(derain_image(net, photograph.pixels, tile=tile, overlap=overlap), result)
    return [*photograph.left_out, *lost]


def _derain(net: nn.Module, one: _Work, tile: int | None, overlap: int) -> Sequence[str]:
    times = one.source.stat()
    lacks = derain_file(net, one.source, one.result, tile=tile, overlap=overlap)
    os.utime(one.result, ns=(times.st_atime_ns, times.st_mtime_ns))
    return lacks


def _sentence(error: Exception) -> str:
    if isinstance(error, RgsudError):
        return str(error)
    said = first_line(error)
    if isinstance(error, MemoryError) or "memory" in said:
        return f"there is too little memory ({said}): take smaller tiles, --tile 256 for example"
    return said


def _plan(source: Path, target: str, existing: Existing, notice: Callable[[str], None]) -> list[_Work]:
    """Each input file with the file of its result."""
    given, folder = Path(target), target.endswith(("/", os.sep)) or Path(target).is_dir()
    work = (
        _of_folder(source, given, folder, notice)
        if source.is_dir()
        else _of_file(source, given, folder or not given.suffix)
    )
    sources = {one.source.resolve() for one in work}
    for one in work:
        if one.result.resolve() in sources or (one.result.is_file() and one.result.samefile(one.source)):
            raise TrainerError(f"The result would overwrite {one.source}: name another file or folder.")
    there = [] if len(work) == 1 and work[0].result == given else [one for one in work if _exists(one.result)]
    if there and existing == "refuse":
        files = named(one.result for one in there)
        raise TrainerError(
            f"{len(there)} results would take the place of files: {files}; --skip-existing leaves them, "
            "--overwrite replaces them."
        )
    if there and existing == "skip":
        notice(f"{len(there)} of {len(work)} images are left out, since their results are there.")
        work = [one for one in work if one not in there]
    if work:
        check_writable(given.parent if work[0].result == given else given)
    return work


def _exists(path: Path) -> bool:
    # Unlike Path.exists, without an error for names that are too long.
    return os.path.lexists(path)


def _of_folder(source: Path, target: Path, folder: bool, notice: Callable[[str], None]) -> list[_Work]:
    if target.is_file() or (target.suffix.lower() in SUFFIXES and not folder):
        raise TrainerError(
            f"{target} is a file name, and {source} is a folder: name a folder for the results."
        )
    if target.resolve().is_relative_to(source.resolve()):
        raise TrainerError(f"{target} lies within {source}: name a folder outside it for the results.")
    found = listing(source)
    if found.left_out:
        others = named(path.relative_to(source) for path in found.left_out)
        notice(f"{len(found.left_out)} entries of {source} are no images, or linked folders: {others}.")
    paths = [path.relative_to(source) for path in found.images]
    work = []
    for path in paths:
        name = _name(path)
        while name != path and name in paths:  # a.psd beside a.psd.png
            name = name.with_name(f"{name.name}.png")
        work.append(_Work(source / path, target / name))
    return work


def _of_file(source: Path, target: Path, folder: bool) -> list[_Work]:
    if not _exists(source):
        raise TrainerError(f"{source} does not exist: name an image or a folder of images.")
    if folder:
        return [_Work(source, target / _name(Path(source.name)))]
    try:
        known = image_format(target) in FORMATS
    except FileError:
        known = False
    if not known:
        raise TrainerError(
            f"{target} names no known image format: end it in .png or .jpg, for example, or in / where it is "
            "a folder."
        )
    return [_Work(source, target)]


def _name(path: Path) -> Path:
    """The name of a result: that of its source, unless its format is only read."""
    try:
        image_format(path)
    except FileError:
        return path.with_name(f"{path.name}.png")
    return path
