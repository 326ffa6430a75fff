"""Weights in files of others, .safetensors and those of ``torch.save``.

A file is read in two steps. The first reads only its index (the header of .safetensors, the pickle in a file
of torch) and holds what it names against the size of the file: nothing is allocated on its word. The second
reads the tensors. Nothing in a file is executed; no message repeats one of torch's, which recommend to do so.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import pickle
import pickletools
import re
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from rgsud_core.errors import FileError, first_line

_OPCODES = frozenset(
    re.findall(
        r"\w+",
        "PROTO GLOBAL REDUCE BUILD APPEND APPENDS SETITEM SETITEMS MARK TUPLE TUPLE1 TUPLE2 TUPLE3 NONE "
        "NEWFALSE NEWTRUE EMPTY_TUPLE EMPTY_LIST EMPTY_DICT EMPTY_SET BININT BININT1 BININT2 BINFLOAT "
        "BINUNICODE SHORT_BINSTRING BINPERSID BINGET LONG_BINGET BINPUT LONG_BINPUT LONG1 STOP",
    )
)
"""What tensors and plain containers need, in protocol 2 of pickle, which torch writes."""
_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
}
_LEGACY = 0x1950A86A20F9469CFC6C
"""The number that files of torch begin with that are no zip archives, as before version 1.6."""
_MOST_DIMENSIONS = 8


class WeightsError(FileError):
    """A file that cannot be read as weights; ``reason`` says why."""

    def __init__(self, file: Path, reason: str) -> None:
        super().__init__(f"cannot read '{file}' as weights ({reason}): fetch it again.")
        self.reason = reason


def read_torch(file: Path) -> Any:
    """The content of a file of ``torch.save``, if it is tensors and plain containers; on the CPU.

    Raises:
        WeightsError: the file cannot be read, holds anything else, or names tensors larger than itself.
    """
    try:
        if zipfile.is_zipfile(file):
            _check_zip(file)
            return torch.load(file, map_location="cpu", weights_only=True)
        data = file.read_bytes()
        _check_legacy(io.BytesIO(data), len(data))
        # From memory, since torch would also take a file for a tar archive.
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except _NotPlain as problem:
        raise WeightsError(file, str(problem)) from None
    except OSError as problem:
        raise WeightsError(file, first_line(problem)) from None
    except Exception:  # what a damaged file ends in is no one class
        raise WeightsError(file, "it is damaged, or no file of torch.save") from None


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors file, whose own library checks its index against its size.

    Raises:
        WeightsError: the file cannot be read, or is not whole.
    """
    with _opened(file) as opened:
        return {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118


def read_metadata(file: Path) -> dict[str, str]:
    """Metadata in the header of a .safetensors file; raises WeightsError as :func:`read_safetensors`."""
    with _opened(file) as opened:
        metadata: dict[str, str] = opened.metadata() or {}
    return metadata


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(str(file), framework="pt") as opened:
            yield opened
    except Exception as problem:  # a number format that torch lacks is an AttributeError, for example
        raise WeightsError(file, f"no whole safetensors file: {first_line(problem)}") from None


def parse_header(text: str) -> Any:
    """The JSON in a file's metadata; ValueError where it is none."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def check_fit(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor]) -> None:
    """Hold a network's tensors against those of a file before it is made.

    The network is built on the device `meta`, without memory for its tensors, and no further than the file
    may fill it: some tensors are registered twice, so that the limit is a rough one.

    Args:
        build: makes the network.
        tensors: those of the file.

    Raises:
        ValueError: the network has other tensors, or of another shape; the message names the first.
    """
    with _at_most(2 * len(tensors) + 100), torch.device("meta"):
        wanted = {key: tuple(value.shape) for key, value in build().state_dict().items()}
    there = {key: tuple(value.shape) for key, value in tensors.items()}
    for key in sorted(wanted.keys() | there.keys()):
        if wanted.get(key) != there.get(key):
            raise ValueError(f"'{key}' is {_shape(there.get(key))}, not {_shape(wanted.get(key))}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape)) or "a number"


@contextlib.contextmanager
def _at_most(parameters: int) -> Iterator[None]:
    """ValueError from a network that is made in this thread with more parameters."""
    here, made = threading.get_ident(), itertools.count(1)

    def count(*_: object) -> None:
        if threading.get_ident() == here and next(made) > parameters:
            raise ValueError("the network has many more tensors than the file")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


class _NotPlain(ValueError):
    """A file of torch.save with more in it than tensors and containers, or with wrong sizes."""


def _check_zip(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        sizes = {info.filename.lower(): info.file_size for info in archive.infolist()}
        whole = all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        folders = {name.partition("/")[0] for name in sizes}
        # Names differ in more than case for the reader in torch.
        if len(sizes) < len(archive.infolist()) or len(folders) != 1 or not whole:
            raise _NotPlain("it is no archive as torch writes them")
        if sum(sizes.values()) > file.stat().st_size:
            raise _NotPlain("it names more bytes than it has")
        folder = next(iter(folders))
        pickled = [info for info in archive.infolist() if info.filename.lower() == f"{folder}/data.pkl"]
        if not pickled:
            raise _NotPlain("it is no archive as torch writes them")
        data = io.BytesIO(archive.read(pickled[0]))
    _read_index(data, lambda key: sizes.get(f"{folder}/data/{key}".lower(), 0), {})


def _check_legacy(data: BinaryIO, size: int) -> None:
    if _read_index(data, lambda key: 0, {}) != _LEGACY:
        raise _NotPlain("it is no file of torch.save")
    for _ in ("version of the format", "sizes of numbers", "content", "keys"):
        claimed: dict[str, int] = {}
        _read_index(data, lambda key: size, claimed)
        if sum(claimed.values()) > size:
            raise _NotPlain("it names more bytes than it has")


def _read_index(data: BinaryIO, size_of: Callable[[str], int], claimed: dict[str, int]) -> Any:
    start = data.tell()
    for opcode, _, _ in pickletools.genops(data):
        if opcode.name not in _OPCODES:
            raise _NotPlain("it holds more than plain tensors")
    data.seek(start)
    return _Index(data, size_of, claimed).load()


class _Storage:
    """A run of numbers that the index names; ``claimed`` bytes of one size each."""

    def __init__(self, claimed: int, itemsize: int) -> None:
        self.claimed, self.itemsize = claimed, itemsize


class _Ordered(OrderedDict[Any, Any]):
    """A state_dict, which has one attribute; others would take the place of its methods."""

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, dict) and state.keys() <= {"_metadata"}):
            raise _NotPlain("it holds more than plain tensors")


# The unpickler written in Python: the one in C allocates as many places as an index says it wants.
class _Index(pickle._Unpickler):
    """Reads the index of a file of torch.save, with the sizes of tensors in place of tensors.

    Args:
        data: the pickle.
        size_of: bytes that the file may hold for the storage of a key.
        claimed: becomes the bytes that the index names for each.
    """

    def __init__(self, data: BinaryIO, size_of: Callable[[str], int], claimed: dict[str, int]) -> None:
        super().__init__(data)
        self._size_of, self._claimed = size_of, claimed

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a class or function in the index; a file may name no others."""
        kind = name.removesuffix("Storage")
        if module == "torch" and name.endswith("Storage") and kind in _DTYPES:
            return _DTYPES[kind]
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return torch.uint8
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        found: Any = {
            ("collections", "OrderedDict"): _Ordered,
            ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
            ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
            ("torch", "Size"): tuple,
        }.get((module, name))
        if found is None:
            raise _NotPlain(f"it names {module[:40]}.{name[:40]}, which is no plain tensor")
        return found

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that a tensor refers to; _NotPlain where the file has fewer bytes for it."""
        kind, dtype, key, _, count, *view = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or any(one is not None for one in view):
            raise _NotPlain("it holds more than plain tensors")
        if not isinstance(key, str) or type(count) is not int or count < 0:
            raise _NotPlain("its index is damaged")
        claimed = count * dtype.itemsize
        if claimed > self._size_of(key):
            raise _NotPlain("it names more bytes than it has")
        self._claimed[key] = max(claimed, self._claimed.get(key, 0))
        return _Storage(claimed, dtype.itemsize)


def _rebuilt(storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> None:
    """Checks that a tensor is no larger than its storage, as one is that repeats its numbers."""
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or any(type(n) is not int or n < 0 for n in numbers):
        raise _NotPlain("its index is damaged")
    if len(size) > _MOST_DIMENSIONS or math.prod(size) * storage.itemsize > storage.claimed:
        raise _NotPlain("it names a tensor larger than its numbers")
