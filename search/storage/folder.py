"""A study's folder, and the store of its Optuna record: a journal file in that folder unless a database is given."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import optuna
from filelock import FileLock, Timeout
from optuna.storages import BaseStorage, JournalStorage

from search.storage.journal import Journal, JournalError, keep_snapshot
from search.storage.optuna_private import distributions_decoded_once

FORMAT_VERSION = 1
JOURNAL = "journal.log"
FAULTS = "faults"  # the study attribute that lists faults outside the trials, a sentence each
Direction = Literal["minimize", "maximize"]  # of a metric
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class StudyError(ValueError):
    """A study that cannot be opened or created as asked; the message says which, why, and what to do."""


class StudyStore(Protocol):
    """Holds the Optuna records of studies, each under its study's name; `str` names the location in messages."""

    def names(self) -> list[str]:
        """The studies in this store; the one that ran last comes last."""

    def find(self, name: str) -> optuna.Study | None:
        """A study; None if there is none, or if its creation was cut off. Raises StudyError for a foreign one."""

    def open(self, name: str) -> BaseStorage:
        """The Optuna storage that holds the study, or will hold it."""

    def hold(self, name: str, directions: Sequence[Direction]) -> contextlib.AbstractContextManager[None]:
        """Write to a study as its only driver. A study that does not exist is created with these directions.

        Raises StudyError if another driver has it.
        """

    def driver(self, name: str) -> str | None:
        """The driver that runs a study, on any machine, as far as this store knows; None if there is none."""


@dataclass(frozen=True)
class StudyFolder:
    """`runs/<name>/`: the space as given, the checkpoints, and who drives the study. Its record is in `store`."""

    runs: Path
    name: str
    store: StudyStore | None = None  # None: journal files in `runs`

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise StudyError(
                f"{self.name!r} is not a valid name for a study; use letters, digits, '.', '_' and '-' "
                "(it names a folder)"
            )

    @property
    def path(self) -> Path:
        return self.runs / self.name

    @property
    def journal(self) -> Path:
        """The file of the record, unless the record is in a database."""
        return self.path / JOURNAL

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints, unless they are at a URL."""
        return self.path / "checkpoints"

    @property
    def owner(self) -> Path:
        """The file that names the driver of the study; it exists once a driver has had the study."""
        return self.path / "driver.json"

    def check_writable(self) -> None:
        """Raises StudyError if the folder cannot be made or written to. Leaves nothing behind."""
        nearest = next(p for p in (self.path, *self.path.parents) if p.exists())
        if not nearest.is_dir():
            raise StudyError(
                f"{nearest} is a file, so the study's folder {self.path} cannot be made; "
                "choose another with --runs or --name"
            )
        try:
            probe = nearest / f".tinysearch-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StudyError(
                f"{nearest} cannot be written to ({error.strerror}); choose another folder with --runs"
            ) from None

    @contextlib.contextmanager
    def lock(self, directions: Sequence[Direction] = ()) -> Iterator[None]:
        """Take the study for this driver until the block or the process ends. Raises StudyError if it is taken.

        A study that does not exist is created with these `directions`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / "driver.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise taken(self.name, _driver_in(self.owner)) from None
        try:
            self.owner.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
            with self._store.hold(self.name, directions):
                yield
        finally:
            lock.release()

    def driver(self) -> str | None:
        """The driver that runs the study now, or None."""
        file = self.path / "driver.lock"
        if not file.exists():
            return self._store.driver(self.name)
        lock = FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return _driver_in(self.owner)
        lock.release()
        return self._store.driver(self.name)

    def open_storage(self) -> BaseStorage:
        """The study's Optuna storage. Raises StudyError if something else is stored at its location."""
        return self._store.open(self.name)

    def find(self) -> optuna.Study | None:
        """The study, or None if it does not exist yet. Raises StudyError if tinysearch did not create it."""
        return self._store.find(self.name)

    def load(self) -> optuna.Study:
        """The study. Raises StudyError if there is none, or if tinysearch did not create it."""
        study = self.find()
        if study is None:
            known = sorted(self._store.names())
            there = f"studies there: {', '.join(known)}" if known else "there are no studies there yet"
            raise StudyError(f"no study {self.name!r} in {self._store}; {there}")
        return study

    @property
    def _store(self) -> StudyStore:
        return self.store if self.store is not None else JournalFiles(self.runs)


