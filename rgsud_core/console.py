"""Output for people: text is shown as it is, whatever names of files are in it."""

from __future__ import annotations

import sys

from rich.console import Console


def make_console(*, stderr: bool = False) -> Console:
    """A console of standard output or error.

    Brackets and colons are no markup, lines are broken by the terminal alone, and characters that the output
    cannot show are written as escapes. Colours are given by ``style``, or as ``rich.text.Text``.
    """
    stream = sys.stderr if stderr else sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)
