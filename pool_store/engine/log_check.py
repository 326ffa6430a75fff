"""What the append-only log of a pool's folder may hold, checked before a server reads it.

A server executes its log: one that somebody else wrote could change the server's settings, or load code. So
only commands that change data are allowed, and in a snapshot (RDB) only plain values. The form is checked
more strictly than the server does, so that both read the same commands.

An end that is cut off is the server's to mend: it drops a command that was being written.
"""

from __future__ import annotations

import mmap
import os
import re
import shlex
from pathlib import Path
from typing import NoReturn

from pool_store.errors import PoolDamaged, PoolError

FOLDER = "appendonlydir"
_MANIFEST = "appendonly.aof.manifest"
_LINE = re.compile(
    r"file (appendonly\.aof\.\d{1,18}\.(?:base\.(?:rdb|aof)|incr\.aof)) seq \d{1,18} type [bhi]"
    r"( (?:start|end)offset \d{1,18})*"
)
_DATA = frozenset(
    b"SELECT MULTI EXEC SET DEL UNLINK RENAME PEXPIREAT PERSIST FLUSHALL FLUSHDB HSET HSETNX HMSET HDEL "
    b"HINCRBY ZADD ZREMRANGEBYRANK SADD SREM RPUSH LREM".split()
)
"""Commands that the pool's own changes are logged as."""
_HEAD = re.compile(rb"\*([1-9]\d{0,6})\r\n\$([1-9]\d?)\r\n|#TS:\d{1,15}\r\n")
_ARGUMENT = re.compile(rb"\$(0|[1-9]\d{0,8})\r\n")
_PART_OF_HEAD = re.compile(rb"\*(\d{1,7}(\r(\n(\$(\d{1,2}\r?)?)?)?)?)?|#(T(S(:(\d{1,15}\r?)?)?)?)?")
_PART_OF_ARGUMENT = re.compile(rb"(\$(\d{1,9}\r?)?)?")
_MAGIC = re.compile(rb"REDIS\d{4}|VALKEY\d{3}")
_FOREIGN = "which no pool writes there: the folder is not a pool's, or was made to harm; use another one"
_AUX, _RESIZE, _EXPIRE_MS, _SELECT, _END = 0xFA, 0xFB, 0xFC, 0xFE, 0xFF
_STRINGS = {0x00: 1, 0x0B: 1, 0x10: 1, 0x11: 1, 0x14: 1}
"""Types of values that are stored as one string: plain ones, and small sets, hashes and sorted sets."""
_MOST_KEYS, _LARGEST_RATIO = 1 << 20, 256
"""What a server allocates before it has read the values: keys announced, and bytes of a compressed one."""
_SET, _HASH, _SORTED, _LIST = 0x02, 0x04, 0x05, 0x12


def check_log(folder: Path) -> None:
    """Reads the log in a pool's folder, if there is one.

    Raises:
        PoolError: it holds what is no data of a pool.
        PoolDamaged: it cannot be read; the message gives the place and what to do.
        OSError: a file cannot be opened.
    """
    for older in ("appendonly.aof", "dump.rdb"):
        if os.path.lexists(folder / older):
            raise PoolError(f"{folder / older} is not of a pool: remove it, or use another folder")
    manifest = folder / FOLDER / _MANIFEST
    if not manifest.exists():
        return
    names = []
    for line in manifest.read_text("utf-8", "replace").splitlines():
        found = _LINE.fullmatch(line)
        if not found:
            raise PoolDamaged(f"{manifest} is damaged ({line[:60]!r}): restore the pool's folder from a copy")
        names.append(found[1])
    for name in names:
        path = manifest.with_name(name)
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    _Reader(path, data, last=name == names[-1]).check()


