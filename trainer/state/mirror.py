"""Copies of a run's folder on an object store: the setting `copies`.

What a run needs to go on, and what it has come to, lies at `COPIES/NAME/` by the same names as in its folder:
the newest checkpoints, the derainer, the figures. A run whose folder is gone goes on from there. The pool is
no part of it: one that has to outlive its machine has its images on the object store itself.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from rgsud_core.errors import FileError, StorageError, StorageMissing
from rgsud_core.files import writing
from rgsud_core.objects import Storage, open_storage
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.state.checkpoints import Checkpoints

_FILES = ("model/derainer.safetensors", "config.yaml", "environment.json", "metrics.jsonl", "summary.json")
_CHECKPOINTS = "checkpoints"


class Copies:
    """Copies what has changed in a run's folder, in a thread, so that no step waits for the object store.

    A copy that fails is left to the next one.
    """

    def __init__(self, config: Config) -> None:
        self.problem: str | None = None
        """Why the last copy failed, if it did."""
        self._config = config
        self._thread = ThreadPoolExecutor(1, "copies")
        self._running: Future[None] | None = None
        self._storage: Storage | None = None
        self._copied: dict[str, tuple[int, int]] = {}

    def renew(self) -> None:
        """Begin a copy, unless the last one is still under way. Does nothing where no copies are wanted."""
        if self._config.copies is not None and (self._running is None or self._running.done()):
            self._running = self._thread.submit(self._renew)

    def close(self) -> None:
        """Copy what the run ends with, and wait for it."""
        if self._running is not None:
            self._running.result()
        self.renew()
        self._thread.shutdown()

    def _renew(self) -> None:
        try:
            self._storage = self._storage or _open(self._config)
            _copy(self._config, self._storage, self._copied)
        except (StorageError, FileError, TrainerError, OSError) as problem:
            self.problem = str(problem)
        else:
            self.problem = None


def bring_back(config: Config) -> Path | None:
    """Fetch a run's newest checkpoint and its figures into its folder, where this has no checkpoint.

    Returns:
        The checkpoint; None where nothing was to be fetched.

    Raises:
        TrainerError: the copies cannot be read: to begin anew in their place would lose them.
    """
    checkpoints = Checkpoints(config.folder / _CHECKPOINTS, config.report.keep_checkpoints)
    if config.copies is None or checkpoints.files():
        return None
    try:
        storage = _open(config)
        there = _checkpoints(storage)
        if not there:
            return None
        for key in (*_FILES, there[-1]):  # the checkpoint last: with it the folder counts as whole
            try:
                data = storage.get(key)
            except StorageMissing:
                continue
            with writing(config.folder / key) as partial:
                partial.write_bytes(data)
    except StorageError as problem:
        raise TrainerError(f"the copies of run '{config.name}' cannot be read: {problem}") from None
    return config.folder / there[-1]


def refuse_copies(config: Config) -> None:
    """TrainerError where a run that begins would write over the copies of another of its name."""
    if config.copies is None:
        return
    try:
        held = _checkpoints(_open(config))
    except StorageError as problem:
        raise TrainerError(f"no copies can be made at {config.copies}: {problem}") from None
    if held:
        raise TrainerError(
            f"{config.copies} already holds a run '{config.name}': continue it with --resume, or choose "
            "another name=..."
        )


def _open(config: Config) -> Storage:
    assert config.copies is not None
    if "://" not in config.copies and not Path(config.copies).expanduser().is_absolute():
        raise TrainerError(f"copies={config.copies} is relative to nothing that lasts: give a whole path.")
    return open_storage(config.copies, config.name)


def _copy(config: Config, storage: Storage, copied: dict[str, tuple[int, int]]) -> None:
    """Copy what is not as it was ``copied``, by size and time, and remove old checkpoints."""
    newest = Checkpoints(config.folder / _CHECKPOINTS, config.report.keep_checkpoints).files()[-1:]
    # The checkpoint first: figures that go beyond it are of no use to a run that resumes.
    for path in (*newest, *(config.folder / name for name in _FILES)):
        key = path.relative_to(config.folder).as_posix()
        try:
            state = path.stat()
            mark = (state.st_size, state.st_mtime_ns)
            if copied.get(key) == mark:
                continue
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        if path.suffix == ".jsonl":
            data = data[: data.rfind(b"\n") + 1]  # its last line may be half written
        storage.replace(key, data)
        copied[key] = mark
    there = _checkpoints(storage)
    # What is newer than the newest here was abandoned.
    kept = [key for key in there if not newest or Path(key).name <= newest[0].name]
    kept = kept[-config.report.keep_checkpoints :]
    for old in (key for key in there if key not in kept):
        storage.remove(old)


def _checkpoints(storage: Storage) -> list[str]:
    """Keys of those that are there, oldest first."""
    found = (item.key for item in storage.items())
    return sorted(key for key in found if key.startswith(f"{_CHECKPOINTS}/step-") and key.endswith(".pt"))
