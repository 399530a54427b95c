"""Formats values: measurements, counts, bytes and times, with their units."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from trainer.checks import printable


def metric_text(name: str, value: float | None) -> str:
    """A measurement for a table: memory and counts with units, losses with four digits after the point."""
    if not is_number(value):
        return "-" if value is None else "nan"
    if name == "num_params":
        return tokens_text(value)
    if name == "peak_vram_bytes":
        return bytes_text(value)
    if name in ("loss", "bits_per_byte"):
        return f"{value:.4f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def tokens_text(count: float | None) -> str:
    """A count with the units of a space file: `64K`, `1.73M`."""
    if count is None:
        return "-"
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def bytes_text(count: float | None) -> str:
    if count is None:
        return "-"
    for size, unit in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= size * 1000 / 1024:  # at most three digits
            return f"{count / size:.3g} {unit}"
    return f"{count / 1024:.3g} KiB"


def seconds_text(seconds: float) -> str:
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


def value_text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else printable(str(value))


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
