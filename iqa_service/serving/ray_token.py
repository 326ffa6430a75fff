"""The token that a Ray on this machine asks for: without one, whoever reaches its ports runs code."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from ray._private.authentication.authentication_token_setup import _enable_token_auth

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
"""Ray's own environment variables; what they say is kept."""


def require_token() -> None:
    """Have the Ray that this process starts ask for a token, in Ray's own file where nothing else is set."""
    if MODE not in os.environ:
        _enable_token_auth()
    if os.environ[MODE].lower() == "token" and not {TOKEN, TOKEN_PATH} & os.environ.keys():
        keep_token(Path.home() / ".ray" / "auth_token")


def keep_token(path: Path) -> None:
    """A token in a file that its owner alone can read; one that is there stays. Ray's are readable by all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
    with contextlib.suppress(PermissionError):  # another's, who gave it to this user
        path.chmod(0o600)
