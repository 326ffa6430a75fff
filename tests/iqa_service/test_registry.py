"""One string names any scorer."""

from __future__ import annotations

import subprocess
import sys

import pytest

from iqa_service import registry
from iqa_service.errors import ScorerError
from iqa_service.registry import open_scorer, parse_spec, split_outside_brackets


class Elsewhere:
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
        ("nowhere:daclip", "unknown scorer 'nowhere:daclip': did you mean 'local:daclip'?"),
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


def test_options_are_text_until_brackets_close() -> None:
    assert parse_spec("local:a") == ("local:a", {})
    assert parse_spec("http://h:1/x?a=1&b=c(d=e&f=g(h=i&j=k)),l&m=%28%26+") == (
        "http://h:1/x",
        {"a": "1", "b": "c(d=e&f=g(h=i&j=k)),l", "m": "(&+"},
    )
    assert split_outside_brackets("a(b,c),d", ",") == ["a(b,c)", "d"]
    with pytest.raises(ScorerError, match="no counterpart"):
        split_outside_brackets("a)b(", ",")


def test_a_scheme_is_given_what_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    opener = f"{__name__}:Elsewhere"
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Elsewhere.__module__])
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
