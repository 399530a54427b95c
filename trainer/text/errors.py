"""The error for text that cannot be used, and words for its messages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from trainer.checks import printable


class CorpusError(ValueError):
    """Text that cannot be trained on; the message says which file, why, and what to do."""


def unreadable(path: Path, error: OSError) -> CorpusError:
    return CorpusError(f"{shown(path)}: cannot be read: {error.strerror or error}")


def shown(path: str | Path) -> str:
    """A path for a message: bytes that are not UTF-8, and control characters, as escapes."""
    return printable(str(path))


def some_of(names: Iterable[str], total: int | None = None, most: int = 3) -> str:
    """The first few names, and how many more there are: `a, b, c and 7 more`."""
    listed = list(names)
    total = len(listed) if total is None else total
    text = ", ".join(listed[:most])
    return text if total <= most else f"{text} and {total - most:,} more"
