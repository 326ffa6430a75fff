"""A watched folder: what is whole is derained once, what fails is said, and the watch goes on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rgsud_core.errors import FileError
from trainer.errors import TrainerError
from trainer.restore.watching import watch


class Watched:
    """A watch whose looks are the steps of a test: each step runs between two looks."""

    def __init__(self, folder: Path) -> None:
        self.source, self.target = folder / "in", folder / "out"
        self.source.mkdir()
        self.derained: list[str] = []
        self.said: list[str] = []

    def derain(self, image: Path, result: Path) -> None:
        content = image.read_text()
        self.derained.append(f"{image.name} {content}")
        if "broken" in content:
            raise FileError(f"{image} is broken")
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text(content)

    def run(self, steps: Callable[[], Iterator[None]], **options: object) -> None:
        going = steps()

        def wait(seconds: float) -> None:
            assert seconds >= 1
            if next(going, going) is going:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            watch(self.derain, self.source, self.target, notice=self.said.append, wait=wait, **options)  # type: ignore[arg-type]


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_file_is_derained_once_it_has_stopped_growing(watched: Watched) -> None:
    def steps() -> Iterator[None]:
        file = watched.source / "deep" / "a.png"
        file.parent.mkdir()
        for length in range(1, 4):
            file.write_text("x" * length)
            yield
            assert watched.derained == []
        yield
        assert watched.derained == ["a.png xxx"]
        assert (watched.target / "deep" / "a.png").read_text() == "xxx"
        for _ in range(3):
            yield
        (watched.source / ".hidden.png").write_text("still being written")
        (watched.source / "b.part").write_text("still being written")
        yield
        (watched.source / ".hidden.png").rename(watched.source / "b.png")
        yield
        yield

    watched.run(steps)
    assert watched.derained == ["a.png xxx", "b.png still being written"]
    assert watched.said == []


def test_what_fails_is_said_and_tried_again_when_it_changes(watched: Watched) -> None:
    def steps() -> Iterator[None]:
        (watched.source / "a.png").write_text("broken")
        (watched.source / "b.png").write_text("whole")
        yield
        yield
        yield
        assert watched.said == [f"{watched.source / 'a.png'} is broken"]
        (watched.source / "a.png").write_text("mended")
        yield
        yield

    watched.run(steps)
    assert watched.derained == ["a.png broken", "b.png whole", "a.png mended"]
    assert (watched.target / "a.png").read_text() == "mended"


def test_results_of_others_stay_and_its_own_follow_their_images(watched: Watched) -> None:
    watched.target.mkdir()
    (watched.target / "a.png").write_text("of yesterday")
    for name in ("a.png", "b.png"):
        (watched.source / name).write_text("first")

    def steps() -> Iterator[None]:
        yield
        yield
        for name in ("a.png", "b.png"):
            (watched.source / name).write_text("second one")
        yield
        yield
        (watched.source / "b.png").unlink()
        yield
        (watched.source / "b.png").write_text("third")
        yield
        yield

    watched.run(steps)
    assert watched.derained == ["b.png first", "b.png second one", "b.png third"]
    assert (watched.target / "a.png").read_text() == "of yesterday"
    assert "1 images are left out, since their results are there: " in watched.said[0]
    watched.run(lambda: iter([None, None]), overwrite=True)
    assert (watched.target / "a.png").read_text() == "second one"


def test_a_folder_that_goes_away_is_awaited(watched: Watched) -> None:
    def steps() -> Iterator[None]:
        shutil.rmtree(watched.source)
        yield
        yield
        watched.source.mkdir()
        (watched.source / "a.png").write_text("new")
        yield
        yield

    watched.run(steps)
    assert watched.said == [f"{watched.source} is away; it is looked for.", f"{watched.source} is back."]
    assert watched.derained == ["a.png new"]


def test_another_format_and_equal_stems(watched: Watched) -> None:
    for name in ("a.png", "a.tif", "b.png"):
        (watched.source / name).write_text(name)
    watched.run(lambda: iter([None]), suffix=".jpg")
    assert sorted(os.listdir(watched.target)) == ["a.png.jpg", "a.tif.jpg", "b.jpg"]


def test_folders_that_cannot_be_used_are_refused(watched: Watched) -> None:
    for source, target, said in (
        (watched.source / "none", watched.target, "is no folder"),
        (watched.source, watched.source / "out", "lies within"),
        (watched.source, watched.target / "x.png", "is a file name"),
    ):
        with pytest.raises(TrainerError, match=said):
            watch(watched.derain, source, target)
    with pytest.raises(FileError, match="/proc/none"):
        watch(watched.derain, watched.source, Path("/proc/none"))
