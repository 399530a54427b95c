"""Identifies the trainer's source code that a process uses."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import trainer


def trainer_folder() -> str:
    return str(Path(trainer.__file__).parent)


@functools.cache
def code_digest() -> str:
    """A digest of the trainer's source, to find a worker with another version of it."""
    root = Path(trainer.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
