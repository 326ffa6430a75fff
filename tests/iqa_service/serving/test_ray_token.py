"""Whether a Ray of this machine asks for a token that nobody else can read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from iqa_service.serving import ray_token


def test_a_token_is_made_once_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "auth_token"
    ray_token.keep_token(path)
    made = path.read_text()
    assert len(made) == 64
    path.chmod(0o644)  # as Ray itself writes it
    ray_token.keep_token(path)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (made, 0o600)


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, True),
        ({"RAY_AUTH_MODE": "token"}, True),
        ({"RAY_AUTH_MODE": "disabled"}, False),
        ({"RAY_AUTH_TOKEN": "t" * 64}, False),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "elsewhere"}, False),
    ],
)
def test_what_the_environment_says_is_kept(
    given: dict[str, str], made: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (ray_token.MODE, ray_token.TOKEN, ray_token.TOKEN_PATH):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(ray_token, "_enable_token_auth", lambda: monkeypatch.setenv(ray_token.MODE, "token"))
    ray_token.require_token()
    assert os.environ[ray_token.MODE] == given.get("RAY_AUTH_MODE", "token")
    assert (tmp_path / ".ray" / "auth_token").exists() is made
