"""Programs that used Ray end by themselves, with exit code 0, and beside the Ray of another program."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.patience import PATIENCE, wait_until
from tests.system.clusters import PROGRAMS

pytestmark = pytest.mark.slow
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
TRAIN = (
    "train rain100l-gan data.rainy=rainy data.clean=clean data.crop=32 data.batch=1 schedule.samples=6 "
    "schedule.seconds=null schedule.recycle_from=0 schedule.stage2_from=4 recycling.every=1 "
    "recycling.scorer=daclip-lite report.plan=false launch=ray name=run-"
)
SCORE = "score rainy --scorer serve:mine --json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for side in ("rainy", "clean"):
        (tmp_path / side).mkdir()
        for number in range(4):
            image = rng.integers(0, 200, (48, 48, 3), np.uint8)
            PIL.Image.fromarray(image).save(tmp_path / side / f"{number}.png")
    return tmp_path


@pytest.fixture
def served(folder: Path) -> Iterator[None]:
    """A scorer in a Ray of its own program; that one ends well too."""
    log = folder / "served.log"
    command = [PROGRAMS / "rgsud", "scorer", "serve", "--port", "0", "--name", "mine"]
    with log.open("wb") as said:
        program = subprocess.Popen(command, stdout=said, stderr=said, env=ENVIRONMENT)
    try:
        wait_until(lambda: "serve:mine" in log.read_text() or program.poll() is not None, log.read_text)
        yield
        program.send_signal(signal.SIGTERM)
        assert program.wait(PATIENCE) == 0, log.read_text()
    finally:
        program.kill()


@pytest.mark.usefixtures("served")
def test_runs_and_scores_end_with_code_0(folder: Path) -> None:
    for number in range(2):
        for words in (SCORE, TRAIN + str(number)):
            command = [PROGRAMS / "rgsud", *words.split()]
            ended = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
            assert ended.returncode == 0, f"{words}: {ended.stdout} {ended.stderr}"
