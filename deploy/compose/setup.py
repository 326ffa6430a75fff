"""What the services of docker-compose.yml share before they start: tokens, and photographs for a trial.

A token is made once and never changed; to change one, remove its file and start the services anew.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from pathlib import Path

from trainer.data.demo import write_demo_data

TOKENS = Path("/tokens")
IMAGES = Path("/images")


def write(path: Path, text: str, mode: int) -> None:
    """The whole file or none, readable by its owner alone, or by the group too."""
    partial = path.with_suffix(".partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "w") as file:
        file.write(text)
    partial.rename(path)


def make_tokens(folder: Path = TOKENS) -> None:
    """Each token in a folder of its own, so that a service can be given that alone."""
    # Prometheus, which reads the pool's figures, is another user of this group.
    for name, mode in (("read", 0o640), ("write", 0o600), ("ray", 0o600)):
        if not (folder / name / "token").exists():
            write(folder / name / "token", secrets.token_hex(32), mode)
    lines = [f"{scope} {(folder / scope / 'token').read_text()}\n" for scope in ("read", "write")]
    write(folder / "pool" / "tokens", "".join(lines), 0o600)


def main() -> None:
    make_tokens()
    with tempfile.TemporaryDirectory() as folder:
        demo = write_demo_data(Path(folder) / "demo").rainy.parent
        shutil.copytree(demo, IMAGES, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
