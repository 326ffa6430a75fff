"""Deraining of files and folders: what comes back as what, and where."""

from __future__ import annotations

import os
from collections import Counter
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
    suffix: str | None = None,
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
        suffix: of all results, which chooses their format: `.jpg`; by default that of their sources.
        on_progress: called with (done, total) after each image.
        on_notice: called with a sentence for whatever was left out of the results.

    Other arguments are those of :func:`~trainer.restore.inference.derain_pixels`.

    Raises:
        TrainerError: names every image that cannot be derained, after all others are done.
        FileError: the source is missing or empty, or nothing can be written to the target.
    """
    notice = on_notice or (lambda text: None)
    work = _plan(Path(source), str(target), existing, suffix, notice)
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
    if problems and len(work) == 1:
        raise TrainerError(problems[0])
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


def suffix_of(format: str) -> str:
    """The suffix of a format's name as people write it: `png`, `.JPG`.

    Raises:
        TrainerError: no such format can be written.
    """
    suffix = f".{format.lower().removeprefix('.')}"
    if not _known(Path(f"x{suffix}")):
        known = ", ".join(sorted(end for end in SUFFIXES if _known(Path(f"x{end}"))))
        raise TrainerError(f"'{format}' is no image format: give one of {known}.")
    return suffix


def _known(path: Path) -> bool:
    try:
        return image_format(path) in FORMATS
    except FileError:
        return False


def _plan(
    source: Path, target: str, existing: Existing, suffix: str | None, notice: Callable[[str], None]
) -> list[_Work]:
    """Each input file with the file of its result."""
    given, folder = Path(target), target.endswith(("/", os.sep)) or Path(target).is_dir()
    work = (
        _of_folder(source, given, folder, suffix, notice)
        if source.is_dir()
        else _of_file(source, given, folder or not given.suffix, suffix)
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


def _of_folder(
    source: Path, target: Path, folder: bool, suffix: str | None, notice: Callable[[str], None]
) -> list[_Work]:
    check_folders(source, target, folder)
    found = listing(source)
    if found.left_out:
        others = named(path.relative_to(source) for path in found.left_out)
        notice(f"{len(found.left_out)} entries of {source} are no images, or linked folders: {others}.")
    paths = [path.relative_to(source) for path in found.images]
    names = result_names(paths, suffix)
    return [_Work(source / path, target / name) for path, name in zip(paths, names, strict=True)]


def check_folders(source: Path, target: Path, folder: bool = False) -> None:
    """TrainerError where the target cannot hold the results of a folder; ``folder``: it is meant as one."""
    if target.is_file() or (target.suffix.lower() in SUFFIXES and not folder):
        raise TrainerError(
            f"{target} is a file name, and {source} is a folder: name a folder for the results."
        )
    if target.resolve().is_relative_to(source.resolve()):
        raise TrainerError(f"{target} lies within {source}: name a folder outside it for the results.")


def result_names(paths: Sequence[Path], suffix: str | None = None) -> list[Path]:
    """The names of the results of images of one folder, by their paths in it, in the same order.

    A result has the name of its source, unless that format is only read or another one is wanted. Where two
    results would have one name, they keep the suffixes of their sources in it.
    """
    wanted = [_name(path, suffix) for path in paths]
    often = Counter(wanted)
    names: dict[Path, Path] = {}
    for path, name in zip(paths, wanted, strict=True):
        if often[name] > 1 and name != path:
            name = path.with_name(f"{path.name}{name.suffix}")
            while name in often or name in names:  # a.psd beside a.psd.png
                name = name.with_name(f"{name.name}{name.suffix}")
        names[name] = path
    return list(names)


def _of_file(source: Path, target: Path, folder: bool, suffix: str | None) -> list[_Work]:
    if not _exists(source):
        raise TrainerError(f"{source} does not exist: name an image or a folder of images.")
    if folder:
        return [_Work(source, target / _name(Path(source.name), suffix))]
    if not _known(target):
        raise TrainerError(
            f"{target} names no known image format: end it in .png or .jpg, for example, or in / where it is "
            "a folder."
        )
    if suffix is not None and image_format(target) != image_format(Path(f"x{suffix}")):
        raise TrainerError(f"{target} is of another format than {suffix}: give one of the two.")
    return [_Work(source, target)]


def _name(path: Path, suffix: str | None) -> Path:
    """The name of a result: that of its source, unless its format is only read or another one is wanted."""
    wanted = None if suffix is None else image_format(Path(f"x{suffix}"))
    try:
        found = image_format(path)
    except FileError:
        return path.with_name(f"{path.name}.png") if suffix is None else path.with_suffix(suffix)
    return path if suffix is None or found == wanted else path.with_suffix(suffix)
