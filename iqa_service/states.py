"""Weights of others, as torch wrote them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from iqa_service.errors import ScorerError


def read_state(file: Path) -> Any:
    """What ``torch.save`` wrote, tensors and plain containers only.

    Raises:
        ScorerError: the file is missing, cut short, or something else.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch.load raises on a damaged file is not one class
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ScorerError(f"cannot read '{file}' as weights ({reason}): fetch it again") from error
