"""Optuna's journal file with transactions: everything that one step of the study records is written at once.

Optuna's own backend locks, writes and syncs the file for every attribute, about thirty times a trial, and replays each
of these entries when the study is opened. One write per step is faster, most of all on slow disks, and a driver that
dies hardly ever leaves half a step behind. Reading replays one entry for each trial (replay.py); snapshot.py keeps
these.

After a write has failed, the journal accepts no more writes: memory is then ahead of the file, and the file counts.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from search.storage.replay import Replay, UnknownOperation
from search.storage.snapshot import WORTHWHILE, Snapshot

LINES_AT_ONCE = 10_000  # decoded together: much faster than one by one, with bounded memory


class JournalError(ValueError):
    """A journal that is damaged, or cannot be written; the message says where, why, and what to do."""


class Journal(JournalFileBackend):
    """A journal file. One thread of one process writes transactions; others may read, and write between transactions.

    Serves one storage, because each entry is returned once. Writing raises JournalError, and after one failure always.
    """

    def __init__(self, file_path: str):
        self._reentrant = _ReentrantLock(file_path)
        super().__init__(file_path, lock_obj=self._reentrant)
        self._path = Path(file_path)
        self._pending: list[dict[str, Any]] | None = None  # in a transaction: entries that are not in the file yet
        self._unread: list[dict[str, Any]] = []  # entries that the storage has not read ...
        self._first = 0  # ... and the number of the first one, as the storage counts
        self._num_bytes = 0  # of the file that became entries
        self._num_lines = 0
        self._error: JournalError | None = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the lock, and write all entries of the block at its end, even if the block raises."""
        if self._pending is not None:
            yield  # joins the outer transaction
            return
        with self._writing():
            self._read_on()
            self._pending = []
            try:
                yield
            finally:
                pending, self._pending = self._pending, None
                if pending:
                    self._append(pending)
                    self._num_lines += len(pending)  # the storage has them already
                    self._num_bytes = os.path.getsize(self._path)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._pending is not None:
            self._pending += copy.deepcopy(logs)  # the storage may change its own objects later
            self._unread += logs
            return
        with self._writing():
            self._append(logs)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # is read at once
        """The entries from that number on that the storage has not read yet. Raises JournalError."""
        del self._unread[: log_number_from - self._first]
        self._first = log_number_from
        if self._pending is None:
            self._read_on()
        return iter(self._unread.copy())

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the lock. Raises JournalError if the file cannot be written, or could not be before."""
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
        """Append all entries or none: a partial write on a full disk is undone."""
        size = os.path.getsize(self._path)
        try:
            super().append_logs(logs)
        except OSError as error:
            with contextlib.suppress(OSError):  # if that fails, the torn line is dropped at the next opening
                os.truncate(self._path, size)
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> JournalError:
        advice = "free some space there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "fix the cause"
        why = f"{self._path} cannot be written: {error.strerror}"
        self._error = JournalError(f"{why}; {advice}, then the same command resumes from what was written")
        return self._error

    def _read_on(self) -> None:
        """Read what was appended since; the first time, everything. A last line without a line end is not read yet."""
        with open(self._path, "rb") as file:
            file.seek(self._num_bytes)
            new = file.read()
        if self._num_lines == 0:
            self._read_first(new)
        else:
            self._take(new, self._unread.append)

    def _read_first(self, content: bytes) -> None:
        snapshot, replay = Snapshot.of(self._path, content), Replay()
        try:
            for entry in snapshot.entries:
                replay.take(entry)
        except (ValueError, UnknownOperation):
            snapshot, replay = Snapshot(), Replay()
        self._num_bytes, self._num_lines = snapshot.num_bytes, snapshot.num_lines
        try:
            self._take(content[snapshot.num_bytes :], replay.take)
        except UnknownOperation:  # Optuna reads all entries itself
            self._num_bytes = self._num_lines = 0
            self._take(content, self._unread.append)
            return
        if self._num_bytes - snapshot.num_bytes >= WORTHWHILE:
            Snapshot(replay.entries, self._num_bytes, self._num_lines).keep(self._path, content)
        self._unread += replay.entries

    def _take(self, content: bytes, take: Callable[[dict[str, Any]], None]) -> None:
        lines = content.split(b"\n")[:-1]
        for start in range(0, len(lines), LINES_AT_ONCE):
            for entry in self._decoded(lines[start : start + LINES_AT_ONCE]):
                self._num_lines += 1
                try:
                    take(entry)
                except ValueError as error:
                    raise self._damaged(f"no entry of Optuna's: {error}") from None
        self._num_bytes += sum(map(len, lines)) + len(lines)

    def _decoded(self, lines: list[bytes]) -> Iterator[Any]:
        """Each line's entry. All lines are decoded together, and one by one only to find the damaged one."""
        try:
            entries = json.loads(b"[" + b",".join(lines) + b"]")
        except (ValueError, RecursionError):
            entries = []
        if len(entries) == len(lines):
            yield from entries
            return
        for line in lines:
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                self._num_lines += 1
                raise self._damaged(f"not JSON: {error}") from None

    def _damaged(self, why: str) -> JournalError:
        line = self._num_lines
        return JournalError(
            f"{self._path}:{line}: the journal is damaged here: {why}. The {line - 1:,} entries before it are "
            "sound: restore a backup or, with a copy put aside, delete this line and all after it"
        )


def keep_snapshot(file: Path) -> None:
    """Write a snapshot if the journal has grown, to save the next reader time. Raises JournalError."""
    if file.stat().st_size >= WORTHWHILE:
        Journal(str(file)).read_logs(0)


class _ReentrantLock(JournalFileSymlinkLock):
    """Held for a whole transaction, so that other writers (a note in the dashboard, say) come before or after it."""

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
