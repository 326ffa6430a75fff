"""Object stores: the memory of this process, and an imitation of S3 over real HTTP; files on disk."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rgsud_core import objects as storage
from rgsud_core.errors import StorageError, StorageFull, StorageMissing
from rgsud_core.objects import DiskStorage, ObjectStorage, Storage, open_storage
from tests.object_stores import memory, place, s3

__all__ = ["memory", "place", "s3"]


def test_keeps_what_is_put(place: str) -> None:
    store = open_storage(place, "a")
    assert store.put("ab/one", b"1")
    assert not store.put("ab/one", b"1")
    assert store.put("cd/two", b"22")
    assert (store.get("ab/one"), store.touch("ab/one"), store.touch("ab/none")) == (b"1", True, False)
    assert sorted((item.key, item.size) for item in store.items()) == [("ab/one", 1), ("cd/two", 2)]
    assert all(abs(item.time - time.time()) < 60 for item in store.items())
    with pytest.raises(StorageMissing, match="ab/none is missing"):
        store.get("ab/none")
    assert (store.remove("ab/one"), store.remove("ab/one")) == (True, False)
    assert not store.remove("cd/two", older_than=3600)
    assert open_storage(place, "a").get("cd/two") == b"22"


def test_parts_of_a_place_are_apart(place: str) -> None:
    one, other = open_storage(place, "a"), open_storage(place, "b")
    one.put("x/1", b"1")
    assert list(other.items()) == []
    with pytest.raises(StorageMissing):
        other.get("x/1")


def test_a_touch_makes_an_old_object_young(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store: Storage = open_storage(memory, "a")
    store.put("x", b"1")
    monkeypatch.setattr(ObjectStorage, "tolerance", 0.0)
    before = next(store.items()).time
    assert store.touch("x")
    assert next(store.items()).time > before


def test_spares_objects_whose_age_it_may_not_know(memory: str) -> None:
    store = open_storage(memory, "a")
    store.put("x", b"1")
    assert store.tolerance == 60
    assert not store.remove("x", older_than=0)


def test_names_the_object_store_out_of_reach(monkeypatch: pytest.MonkeyPatch, s3: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(storage, "PATIENCE", {"max_retries": 0})
    with pytest.raises(StorageError, match=r"cannot write a blob to s3://bucket/some/prefix/a: .*check that"):
        open_storage(s3, "a").put("x", b"1")


@pytest.mark.parametrize("place", ["ftp://host/x", "http://host/x"])
def test_names_the_unknown_place(place: str) -> None:
    with pytest.raises(
        StorageError, match=f"unknown place for objects '{place}': use a folder, or one of s3://"
    ):
        open_storage(place)


def test_leaves_room_for_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "RESERVE", 1 << 60)
    with pytest.raises(StorageFull, match="No space left on device"):
        DiskStorage(tmp_path).put("x/1", b"1")
