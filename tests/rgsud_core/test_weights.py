"""Files of weights made to harm end in one sentence, before anything is allocated on their word."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from rgsud_core.weights import WeightsError, check_fit, read_metadata, read_safetensors, read_torch

ADVICE = ("weights_only", "add_safe_globals", "trust", "arbitrary code", "torch.load", "Traceback")
"""What torch's messages recommend; ours do not."""
STATE = {"state_dict": OrderedDict(a=torch.arange(6.0).view(2, 3), b=torch.ones(4).half()), "epoch": 3}


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def zipped(pickled: bytes, data: bytes = bytes(64), compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive as torch writes it, with this index and one storage."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        archive.writestr("archive/data/0", data)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def index(count: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> bytes:
    """The index of one tensor that names these sizes, as torch pickles it."""

    def number(value: int) -> bytes:
        data = pickle.encode_long(value)
        return b"\x8a" + bytes([len(data)]) + data

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" + number(count) + b"tQ"
    tensor = storage + number(offset) + numbers(size) + numbers(stride) + b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n(" + tensor + b"tRs."


def calling(name: str, argument: bytes) -> bytes:
    module, _, function = name.rpartition(".")
    return b"\x80\x02c" + f"{module}\n{function}\n".encode() + argument + b"\x85R."


class Runs:
    def __reduce__(self) -> Any:
        return eval, ("1/0",)


def old(pickled: bytes, keys: tuple[str, ...] = ()) -> bytes:
    """A file as torch wrote them before it used archives."""
    plain = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return b"".join(pickle.dumps(one, 2) for one in plain) + pickled + pickle.dumps([*keys], 2)


BILLION = b"\x8a\x05" + struct.pack("<q", 11 << 30)[:5]
HOSTILE: dict[str, tuple[bytes, str]] = {
    "no bytes": (b"", "damaged"),
    "a text": (b"weights", "damaged"),
    "a torch archive cut short": (saved(STATE)[:-40], "damaged"),
    "a file of before archives cut short": (
        saved(STATE, _use_new_zipfile_serialization=False)[:-40],
        "damaged",
    ),
    "a storage larger than its record": (zipped(index(1 << 40, (4,), (1,))), "more bytes than it has"),
    "a storage of a negative size": (zipped(index(-1, (4,), (1,))), "damaged"),
    "a tensor that repeats one number": (zipped(index(16, (1 << 32,), (0,))), "larger than its numbers"),
    "a tensor beyond its storage": (zipped(index(16, (4,), (1,), offset=14)), "damaged"),
    "strides beyond its storage": (zipped(index(16, (4, 4), (1 << 20, 1))), "damaged"),
    "a size beyond int64": (zipped(index(16, (1 << 70,), (0,))), "larger than its numbers"),
    "a negative stride": (zipped(index(16, (4,), (-1,))), "damaged"),
    "a thousand dimensions": (zipped(index(16, (1,) * 1000, (1,) * 1000)), "larger than its numbers"),
    "11 GB by a call": (zipped(calling("builtins.bytearray", BILLION)), "builtins.bytearray"),
    "a tensor of 11 GB by a call": (zipped(calling("torch.FloatTensor", BILLION)), "torch.FloatTensor"),
    "code": (zipped(pickle.dumps(Runs(), 2)), "builtin__.eval, which is no plain tensor"),
    "code in a file of before archives": (old(pickle.dumps(Runs(), 2)), "eval, which is no plain tensor"),
    "code before that file's content": (pickle.dumps(Runs(), 2), "eval, which is no plain tensor"),
    "an index of another protocol": (zipped(pickle.dumps({"epoch": 3}, 4)), "more than plain tensors"),
    "16 GB of places": (zipped(b"\x80\x02Nr\xff\xff\xff\x7f0N."), "more than plain tensors"),
    "a string longer than the file": (zipped(b"\x80\x02X\xff\xff\xff\xff."), "damaged"),
    "a persistent id of another kind": (zipped(b"\x80\x02X\x01\0\0\0xQ."), "damaged"),
    "a module with its source": (zipped(b"\x80\x02(X\x06\0\0\0moduleNNNNtQ."), "more than plain tensors"),
    "attributes that shadow methods": (
        zipped(b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\0\0\0itemsNsb."),
        "more than plain tensors",
    ),
    "a storage of 11 GB before archives": (
        old(index(11 << 28, (4,), (1,)), ("0",)),
        "more bytes than it has",
    ),
    "a compressed archive": (
        zipped(index(1 << 28, (4,), (1,)), bytes(1 << 30), zipfile.ZIP_DEFLATED),
        "no archive as torch writes",
    ),
    "an archive without an index": (zipped(b"").replace(b"data.pkl", b"date.pkl"), "no archive as torch"),
    "one name twice": (zipped(b"N.").replace(b"byteorder", b"version\0\0"), "no archive as torch"),
    "a stack of 100,000 lists": (zipped(b"\x80\x02" + b"(" * 100_000 + b"."), "damaged"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_of_torch_ends_in_a_sentence(tmp_path: Path, name: str) -> None:
    content, reason = HOSTILE[name]
    (tmp_path / "theirs.pt").write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        read_torch(tmp_path / "theirs.pt")
    said = str(caught.value)
    assert reason in said
    assert "theirs.pt' as weights" in said
    assert len(said.splitlines()) == 1
    assert not [word for word in ADVICE if word in said]


def same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    return bool(torch.equal(left, right)) if isinstance(left, torch.Tensor) else left == right


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "before archives"])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        nn.Linear(3, 2).state_dict(),
        [
            torch.arange(10)[3:7],
            torch.ones(3, 4).T,
            torch.zeros(0, 3),
            torch.tensor(True),
            None,
            1.5,
            1 << 70,
        ],
        {"weight": nn.Parameter(torch.ones(2)), "shape": torch.Size([2]), "kind": torch.float32},
    ],
    ids=["checkpoint", "state_dict", "views", "parameters"],
)
def test_plain_files_of_torch_are_read(tmp_path: Path, content: Any, archive: bool) -> None:
    torch.save(content, tmp_path / "ours.pt", _use_new_zipfile_serialization=archive)
    found = read_torch(tmp_path / "ours.pt")
    parts = zip(found, content, strict=True) if isinstance(content, list) else [(found, content)]
    assert all(same(one, other) for one, other in parts)


def safetensors(header: Any, data: bytes = b"", claimed: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if claimed is None else claimed) + text + data


def tensor(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}


SAFETENSORS: dict[str, bytes] = {
    "no bytes": b"",
    "a header of 11 GB": safetensors({}, claimed=11 << 30),
    "a header beyond the file": safetensors({}, claimed=1000),
    "no JSON": safetensors(b"{{{{"),
    "a header of lists in lists": safetensors(b"[" * 100_000),
    "a tensor of 11 GB": safetensors(tensor("F32", [11 << 28], 0, 11 << 30), bytes(16)),
    "a shape that is not its bytes": safetensors(tensor("F32", [1 << 40], 0, 16), bytes(16)),
    "a shape beyond int64": safetensors(tensor("F32", [1 << 62, 1 << 62], 0, 16), bytes(16)),
    "a negative size": safetensors(tensor("F32", [-4], 0, 16), bytes(16)),
    "offsets that go back": safetensors(tensor("F32", [4], 16, 0), bytes(16)),
    "bytes that no tensor has": safetensors(tensor("F32", [4], 0, 16), bytes(64)),
    "an unknown number format": safetensors(tensor("F33", [4], 0, 16), bytes(16)),
    "metadata that is no text": safetensors({"__metadata__": {"a": 1}}),
}


@pytest.mark.parametrize("read", [read_safetensors, read_metadata])
@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_hostile_safetensors_file_ends_in_a_sentence(
    tmp_path: Path, name: str, read: Callable[[Path], Any]
) -> None:
    (tmp_path / "theirs.safetensors").write_bytes(SAFETENSORS[name])
    with pytest.raises(WeightsError, match=r"theirs.safetensors' as weights \(no whole safetensors file: "):
        read(tmp_path / "theirs.safetensors")


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "before archives"])
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_flipped_bytes_end_in_a_sentence_or_are_read(
    tmp_path: Path, changes: list[tuple[float, int]], archive: bool
) -> None:
    data = bytearray(saved(STATE, _use_new_zipfile_serialization=archive))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    (tmp_path / "flipped.pt").write_bytes(data)
    said = ""
    try:
        read_torch(tmp_path / "flipped.pt")
    except WeightsError as problem:
        said = str(problem)
    assert not [word for word in ADVICE if word in said]


class TestFit:
    def test_other_shapes_are_named(self) -> None:
        with pytest.raises(ValueError, match="'weight' is 2 x 3, not 2 x 4"):
            check_fit(lambda: nn.Linear(4, 2), nn.Linear(3, 2).state_dict())
        with pytest.raises(ValueError, match="'bias' is missing, not 2"):
            check_fit(lambda: nn.Linear(3, 2), nn.Linear(3, 2, bias=False).state_dict())
        check_fit(lambda: nn.Linear(3, 2), nn.Linear(3, 2).state_dict())

    def test_a_huge_network_is_neither_allocated_nor_finished(self) -> None:
        made = []

        def build() -> nn.Module:
            layers = []
            for _ in range(1_000_000):
                layers.append(nn.Linear(1 << 20, 1 << 20))
                made.append(1)
            return nn.Sequential(*layers)

        with pytest.raises(ValueError, match="many more tensors"):
            check_fit(build, nn.Linear(3, 2).state_dict())
        assert len(made) < 1000
