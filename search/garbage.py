"""The garbage collector, kept out of the way of a large study.

Reading one makes a million values and no garbage. To look for it takes a third of the time of the reading, and a
quarter of a second in the midst of some decision later.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A block that makes much and drops little."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def no_garbage_among_what_is_there() -> Iterator[None]:
    """A block that needs to its end all that was made before it."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
