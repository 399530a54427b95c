"""The beginning of a journal as fewer entries, kept beside it so that a large study opens at once.

A snapshot records which bytes of the journal it replaces: their number, and a digest over them and its own entries. It
is ignored if either file has changed there since. It may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
WORTHWHILE = 2_000_000  # bytes of a journal after its snapshot; reading them takes a tenth of a second


@dataclass(frozen=True)
class Snapshot:
    """The entries that replace the journal's first `num_bytes` bytes, in `num_lines` lines."""

    entries: Sequence[dict[str, Any]] = ()
    num_bytes: int = 0
    num_lines: int = 0

    @classmethod
    def of(cls, journal: Path, content: bytes) -> Snapshot:
        """The snapshot beside a journal with this content; an empty one if there is none or it does not match."""
        try:
            header, _, rest = _file(journal).read_bytes().partition(b"\n")
            about = json.loads(header)
            if about != {**about, "format": FORMAT, "digest": _digest(content[: about["bytes"]], rest)}:
                return cls()
            texts, entries = json.loads(rest)
            for entry in entries:
                if "distributions" in entry:
                    entry["distributions"] = {name: texts[i] for name, i in entry["distributions"].items()}
            return cls(entries, about["bytes"], about["lines"])
        except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
            return cls()

    def keep(self, journal: Path, content: bytes) -> None:
        """Write it beside its journal, in one step. If that fails, there is no snapshot.

        Distributions, which Optuna repeats for each trial (a third of the bytes), are written once.
        """
        texts: dict[str, int] = {}
        entries = []
        for entry in self.entries:
            if "distributions" in entry:
                numbers = {name: texts.setdefault(text, len(texts)) for name, text in entry["distributions"].items()}
                entry = {**entry, "distributions": numbers}
            entries.append(entry)
        rest = json.dumps([list(texts), entries], separators=(",", ":")).encode()
        digest = _digest(content[: self.num_bytes], rest)
        about = {"format": FORMAT, "bytes": self.num_bytes, "lines": self.num_lines, "digest": digest}
        partial = journal.with_name(f"{_file(journal).name}.{os.getpid()}.tmp")
        try:
            partial.write_bytes(json.dumps(about).encode() + b"\n" + rest)
            os.replace(partial, _file(journal))
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()


def _file(journal: Path) -> Path:
    return journal.with_name("journal.snapshot")


def _digest(content: bytes, rest: bytes) -> str:
    digest = hashlib.sha256(content)
    digest.update(rest)
    return digest.hexdigest()
