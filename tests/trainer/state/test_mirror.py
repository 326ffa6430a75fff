"""Copies of a run on an object store: what is there, what comes back, what a failure costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from rgsud_core.errors import StorageError
from rgsud_core.objects import DiskStorage, Storage, open_storage
from tests.patience import wait_until
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.launch import start as launch
from trainer.state.checkpoints import Checkpoints
from trainer.state.mirror import Mirror, fetch_run, refuse_mirrored

STATE = {"networks": {}, "method": {}, "progress": {}, "pool": None}


@pytest.fixture(params=["folder", "memory"])
def copied(request: pytest.FixtureRequest, config: Config, tmp_path: Path) -> Config:
    place = tmp_path / "copies" if request.param == "folder" else f"memory:///{tmp_path.name}"
    report = config.report.model_copy(update={"keep_checkpoints": 2})
    return config.model_copy(update={"copies": str(place), "report": report})


def storage_of(config: Config) -> Storage:
    assert config.copies is not None
    return open_storage(config.copies, config.name)


def write(config: Config, steps: int, line: str = "") -> None:
    """What a run writes when it saves."""
    Checkpoints(config.folder / "checkpoints", config.report.keep_checkpoints).save(
        {**STATE, "progress": {"steps": steps}}, steps
    )
    (config.folder / "model").mkdir(exist_ok=True)
    (config.folder / "model" / "derainer.safetensors").write_bytes(b"weights of %d" % steps)
    (config.folder / "config.yaml").write_text("name: small\n")
    with (config.folder / "metrics.jsonl").open("a") as metrics:
        metrics.write(line or f'{{"step": {steps}}}\n')


def copy(config: Config) -> Mirror:
    mirror = Mirror(config)
    mirror.update()
    mirror.close()
    return mirror


def keys(config: Config) -> set[str]:
    return {item.key for item in storage_of(config).items()}


def elsewhere(config: Config, folder: Path) -> Config:
    """The same run on a machine that has nothing of it."""
    return config.model_copy(update={"runs": folder})


def test_a_run_whose_folder_is_gone_comes_back_as_it_was(copied: Config, tmp_path: Path) -> None:
    for steps in (10, 20):
        write(copied, steps)
        assert copy(copied).problem is None
    there = elsewhere(copied, tmp_path / "other")
    checkpoint = fetch_run(there)
    assert checkpoint == there.folder / "checkpoints" / "step-000000020.pt"
    assert Checkpoints(there.folder / "checkpoints", 2).load(checkpoint)["progress"] == {"steps": 20}
    for name in ("metrics.jsonl", "config.yaml", "model/derainer.safetensors"):
        assert (there.folder / name).read_bytes() == (copied.folder / name).read_bytes()


def test_no_more_checkpoints_are_kept_than_the_run_keeps(copied: Config) -> None:
    for steps in (10, 20, 30):
        write(copied, steps)
        copy(copied)
    stored = {key for key in keys(copied) if key.startswith("checkpoints/")}
    assert stored == {"checkpoints/step-000000020.pt", "checkpoints/step-000000030.pt"}


def test_checkpoints_that_a_run_went_back_behind_are_copied_no_longer(copied: Config) -> None:
    for steps in (10, 20):
        write(copied, steps)
        copy(copied)
    checkpoints = Checkpoints(copied.folder / "checkpoints", 2)
    checkpoints.begin_after(checkpoints.files()[0])
    write(copied, 15)
    copy(copied)
    stored = {key for key in keys(copied) if key.startswith("checkpoints/")}
    assert stored == {"checkpoints/step-000000010.pt", "checkpoints/step-000000015.pt"}


def test_a_line_that_is_being_written_is_left_out(copied: Config) -> None:
    write(copied, 10)
    write(copied, 20, '{"step": 2')
    copy(copied)
    assert storage_of(copied).get("metrics.jsonl") == b'{"step": 10}\n'


def test_what_has_not_changed_is_not_copied_again(copied: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    kind = type(storage_of(copied))
    replace = kind.replace

    def count(self: Any, key: str, data: bytes) -> None:
        sent.append(key)
        replace(self, key, data)

    monkeypatch.setattr(kind, "replace", count)
    mirror = Mirror(copied)
    write(copied, 10)
    mirror.update()
    mirror.close()
    assert sorted(sent) == sorted(keys(copied))


def test_a_folder_that_has_a_checkpoint_is_left_alone(copied: Config) -> None:
    write(copied, 10)
    copy(copied)
    write(copied, 20)
    assert fetch_run(copied) is None
    assert Checkpoints(copied.folder / "checkpoints", 2).newest().name == "step-000000020.pt"


def test_nothing_to_fetch_run(copied: Config) -> None:
    assert fetch_run(copied) is None
    assert fetch_run(copied.model_copy(update={"copies": None})) is None
    refuse_mirrored(copied)


def test_another_run_of_the_name_is_not_written_over(copied: Config, tmp_path: Path) -> None:
    write(copied, 10)
    copy(copied)
    with pytest.raises(TrainerError, match="already holds a run 'small': continue it with --resume"):
        refuse_mirrored(elsewhere(copied, tmp_path / "other"))


def test_a_copy_that_fails_is_told_and_made_up_for(
    copied: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = copied.model_copy(update={"copies": str(tmp_path / "away")})
    write(config, 10)
    mirror = Mirror(config)

    def refuse(self: DiskStorage, key: str, data: bytes) -> None:
        raise StorageError("the store is away")

    with monkeypatch.context() as away:
        away.setattr(DiskStorage, "replace", refuse)
        mirror.update()
        wait_until(lambda: mirror.problem is not None, "no problem is reported")
        assert mirror.problem == "the store is away"
    mirror.update()
    mirror.close()
    assert mirror.problem is None
    assert "checkpoints/step-000000010.pt" in keys(config)


def test_copies_that_cannot_be_read_end_the_run_before_it_begins(config: Config, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    config = config.model_copy(update={"copies": str(tmp_path / "file")})
    with pytest.raises(TrainerError, match="the copies of run 'small' cannot be read: cannot create"):
        fetch_run(config)
    for place, said in (("ftp://host/folder", "unknown place"), ("copies", "give a whole path")):
        with pytest.raises(TrainerError, match=said):
            refuse_mirrored(config.model_copy(update={"copies": place}))


def test_a_run_goes_on_from_its_copies_on_another_machine(tree: dict[str, Any], tmp_path: Path) -> None:
    tree |= {"copies": str(tmp_path / "copies"), "runs": str(tmp_path / "first")}
    tree["recycling"] = {**tree["recycling"], "pool": f"embedded:{tmp_path / 'pool'}"}
    schedule = dict(tree["schedule"])
    launch.run(Config.model_validate(tree | {"schedule": schedule | {"samples": 12}}), console=_quiet())
    moved = Config.model_validate(tree | {"runs": str(tmp_path / "second")})
    with pytest.raises(TrainerError, match="already holds a run 'small'"):
        launch.run(moved, console=_quiet())
    assert launch.run(moved, resume=True, console=_quiet()).samples == 24
    lines = [json.loads(line) for line in storage_of(moved).get("metrics.jsonl").splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "step"] == [2, 4, 6, 8, 10, 12]
    assert json.loads(storage_of(moved).get("summary.json"))["samples"] == 24


def _quiet() -> Console:
    return Console(quiet=True)
