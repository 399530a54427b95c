"""Run the garbage collector seldom, because it slows down large studies.

Reading a large study creates a million values and no garbage. Without this setting, collecting takes a third of the
reading time, and a quarter of a second in some later decisions.
"""

from __future__ import annotations

import gc


def collect_seldom() -> None:
    """Collect a hundred times less often, and very rarely among old objects."""
    gc.set_threshold(100_000, 50, 100)
