"""A worker that hangs ends itself and says where it hung.

The timer is faulthandler's: a C thread that needs no interpreter lock, so it can end a process that waits for ever for
a GPU, a network drive or a lock. The stack of every thread is written to a file beside the checkpoint, where the driver
looks for it when a worker is lost.
"""

from __future__ import annotations

import contextlib
import faulthandler
from collections.abc import Iterator
from pathlib import Path

TRACE_SUFFIX = ".hang"


@contextlib.contextmanager
def watched(trace: Path, seconds: float | None) -> Iterator[None]:
    """End this process if the block takes longer than `seconds`, leaving a trace; None: no limit."""
    if seconds is None:
        yield
        return
    trace.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(trace, "w") as file:
            faulthandler.dump_traceback_later(seconds, exit=True, file=file)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
    finally:
        trace.unlink(missing_ok=True)


def trace_file(checkpoint: Path) -> Path:
    """The trace file for the worker of this checkpoint."""
    return checkpoint.with_suffix(TRACE_SUFFIX)


def take_trace(trace: Path) -> str:
    """What a worker was doing when it ended itself; empty if it was lost for another reason."""
    try:
        return trace.read_text(errors="replace")
    except OSError:
        return ""
    finally:
        trace.unlink(missing_ok=True)
