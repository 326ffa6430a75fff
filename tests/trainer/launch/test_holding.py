"""A run's folder belongs to one run at a time, and holds the configuration of what trains there."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rgsud_core.errors import FileError
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.launch import start as launch
from trainer.launch.holding import clear, holding
from trainer.launch.worker import work
from trainer.run import Callback, Run, Step
from trainer.state.checkpoints import Checkpoints

HOLD = (
    "import sys; from pathlib import Path; from trainer.launch.holding import holding\n"
    "with holding(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
)


@pytest.fixture
def held(tmp_path: Path):
    """A folder that another process holds, and that process."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield tmp_path / "run", process
    process.kill()
    process.communicate()


def take(folder: Path) -> None:
    with holding(folder):
        pass


def test_a_folder_is_held_until_its_process_ends_however_it_ends(held) -> None:
    folder, process = held
    with pytest.raises(TrainerError, match=f"in use by process {process.pid}, .* another name"):
        take(folder)
    process.send_signal(signal.SIGKILL)
    process.wait()
    take(folder)
    take(folder)


def test_a_process_does_not_take_what_it_holds_itself(tmp_path: Path) -> None:
    with holding(tmp_path / "run"):
        with pytest.raises(TrainerError, match=f"in use by process {os.getpid()}"):
            take(tmp_path / "run")
        # A refusal must not give the lock away, as closing a file does.
        context = multiprocessing.get_context("spawn")
        with context.Pool(1) as other, pytest.raises(TrainerError, match="in use"):
            other.apply(take, [tmp_path / "run"])


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(FileError, match="cannot be written"):
        take(tmp_path / "run")
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize("place", ["/proc/none", "file/run"])
def test_a_place_that_cannot_be_written_is_one_sentence(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileError, match="cannot be written"):
        take(tmp_path / place)


def test_a_run_that_is_refused_changes_nothing(config: Config, tmp_path: Path) -> None:
    class Intruder(Callback):
        said = ""

        def on_step(self, run: Run, step: Step) -> None:
            for options in ({}, {"resume": True}, {"fresh": True}):
                with pytest.raises(TrainerError, match="in use") as caught:
                    launch.run(config.model_copy(update={"seed": 5}), **options)
                Intruder.said = str(caught.value)

    launch.run(config, callbacks=[Intruder()])
    assert Intruder.said
    assert yaml.safe_load((config.folder / "config.yaml").read_text()) == config.model_dump(mode="json")

    before = (config.folder / "config.yaml").read_text()
    other = Config.model_validate(config.model_dump(mode="json") | {"derainer": {"width": 8}})
    with pytest.raises(TrainerError, match="another configuration"):
        launch.run(other, resume=True)
    with pytest.raises(TrainerError, match="already holds a run"):
        launch.run(other)
    assert (config.folder / "config.yaml").read_text() == before


def test_what_is_written_is_what_was_given(config: Config) -> None:
    # On Ray, services of the run's own stand in the configuration that workers train by.
    place = f"embedded:{config.folder}/elsewhere"
    inner = config.model_copy(update={"recycling": config.recycling.model_copy(update={"pool": place})})
    work(inner, None, [], lambda: True, given=config)
    assert yaml.safe_load((config.folder / "config.yaml").read_text()) == config.model_dump(mode="json")
    assert (config.folder / "elsewhere").is_dir()


def test_a_fresh_run_replaces_one_on_the_same_data_alone(config: Config) -> None:
    folder = config.folder
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "linked").symlink_to(config.data.rainy)
    (folder / "config.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    with holding(folder):
        clear(config)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    assert list(config.data.rainy.iterdir())
    for text in ("data: {rainy: elsewhere}", "[", "data: 5"):
        (folder / "config.yaml").write_text(text)
        with pytest.raises(TrainerError, match=r"choose another name=\.\.\."):
            clear(config)
        assert (folder / "config.yaml").read_text() == text


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "missing"])
def test_where_the_newest_checkpoint_is_damaged_the_one_before_is_taken(damage: str, config: Config) -> None:
    launch.run(config)
    checkpoints = Checkpoints(config.folder / "checkpoints", 3)
    *_, before, newest = checkpoints.files()
    spoilt = {"cut": newest.read_bytes()[:999], "text": b"hello", "empty": b""}.get(damage)
    if spoilt is None:
        newest.unlink()
        newest.symlink_to("nowhere.pt")
    else:
        newest.write_bytes(spoilt)
    said: list[str] = []

    class Notes(Callback):
        def on_notice(self, run: Run, text: str) -> None:
            said.append(text)

    longer = config.model_copy(update={"schedule": config.schedule.model_copy(update={"samples": 30})})
    assert launch.run(longer, resume=True, callbacks=[Notes()]).samples == 30
    assert any(f"{newest} cannot be read" in text for text in said)
    assert f"Going on from {before}." in said
    # It is not taken for the newest again.
    assert checkpoints.newest().name == "step-000000015.pt"


def test_where_no_checkpoint_can_be_read_it_is_said(config: Config) -> None:
    launch.run(config)
    checkpoints = Checkpoints(config.folder / "checkpoints", 3)
    for file in checkpoints.files():
        file.write_bytes(b"damaged")
    with pytest.raises(TrainerError, match=r"none of the checkpoints in .* can be read"):
        launch.run(config, resume=True)
    # One that was named is never another.
    with pytest.raises(TrainerError, match="cannot be read"):
        launch.run(config, checkpoint=checkpoints.newest())


@pytest.mark.parametrize("name", ["a?b", "50%", "a&b=c", "x#y", "100%41", "dé[mo] (1)", "2024"])
def test_whatever_a_run_is_called_its_pool_lies_in_its_folder(name: str, config: Config) -> None:
    named = Config.model_validate(config.model_dump(mode="json") | {"name": name})
    launch.run(named)
    assert {path.name for path in config.runs.iterdir()} == {name}
    assert (config.runs / name / "pool" / "blobs").is_dir()