@dataclass(frozen=True)
class JournalFiles:
    """A study store: a journal file in the folder of each study. The driver is the process with the folder's lock."""

    runs: Path

    def __str__(self) -> str:
        return str(self.runs)

    def names(self) -> list[str]:
        journals = sorted(self.runs.glob(f"*/{JOURNAL}"), key=lambda path: path.stat().st_mtime)
        return [path.parent.name for path in journals]

    def find(self, name: str) -> optuna.Study | None:
        file = self._file(name)
        if not file.exists():
            return None
        storage = self.open(name)
        there = [study.study_name for study in storage.get_all_studies()]
        if there and name not in there:
            raise StudyError(
                f"{file} holds {', '.join(map(repr, there))}, not a study {name!r}; move it away, "
                "or choose another --name"
            )
        return whole_study(storage, name, str(file)) if there else None

    def open(self, name: str) -> JournalStorage:
        # A file that never was a journal gets another message than a damaged journal: look at the first line.
        file = self._file(name)
        if file.exists() and file.stat().st_size:
            with open(file, "rb") as journal:
                first = journal.readline(1_000_000)
            try:
                entry = json.loads(first)
                known = isinstance(entry, dict) and "op_code" in entry
            except (ValueError, RecursionError):
                known = False
            if not known:
                raise StudyError(f"{file} is not an Optuna journal; move it away, or choose another --name")
        try:
            with distributions_decoded_once():
                return JournalStorage(Journal(str(file)))
        except OSError as error:
            raise StudyError(f"{file}: {error.strerror}") from None
        except JournalError as error:
            raise StudyError(str(error)) from None

    @contextlib.contextmanager
    def hold(self, name: str, directions: Sequence[Direction]) -> Iterator[None]:
        # This driver is the only writer now. A killed one may have left the journal locked, or its last line
        # unfinished. That entry was never confirmed, and anything appended to it could not be read.
        file = self._file(name)
        Path(f"{file}.lock").unlink(missing_ok=True)
        _drop_torn_line(file)
        yield
        with contextlib.suppress(OSError, JournalError):  # it only saves time
            keep_snapshot(file)

    def driver(self, name: str) -> str | None:
        return None  # the folder's lock has answered already

    def _file(self, name: str) -> Path:
        return self.runs / name / JOURNAL


def whole_study(storage: BaseStorage, name: str, where: str) -> optuna.Study | None:
    """A study in `storage`; None if its creation was cut off. Raises StudyError if tinysearch did not create it."""
    study = optuna.load_study(study_name=name, storage=storage)
    attrs = study.user_attrs
    version = attrs.get("format_version")
    if version is None:
        if study.get_trials(deepcopy=False) or attrs.keys() - {"space", "driver"} and "space" not in attrs:
            raise StudyError(
                f"{where} holds an Optuna study {name!r} that tinysearch did not make; choose another --name"
            )
        return None
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise StudyError(f"the study {name} is damaged: its format_version is {version!r:.60}, not 1 or more")
    if version > FORMAT_VERSION:
        raise StudyError(
            f"the study {name} was written by a newer tinysearch (format {version}; this one reads {FORMAT_VERSION})"
        )
    return study


def note_fault(study: optuna.Study, text: str) -> None:
    """Record a fault outside the trials in a sentence, such as a storage that did not answer."""
    study.set_user_attr(FAULTS, [*study.user_attrs.get(FAULTS, []), text])


def taken(name: str, driver: str) -> StudyError:
    """The error for a study that another driver has."""
    return StudyError(f"the study {name} is being run by {driver}; wait for it, or stop it there")


def _drop_torn_line(file: Path) -> None:
    if not file.exists():
        return
    content = file.read_bytes()
    if content and not content.endswith(b"\n"):
        with open(file, "r+b") as journal:
            journal.truncate(content.rfind(b"\n") + 1)


def _driver_in(file: Path) -> str:
    try:
        owner = json.loads(file.read_text())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
