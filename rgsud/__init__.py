"""RGSUD: learn to remove rain from photographs without paired data. See docs/python.md.

Names are loaded when they are first used, so that ``import rgsud`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pool_store.client import open_pool
    from rgsud.api import Derainer, Scorer, evaluate, judge, train
    from rgsud_core.errors import RgsudError

__all__ = ["Derainer", "RgsudError", "Scorer", "evaluate", "judge", "open_pool", "train"]

_ELSEWHERE = {"RgsudError": "rgsud_core.errors", "open_pool": "pool_store.client"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'rgsud' has no attribute '{name}'")
    return getattr(importlib.import_module(_ELSEWHERE.get(name, "rgsud.api")), name)


def __dir__() -> list[str]:
    return __all__
