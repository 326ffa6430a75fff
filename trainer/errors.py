"""What the trainer raises when its input is at fault."""

from __future__ import annotations

from rgsud_core.errors import RgsudError


class TrainerError(RgsudError):
    """Bad input; the message names the thing and says what to do."""
