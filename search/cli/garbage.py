"""The garbage collector, kept out of the way of a large study.

Reading one makes a million values and no garbage. To look for it takes a third of the time of the reading, and a
quarter of a second in the midst of some decision later.
"""

from __future__ import annotations

import gc


def collect_seldom() -> None:
    """From now on look for garbage a hundred times less often, and hardly ever among what has been there for long."""
    gc.set_threshold(100_000, 50, 100)
