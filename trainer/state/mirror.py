"""A run's folder mirrored to an object store: the setting `copies`.

`COPIES/NAME/` holds, by the names that they have in the run's folder, the newest checkpoints, the derainer
and the figures. A run whose folder is lost resumes from there. The pool is not mirrored: a pool that has to
outlive its machine keeps its images on an object store itself.
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


class Mirror:
    """Copies changed files of a run's folder, in a thread, so that no step waits for the object store.

    The next update makes up for one that has failed.
    """

    def __init__(self, config: Config) -> None:
        self.problem: str | None = None
        """Why the last update failed, or None."""
        self._config = config
        self._thread = ThreadPoolExecutor(1, "mirror")
        self._running: Future[None] | None = None
        self._storage: Storage | None = None
        self._copied: dict[str, tuple[int, int]] = {}

    def update(self) -> None:
        """Start an update, unless the last one still runs or the run has no `copies`."""
        if self._config.copies is not None and (self._running is None or self._running.done()):
            self._running = self._thread.submit(self._update)

    def close(self) -> None:
        """Copy the final files, and wait until that is done."""
        if self._running is not None:
            self._running.result()
        self.update()
        self._thread.shutdown()

    def _update(self) -> None:
        try:
            self._storage = self._storage or _open(self._config)
            _copy(self._config, self._storage, self._copied)
        except (StorageError, FileError, TrainerError, OSError) as problem:
            self.problem = str(problem)
        else:
            self.problem = None


def fetch_run(config: Config) -> Path | None:
    """Fetch a run's newest checkpoint and its figures into its folder, if the folder has no checkpoint.

    Returns:
        The checkpoint; None if nothing was fetched.

    Raises:
        TrainerError: the copies cannot be read. A run that began anew would overwrite them.
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


def refuse_mirrored(config: Config) -> None:
    """TrainerError if a new run would overwrite the copies of another run of its name."""
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
    """Keys of the stored checkpoints, oldest first."""
    found = (item.key for item in storage.items())
    return sorted(key for key in found if key.startswith(f"{_CHECKPOINTS}/step-") and key.endswith(".pt"))
