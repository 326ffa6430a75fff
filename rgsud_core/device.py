"""Where tensors live: on a processor or a GPU, by name."""

from __future__ import annotations

import torch

from rgsud_core.errors import RgsudError, first_line


def find_device(wanted: str) -> torch.device:
    """A device by torch's name (`cpu`, `cuda`, `cuda:1`), after a try; `auto` is a GPU if there is one.

    Raises:
        RgsudError: there is no such device here, or it cannot be used.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=wanted).device
    except (RuntimeError, AssertionError) as problem:
        raise RgsudError(
            f"the device '{wanted}' cannot be used ({first_line(problem)}): take device=cpu or auto."
        ) from None
