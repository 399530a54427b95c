"""When a search should end: `8h`, `1h30m`, `18:00`, `18:00+02:00` or `2026-11-24 08:00`."""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta

_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?(?:[eE]\+?[0-9]+)?)\s*(sec|s|min|m|hours?|h|days?|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?(\s*(Z|[+-][0-9]{2}(:?[0-9]{2})?))?")


def check_until(text: str) -> None:
    """Raises ValueError for a text that `seconds_until` refuses now."""
    seconds_until(text, datetime.now())


def seconds_until(text: str, now: datetime) -> float:
    """The seconds from `now` (local time) until `text`. Raises ValueError, also for a time that has passed.

    A time without a zone is local. The clock is read once, so setting the clock later does not move the deadline.
    """
    text = text.strip()
    seconds = _duration(text)
    if seconds is None:
        seconds = (_moment(text, now) - now.astimezone()).total_seconds()
    if not 0 < seconds < 366 * 86400:
        raise ValueError(f"--until {text}: that is {'past' if seconds <= 0 else 'more than a year away'}")
    return seconds


def _duration(text: str) -> float | None:
    """The seconds of `8h` or `1h 30m`; None for anything else."""
    seconds, end = 0.0, 0
    while match := _PART.match(text, end):
        seconds += float(match[1]) * _SECONDS[match[2][0]]
        end = match.end()
    return seconds if end and end == len(text) else None


def _moment(text: str, now: datetime) -> datetime:
    """The moment that a time of day, or a date with a time, means; with a zone."""
    try:
        if _CLOCK.fullmatch(text):
            clock = time.fromisoformat(f"{'0' if text[1] == ':' else ''}{text}".replace(" ", ""))
            today = datetime.combine(now.astimezone(clock.tzinfo).date(), clock)
            days = (today, today + timedelta(days=1))
            return next(day.astimezone() for day in days if day.astimezone() > now.astimezone())
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise ValueError(
            f"--until {text} is not a time: give a duration such as 8h or 45m, a time of day such as 18:00, "
            "or a date and time such as '2026-11-24 08:00'; a zone may follow, as in 18:00+02:00"
        ) from None
