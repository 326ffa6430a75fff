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


def write(path: Path, text: str) -> None:
    """The whole file or none; others than the services' user and group cannot read it."""
    partial = path.with_suffix(".partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640), "w") as file:
        file.write(text)
    partial.rename(path)


def main() -> None:
    for name in ("read", "write", "ray"):
        if not (TOKENS / name).exists():
            write(TOKENS / name, secrets.token_hex(32))
    lines = [f"{scope} {(TOKENS / scope).read_text()}\n" for scope in ("read", "write")]
    write(TOKENS / "pool", "".join(lines))
    with tempfile.TemporaryDirectory() as folder:
        demo = write_demo_data(Path(folder) / "demo").rainy.parent
        shutil.copytree(demo, IMAGES, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
