"""What the trainer raises when its input is at fault."""

from __future__ import annotations

from rgsud_core.errors import RgsudError


class TrainerError(RgsudError):
    """Bad input, told in sentences that name the thing and say what to do."""
