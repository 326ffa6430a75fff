"""Output for people: text is shown as it is, whatever names of files are in it."""

from __future__ import annotations

from rich.console import Console


def make_console(*, stderr: bool = False) -> Console:
    """A console of standard output or error.

    Brackets and colons are no markup, and lines are broken by the terminal alone. Colours are given by
    ``style``, or as ``rich.text.Text``.
    """
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)
