"""One string names any scorer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from iqa_service import registry
from iqa_service.errors import ScorerError
from iqa_service.registry import (
    absolute,
    by_import_path,
    has_place,
    open_scorer,
)
from iqa_service.scorers.base import Candidate, ScoreBackend


class Elsewhere(ScoreBackend):
    """Stands for a client of a scorer that runs elsewhere."""

    name = fingerprint = "elsewhere"

    def __init__(self, target: str, /, timeout_s: float = 30) -> None:
        self.target, self.timeout_s = target, timeout_s


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("local:daclip-light", "unknown scorer 'local:daclip-light': did you mean 'local:daclip-lite'?"),
        ("local:orcale?truth=x", "did you mean 'local:oracle'?"),
        ("?", "known are local:daclip-lite"),
        ("nowhere:daclip", "there is no module 'nowhere'"),
        ("nowhere:daclip", "did you mean 'local:daclip'?"),
        ("daclip-light", "unknown scorer 'local:daclip-light': did you mean 'local:daclip-lite'?"),
        ("local:oracle", "'local:oracle' needs the option 'truth': write local:oracle?truth=..."),
        ("local:daclip?wieghts=x", "unknown option 'wieghts' of 'local:daclip': did you mean 'weights'?"),
        ("local:random?consitency=1", "did you mean 'consistency'?"),
        ("local:random?seed=x", "option 'seed' of 'local:random' is 'x': input should be a valid integer"),
        ("local:random?seed=-1", "input should be greater than or equal to 0"),
        ("local:daclip-lite?tiles=0", "option 'tiles' of 'local:daclip-lite' is '0': input should be"),
        ("local:daclip-lite?views=tyles", "is 'tyles': input should be 'centre' or 'tiles'"),
        ("local:daclip-lite?precision=float8", "input should be 'float32' or 'bfloat16'"),
        ("local:daclip-lite?device=gpu0", "device 'gpu0' cannot be used"),
        ("local:random?seed", "option 'seed' of 'local:random' has no value"),
        ("local:random?seed=1&seed=2", "option 'seed' of 'local:random' is given twice"),
        ("local:random?seed=(1", "a bracket in 'seed=(1' has no counterpart"),
    ],
)
def test_a_misspelt_scorer_is_put_right(spec: str, message: str) -> None:
    with pytest.raises(ScorerError) as error:
        open_scorer(spec)
    assert message in str(error.value)


def test_a_scheme_is_given_what_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    opener = f"{__name__}:Elsewhere"
    monkeypatch.setattr(registry, "_SCHEMES", {"serve": opener, "http": opener})
    handle = open_scorer("serve:iqa")
    web = open_scorer("http://127.0.0.1:8000/iqa?timeout_s=5")
    assert isinstance(handle, Elsewhere)
    assert isinstance(web, Elsewhere)
    assert (handle.target, handle.timeout_s) == ("iqa", 30)
    assert (web.target, web.timeout_s) == ("http://127.0.0.1:8000/iqa", 5)
    with pytest.raises(ScorerError, match="'timeout' of 'serve:iqa': did you mean 'timeout_s'"):
        open_scorer("serve:iqa?timeout=5")


def test_the_registry_loads_nothing_heavy() -> None:
    code = (
        "import sys, iqa_service.registry as r; r.open_scorer('local:random');"
        "print(sorted({'ray', 'fastapi', 'httpx', 'pyiqa', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


STRANGE = """
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from iqa_service.scorers.base import ScoreBackend

Gain = Annotated[float, Field(gt=0)]

class Brightness(ScoreBackend):
    def __init__(
        self, table: Path | None = None, sign: Literal["up", "down"] = "up", gain: Gain = 1.0
    ) -> None:
        self.name, self.fingerprint = "brightness", f"brightness-{sign}-{gain}-{table and table.read_text()}"
        self.factor = gain if sign == "up" else -gain

    def score(self, candidates):
        return np.array([self.factor * candidate.image.mean() for candidate in candidates], np.float32)

class Nameless:
    pass

number = 3
"""


@pytest.fixture
def stranger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Import path of a scorer in a file of the working directory, which belongs to no package."""
    (tmp_path / "strange_scorer.py").write_text(STRANGE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "strange_scorer", raising=False)
    return "strange_scorer:Brightness"


@pytest.mark.parametrize("place", ["", "local:"])
def test_anybodys_class_is_found_by_its_import_path(stranger: str, place: str) -> None:
    candidate = Candidate("a", np.full((4, 4, 3), 10, np.uint8))
    plain = open_scorer(f"{place}{stranger}")
    strict = open_scorer(f"{place}{stranger}?sign=down&gain=2&consistency=0.5")
    assert plain.score([candidate]) == 10
    assert strict.score([Candidate("a", candidate.image, candidate.image)]) == -20
    assert plain.fingerprint != strict.fingerprint
    assert by_import_path(f"{place}{stranger}?gain=2")
    assert has_place(f"{place}{stranger}") is (place != "")


def test_what_an_import_path_cannot_be_is_one_sentence(stranger: str) -> None:
    for spec, message in (
        ("strange_scorer:Brihgtness", "strange_scorer has no 'Brihgtness': did you mean 'Brightness'?"),
        (f"{stranger}?gian=1", f"unknown option 'gian' of '{stranger}': did you mean 'gain'?"),
        (f"{stranger}?gain=0", "input should be greater than 0"),
        (f"{stranger}?table=absent.txt", f"'{stranger}' cannot be opened: FileNotFoundError"),
        ("strange_scorer:Nameless", "it lacks name, fingerprint, views, score, score_views, close"),
        ("strange_scorer:number", "is no scorer but a int: name a class"),
    ):
        with pytest.raises(ScorerError) as error:
            open_scorer(spec)
        assert message in str(error.value)


def test_paths_become_absolute_by_their_annotation(stranger: str, tmp_path: Path) -> None:
    assert absolute(f"{stranger}?table=a%26b.txt&gain=2") == f"{stranger}?table={tmp_path}/a%26b.txt&gain=2"
    assert absolute("local:oracle?truth=x&consistency=1") == f"local:oracle?truth={tmp_path}/x&consistency=1"
    assert absolute("daclip?weights=w.st&words=rainy") == f"daclip?weights={tmp_path}/w.st&words=rainy"
    assert absolute("local:daclip?weights=hf://a/b/c") == "local:daclip?weights=hf://a/b/c"
    assert absolute("local:ensemble?of=a,b&reference=r") == f"local:ensemble?of=a,b&reference={tmp_path}/r"
    for spec in ("local:daclip-lite", "serve:iqa?timeout=3", "http://h:1/x?timeout=3"):
        assert absolute(spec) == spec
