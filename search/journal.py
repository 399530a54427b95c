"""Optuna's journal file with transactions: what the brain records in one step reaches the disk in one write.

Optuna's own backend locks, writes and syncs the file for every attribute, about thirty times a trial. One write is
faster, most of all on slow disks, and it leaves a driver that dies hardly a moment to record half a step.

A journal that could not be written takes nothing more: what is in memory is ahead of the file then, and the file is
what counts.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock


class JournalError(ValueError):
    """The journal cannot be written; the message says which file, why, and what to do."""


class Journal(JournalFileBackend):
    """A journal file whose writer is one thread of one process; others may read, and write between transactions.

    Writing raises JournalError, and after the first one always does.
    """

    def __init__(self, file_path: str):
        self._reentrant = _ReentrantLock(file_path)
        super().__init__(file_path, lock_obj=self._reentrant)
        self._pending: list[dict[str, Any]] | None = None  # in a transaction: what is not in the file yet
        self._num_written = 0  # entries in the file when the transaction began
        self._error: JournalError | None = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep the lock, and write all entries of the block at its end, also where it raises."""
        if self._pending is not None:
            yield  # part of the outer one
            return
        with self._writing():
            self._num_written = self._count()
            self._pending = []
            try:
                yield
            finally:
                try:
                    if self._pending:
                        self._append(self._pending)
                finally:
                    self._pending = None
                self._num_written = self._count()  # learns where the new lines end: the next read starts there

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._pending is None:
            with self._writing():
                self._append(logs)
        else:
            self._pending += logs

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        pending = self._pending
        if pending is None or log_number_from < self._num_written:
            yield from super().read_logs(log_number_from)
        if pending is not None:
            yield from pending[max(0, log_number_from - self._num_written) :]

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock. Raises JournalError where the file was not writable, now or before."""
        if self._error is not None:
            raise self._error
        try:
            self._reentrant.acquire()
        except OSError as error:
            raise self._failed(error) from error
        try:
            yield
        finally:
            self._reentrant.release()

    def _append(self, logs: list[dict[str, Any]]) -> None:
        """All of them or none: what a full disk took of them is taken back."""
        size = Path(self._file_path).stat().st_size
        try:
            super().append_logs(logs)
        except OSError as error:
            with contextlib.suppress(OSError):  # else the torn line is dropped when the study is opened again
                os.truncate(self._file_path, size)
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> JournalError:
        advice = "free some space there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "see to it"
        why = f"{self._file_path} cannot be written: {error.strerror}"
        self._error = JournalError(f"{why}; {advice}, then the same command goes on from what it holds")
        return self._error

    def _count(self) -> int:
        """Entries in the file; reads only those that are new since the last call."""
        return self._num_written + sum(1 for _ in super().read_logs(self._num_written))


class _ReentrantLock(JournalFileSymlinkLock):
    """Held for a transaction, so that what others write (a note in the dashboard, say) stands before or after it."""

    def __init__(self, file_path: str):
        super().__init__(file_path)
        self._depth = 0

    def acquire(self) -> bool:
        if self._depth == 0:
            super().acquire()
        self._depth += 1
        return True

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            super().release()
