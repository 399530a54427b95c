"""When a search should end: `8h`, `45m`, `18:00` or `2026-11-24 08:00`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|min|h|d)")
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}
_CLOCK = re.compile(r"\d{1,2}:\d{2}")


def seconds_until(text: str, now: datetime) -> float:
    """The seconds from `now` (local time) to what `text` says. Raises ValueError, also for a time that has passed.

    The clock is asked once: whoever counts the seconds down does not notice when it is set.
    """
    text = text.strip()
    if duration := _DURATION.fullmatch(text):
        seconds = float(duration[1]) * _SECONDS[duration[2]]
    else:
        seconds = (_moment(text, now) - now).total_seconds()
    if not 0 < seconds < 366 * 86400:
        raise ValueError(f"--until {text}: that is {'past' if seconds <= 0 else 'more than a year away'}")
    return seconds


def _moment(text: str, now: datetime) -> datetime:
    try:
        if _CLOCK.fullmatch(text):
            time = datetime.strptime(text, "%H:%M").time()
            today = datetime.combine(now.date(), time)
            return today if today > now else today + timedelta(days=1)
        return datetime.fromisoformat(text).replace(tzinfo=None)
    except ValueError:
        raise ValueError(
            f"--until {text}: no time; give one from now such as 8h or 45m, of the clock as 18:00, "
            "or with its day as '2026-11-24 08:00'"
        ) from None
