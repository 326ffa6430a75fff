"""Object stores: the memory of this process, and an imitation of S3 over real HTTP; files on disk."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@pytest.mark.parametrize("renewal", ["touch", "put"])
@pytest.mark.parametrize("moment", ["before it is set aside", "while it is set aside", "after it is removed"])
def test_what_is_renewed_while_it_is_removed_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renewal: str, moment: str
) -> None:
    store, other = DiskStorage(tmp_path), DiskStorage(tmp_path)
    store.put("ab/x", b"1")
    os.utime(tmp_path / "ab" / "x", (1, 1))
    renewed: list[bool] = []

    def renew() -> None:
        renewed.append(other.touch("ab/x") if renewal == "touch" else bool([other.put("ab/x", b"1")]))

    def interrupted(name: str, after: bool) -> None:
        system = getattr(os, name)

        def call(*args: Any) -> Any:
            monkeypatch.setattr(storage.os, name, system)
            if not after:
                renew()
            system(*args)
            if after:
                renew()

        monkeypatch.setattr(storage.os, name, call)

    match moment:
        case "before it is set aside":
            interrupted("rename", after=False)
        case "while it is set aside":
            interrupted("rename", after=True)
        case _:
            interrupted("unlink", after=True)
    store.remove("ab/x", older_than=3600)
    # Who renews it is told whether it is there, and that stays so.
    assert renewed == [renewal == "put" or moment != "after it is removed"]
    assert other.touch("ab/x") == renewed[0]
    if renewed[0]:
        assert other.get("ab/x") == b"1"
        assert [item.key for item in other.items()] == ["ab/x"]


def test_a_removal_that_was_killed_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = DiskStorage(tmp_path)
    store.put("ab/x", b"1")
    with monkeypatch.context() as killing:
        killing.setattr(storage.os, "unlink", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.remove("ab/x", older_than=-1)
    assert not (tmp_path / "ab" / "x").exists()
    assert store.get("ab/x") == b"1"
    assert [item.key for item in store.items()] == ["ab/x"]
    assert store.touch("ab/x")
    assert store.remove("ab/x", older_than=-1)


LINKS = {"the part": ("a", True), "a folder in it": ("a/ab", True), "a file": ("a/ab/x", False)}


@pytest.mark.parametrize("place", LINKS)
@pytest.mark.parametrize("act", ["put", "get", "touch", "remove", "items"])
def test_follows_no_link_below_its_folder(tmp_path: Path, place: str, act: str) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for folder in (root / "a" / "ab", outside / "ab"):
        folder.mkdir(parents=True)
        (folder / "x").write_bytes(b"mine")
        os.utime(folder / "x", (1, 1))
    before = [(path, path.lstat().st_mtime_ns) for path in outside.rglob("*")]
    name, folder = LINKS[place]
    link = root / name
    shutil.rmtree(link) if folder else link.unlink()
    link.symlink_to(outside / "ab" if name != "a" else outside) if folder else link.symlink_to(
        outside / "ab" / "x"
    )
    acts: dict[str, Callable[[Storage], object]] = {
        "put": lambda store: store.put("ab/x", b"new"),
        "get": lambda store: store.get("ab/x"),
        "touch": lambda store: store.touch("ab/x"),
        "remove": lambda store: store.remove("ab/x", 0),
        "items": lambda store: [store.remove(item.key) for item in store.items()],
    }
    given: object = None
    with contextlib.suppress(StorageError):
        given = acts[act](open_storage(str(root), "a"))
    assert given != b"mine"
    assert [(path, path.lstat().st_mtime_ns) for path in outside.rglob("*")] == before
    assert (outside / "ab" / "x").read_bytes() == b"mine"


def test_its_own_folder_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "images").symlink_to(tmp_path / "disk")
    open_storage(str(tmp_path / "images"), "a").put("ab/x", b"1")
    assert (tmp_path / "disk" / "a" / "ab" / "x").read_bytes() == b"1"
