"""Figures as a person reads them."""

from __future__ import annotations

import math
import time

from trainer.reporting.html.folder import number


def decimals(value: float | None, places: int, sign: bool = False) -> str:
    """A figure, or a dash where there is none."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return f"{value:{'+' if sign else ''}.{places}f}".replace("-", "−")


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    seconds = number(seconds)
    if not 0 <= seconds < 1e9:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def moment(seconds: float) -> str:
    """A Unix time as date and time of day, UTC."""
    try:
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "–"
