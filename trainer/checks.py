"""The messages that refuse a configuration, and the error that carries them.

The checks return a list with a sentence for each fault; it is empty if the configuration is valid.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """A configuration that cannot be trained; the message names every fault and what to do about it."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for an unknown name: what was given, what is known, and the nearest known name."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}. Known: {', '.join(names)}.{hint}"


def counted(number: float, noun: str, plural: str = "") -> str:
    """`1 trial`, `1,234 trials`."""
    return f"{number:,.0f} {noun if number == 1 else plural or f'{noun}s'}"


_ESCAPED = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Text for a terminal: control characters, and bytes of a name that are not UTF-8, as escapes: `\\x1b`."""
    return _ESCAPED.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # how Python stores a byte that it could not decode
        return f"\\x{code - 0xDC00:02x}"
    return {"\n": r"\n", "\r": r"\r", "\t": r"\t"}.get(match[0], f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def at_least(config: Any, minimum: int, *names: str) -> list[str]:
    """Each of the fields is `minimum` or more."""
    return [f"{n} {getattr(config, n)} is below {minimum}" for n in names if getattr(config, n) < minimum]


def one_of(config: Any, name: str, allowed: tuple[str, ...]) -> list[str]:
    """The field is one of the allowed words."""
    value = getattr(config, name)
    return [] if value in allowed else [unknown_name(name, value, allowed)]


def shares(config: Any, *names: str) -> list[str]:
    """Each of the fields is None or in [0, 1)."""
    values = {name: getattr(config, name) for name in names}
    return [f"{n} {v} is not in [0, 1)" for n, v in values.items() if v is not None and not 0 <= v < 1]


def require(holds: bool, otherwise: str) -> list[str]:
    """The condition holds; `otherwise` is the sentence if it does not."""
    return [] if holds else [otherwise]
