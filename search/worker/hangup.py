"""Survives a terminal that goes away while a command works: a closed ssh, or a pager that was quit.

The hangup drains a search as SIGTERM does, unless it was ignored from the start, as under nohup. Later output to the
terminal is lost, which is no error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, TextIO

HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # not on Windows
GONE = (errno.EIO, errno.EPIPE, errno.ENXIO, errno.EBADF, errno.ENOTCONN, errno.ECONNRESET)


def heeded() -> list[signal.Signals]:
    """The hangup signal, unless this process ignores it or the system has none."""
    return [] if HANGUP is None or signal.getsignal(HANGUP) is signal.SIG_IGN else [HANGUP]


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Blocks hangups until the block ends; processes started in it never get one."""
    if HANGUP is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {HANGUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def interrupting() -> Iterator[None]:
    """Treats a hangup or SIGTERM as Ctrl-C: the first raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = [signal.SIGTERM, *heeded()]

    def on_signal(signum: int, frame: Any) -> None:
        for one in signals:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {signum: signal.signal(signum, on_signal) for signum in signals}
    try:
        yield
    finally:
        for signum, handler in before.items():
            if signal.getsignal(signum) is not signal.SIG_IGN:  # the others of this hangup are on their way
                signal.signal(signum, handler)


@contextlib.contextmanager
def outliving_the_terminal() -> Iterator[None]:
    """Until the block ends, the reader of the output may go away."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Lasting(stream) for stream in before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


class _Lasting:
    """A stream that drops its output once its other end is gone."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._unless_gone():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._unless_gone():
            self._stream.flush()

    @contextlib.contextmanager
    def _unless_gone(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in GONE:
                raise
            with contextlib.suppress(OSError, ValueError):  # what is left in its buffer has to go somewhere
                silence = os.open(os.devnull, os.O_WRONLY)
                os.dup2(silence, self._stream.fileno())
                os.close(silence)
