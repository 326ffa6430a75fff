"""Weights of others, as torch wrote them."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from iqa_service.errors import ScorerError
from rgsud_core.errors import first_line


def read_state(file: Path) -> Any:
    """What ``torch.save`` wrote, tensors and plain containers only.

    Raises:
        ScorerError: the file is missing, cut short, or something else.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch.load raises on a damaged file is not one class
        # Torch explains at length how to run the code in such a file all the same.
        damaged = isinstance(error, UnpicklingError)
        said = "no plain tensors, or damaged" if damaged else first_line(error)
        raise ScorerError(f"cannot read '{file}' as weights ({said}): fetch it again") from error
