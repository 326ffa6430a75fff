"""A run's folder belongs to one process at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import yaml

from rgsud_core.files import make_folder, unwritable
from rgsud_core.settings import read_yaml
from trainer.config import Config
from trainer.errors import TrainerError

_LOCK = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
_HELD: set[tuple[int, int]] = set()
"""Device and inode of the locks that this process holds: its own locks do not keep a process out."""


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold a run's folder, which is made if need be, until the end of the block or of this process.

    Raises:
        TrainerError: another run holds it.
        FileError: nothing can be written there.
    """
    with contextlib.suppress(OSError):
        # Before it is opened, since closing it once would end this process's lock.
        if _mark(os.lstat(folder / _LOCK)) in _HELD:
            raise _in_use(folder, str(os.getpid()))
    try:
        make_folder(folder)
        # The folder may come from someone else: no link is followed out of it.
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as problem:
        raise unwritable(folder, problem) from None
    mark = _mark(os.fstat(lock))
    try:
        try:
            # Of the process, and not of the file: workers that were forked would go on holding it.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            if problem.errno in (errno.EACCES, errno.EAGAIN):
                raise _in_use(folder, os.pread(lock, 20, 0).decode("ascii", "replace")) from None
            if problem.errno not in _NO_LOCKS:  # some network file systems have none
                raise unwritable(folder, problem) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
        _HELD.add(mark)
        try:
            yield
        finally:
            _HELD.discard(mark)
    finally:
        os.close(lock)


def _mark(state: os.stat_result) -> tuple[int, int]:
    return state.st_dev, state.st_ino


def _in_use(folder: Path, process: str) -> TrainerError:
    holder = process or "that is starting"
    return TrainerError(
        f"{folder} is in use by process {holder}, which trains that run: end it, or choose another name=..."
    )


def clear(config: Config) -> None:
    """Remove what an earlier run on the same data left in a run's folder, which this process holds.

    Raises:
        TrainerError: the folder holds a run on other data, or none that can be told.
    """
    folder = config.folder
    if not (folder / "config.yaml").exists():
        return
    try:
        # Only what is needed is read: an earlier version may have had other settings.
        data = Path(read_yaml((folder / "config.yaml").read_text())["data"]["rainy"])
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        raise TrainerError(f"{folder / 'config.yaml'} cannot be read: choose another name=...") from None
    if data.resolve() != config.data.rainy.resolve():
        raise TrainerError(f"{folder} holds a run on other data: choose another name=...")
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()
