import os
from pathlib import Path

import pytest

from rgsud_core.errors import FileError
from rgsud_core.files import writing


def test_a_file_and_the_folders_that_lead_to_it_are_synced(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with writing(tmp_path / "a" / "b" / "file") as partial:
        partial.write_text("whole")
    assert synced == [tmp_path.name, "a", ".file.partial", "b"]
    assert (tmp_path / "a" / "b" / "file").read_text() == "whole"


def test_what_fails_leaves_the_old_file(tmp_path):
    (tmp_path / "file").write_text("old")

    def fail_half_way() -> None:
        with writing(tmp_path / "file") as partial:
            partial.write_text("half")
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail_half_way()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(
            FileError, match=r"file/inside/x cannot be written \((Not a directory|File exists)\): name"
        ),
        writing(tmp_path / "file" / "inside" / "x"),
    ):
        pass