class _Reader:
    """Reads one file of a log, from its beginning."""

    def __init__(self, path: Path, data: mmap.mmap, *, last: bool) -> None:
        self.path, self.data, self.last = path, data, last
        self.at = self.whole = 0

    def check(self) -> None:
        """Reads a snapshot, if the file begins with one, and the commands behind it."""
        try:
            if magic := _MAGIC.match(self.data):
                self.at, self.whole = magic.end(), -1
                self._snapshot()
                self.whole = self.at
            self._commands()
        except IndexError:
            self._damaged("it ends too early")

    def _commands(self) -> None:
        data, size, match, inside = self.data, len(self.data), _ARGUMENT.match, False
        while self.at < size:
            head = _HEAD.match(data, self.at)
            if head is None:
                self._cut_off(_PART_OF_HEAD, "no command")
                return
            self.at = head.end()
            if head[1] is None:  # a time
                continue
            name = data[self.at : self.at + int(head[2])].upper()
            if not self._passed(len(name), int(head[2])):
                return
            if name not in _DATA:
                raise PoolError(f"{self.path} holds the command {name.decode('latin-1')!r}, {_FOREIGN}")
            at = self.at
            for _ in range(int(head[1]) - 1):
                argument = match(data, at)
                if argument is None:
                    self.at = at
                    self._cut_off(_PART_OF_ARGUMENT, "no argument")
                    return
                end = argument.end() + int(argument[1])
                if data[end : end + 2] != b"\r\n":
                    self.at = argument.end()
                    self._passed(min(end, size) - self.at, end - self.at)
                    return
                at = end + 2
            self.at = at
            inside = name == b"MULTI" or (inside and name != b"EXEC")
            if not inside:
                self.whole = self.at

    def _passed(self, found: int, length: int) -> bool:
        """Passes a string of that length, of which so much is there; False where the file ends in it."""
        end = self.data[self.at + found : self.at + found + 2]
        if found == length and end == b"\r\n":
            self.at += length + 2
            return True
        if not self.last or not b"\r\n".startswith(end):
            self._damaged("no end of an argument")
        return False

    def _cut_off(self, part: re.Pattern[bytes], what: str) -> None:
        """The rest is the beginning of a command, as in a log that was being written, or damage."""
        if not self.last or not part.fullmatch(self.data, self.at):
            self._damaged(what)

    def _damaged(self, what: str) -> NoReturn:
        remedy = "restore the pool's folder from a copy"
        if self.last and self.whole >= 0:
            cut = f"truncate -s {self.whole} {shlex.quote(str(self.path))}"
            remedy += f", or give up what was logged after it: {cut}"
        raise PoolDamaged(f"{self.path} is damaged at byte {self.at} ({what}): {remedy}")

    def _snapshot(self) -> None:
        while True:
            kind = self._byte()
            if kind == _END:
                self._skip(8)  # the checksum, which the server compares
                return
            if kind == _AUX:
                self._strings(2)
            elif kind == _RESIZE:
                if max(self._length(), self._length()) > _MOST_KEYS:
                    self._damaged("too many keys")
            elif kind == _SELECT:
                self._length()
            elif kind == _EXPIRE_MS:
                self._skip(8)
            else:
                self._value(kind)

    def _value(self, kind: int) -> None:
        if kind not in _STRINGS and kind not in (_SET, _HASH, _SORTED, _LIST):
            raise PoolError(f"{self.path} holds a value of kind {kind:#x}, {_FOREIGN}")
        self._strings(1)
        if kind in _STRINGS:
            self._strings(1)
        elif kind == _SORTED:
            for _ in range(self._length()):
                self._strings(1)
                self._skip(8)
        elif kind == _LIST:
            for _ in range(self._length()):
                self._length()
                self._strings(1)
        else:
            self._strings(self._length() * (2 if kind == _HASH else 1))

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise IndexError

    def _length(self) -> int:
        first = self._byte()
        if first < 0x40:
            return first
        if first < 0x80:
            return (first & 0x3F) << 8 | self._byte()
        if first not in (0x80, 0x81):
            self._damaged("no length")
        start = self.at
        self._skip(4 if first == 0x80 else 8)
        return int.from_bytes(self.data[start : self.at])

    def _strings(self, count: int) -> None:
        data = self.data
        for _ in range(count):
            first = data[self.at]
            if first < 0x40:
                self._skip(1 + first)
            elif first < 0xC0:
                self._skip(self._length())
            elif first < 0xC3:  # a number of 1, 2 or 4 bytes
                self._skip(1 + (1 << (first & 3)))
            elif first == 0xC3:  # compressed
                self.at += 1
                packed = self._length()
                if self._length() > _LARGEST_RATIO * packed:
                    self._damaged("no compressed string")
                self._skip(packed)
            else:
                self._damaged("no string")
