"""Files that tests write."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def written(path: Path, content: str | bytes | np.ndarray) -> Path:
    """A file with this content, and its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, np.ndarray):
        content = content.tobytes()
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
