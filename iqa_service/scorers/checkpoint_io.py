"""Safe loading of third-party torch checkpoints (tensors only)."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from iqa_service.errors import ScorerError
from rgsud_core.errors import first_line


def read_state(file: Path) -> Any:
    """The content of a file of ``torch.save``, if it is tensors and plain containers only.

    Raises:
        ScorerError: the file is missing, cut short, or holds anything else.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch.load raises on a damaged file is not one class
        # The message of torch recommends to run the code in such a file.
        damaged = isinstance(error, UnpicklingError)
        reason = "no plain tensors, or damaged" if damaged else first_line(error)
        raise ScorerError(f"cannot read '{file}' as weights ({reason}): fetch it again") from error
