"""Where a study is kept: its folder, and its Optuna record, which is a journal file there unless told otherwise."""

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
FAULTS = "faults"  # the study attribute that lists what went wrong beside the trials, in sentences
Direction = Literal["minimize", "maximize"]  # of a metric
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class StudyError(ValueError):
    """A study that cannot be opened or created as asked; the message says which, why, and what to do."""


class Archive(Protocol):
    """Where the Optuna records of studies are, each under its study's name; `str` names the place in messages."""

    def names(self) -> list[str]:
        """The studies there, the one that was run last at the end."""

    def find(self, name: str) -> optuna.Study | None:
        """A study; None where it is not there, or no more than begun. Raises StudyError for a foreign one."""

    def open(self, name: str) -> BaseStorage:
        """The storage that a study is in, or is to be."""

    def hold(self, name: str, directions: Sequence[Direction]) -> contextlib.AbstractContextManager[None]:
        """Write to a study as its only driver; begins one of these directions where it is not there.

        Raises StudyError where another driver has it.
        """

    def driver(self, name: str) -> str | None:
        """Who runs a study, wherever that is, as far as this place knows."""


@dataclass(frozen=True)
class StudyFolder:
    """`runs/<name>/`: the space as given, the checkpoints, who drives; the study's record is in its archive."""

    runs: Path
    name: str
    archive: Archive | None = None  # journal files in `runs` if left out

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise StudyError(
                f"{self.name!r} is no name for a study; use letters, digits, '.', '_' and '-' (it names a folder)"
            )

    @property
    def path(self) -> Path:
        return self.runs / self.name

    @property
    def journal(self) -> Path:
        """The file of the record, unless that is in a database."""
        return self.path / JOURNAL

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints, unless the study has them at a URL."""
        return self.path / "checkpoints"

    @property
    def owner(self) -> Path:
        """The file that says which driver has the study, once one has had it."""
        return self.path / "driver.json"

    def check_writable(self) -> None:
        """Raises StudyError where the folder cannot be made or written to; writes nothing that stays."""
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
        """Take the study for this driver until the block ends, or the process. Raises StudyError if it is taken.

        `directions` are those of a study that is not there yet, which is begun.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / "driver.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise taken(self.name, _driver_in(self.owner)) from None
        try:
            self.owner.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
            with self._archive.hold(self.name, directions):
                yield
        finally:
            lock.release()

    def driver(self) -> str | None:
        """Who is running the study now, or None."""
        file = self.path / "driver.lock"
        if not file.exists():
            return self._archive.driver(self.name)
        lock = FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return _driver_in(self.owner)
        lock.release()
        return self._archive.driver(self.name)

    def open_storage(self) -> BaseStorage:
        """The study's Optuna storage. Raises StudyError where there is something else in its place."""
        return self._archive.open(self.name)

    def find(self) -> optuna.Study | None:
        """The study, or None where it is not there yet. Raises StudyError for one that tinysearch did not make."""
        return self._archive.find(self.name)

    def load(self) -> optuna.Study:
        """The study. Raises StudyError where there is none, or one that tinysearch did not make."""
        study = self.find()
        if study is None:
            known = sorted(self._archive.names())
            there = f"studies there: {', '.join(known)}" if known else "there are no studies there yet"
            raise StudyError(f"no study {self.name!r} in {self._archive}; {there}")
        return study

    @property
    def _archive(self) -> Archive:
        return self.archive if self.archive is not None else JournalFiles(self.runs)


@dataclass(frozen=True)
class JournalFiles:
    """An archive: a journal file in the folder of each study, whose only driver is whoever has the folder's lock."""

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
        # A file that never was a journal is told otherwise than a damaged one: look at the first line.
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
        # This driver is the only writer now. One that was killed may have left the journal locked, or its last line
        # unfinished: nobody was told of that entry, and what is appended to it could never be read.
        file = self._file(name)
        Path(f"{file}.lock").unlink(missing_ok=True)
        _drop_torn_line(file)
        yield
        with contextlib.suppress(OSError, JournalError):  # it can be made later, and no faults are missed without
            keep_snapshot(file)

    def driver(self, name: str) -> str | None:
        return None  # the folder's lock has told already

    def _file(self, name: str) -> Path:
        return self.runs / name / JOURNAL


def whole_study(storage: BaseStorage, name: str, where: str) -> optuna.Study | None:
    """A study that is in `storage`; None for one whose creation was cut off. Raises StudyError for a foreign one."""
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
    """Keep a sentence about what went wrong beside the trials, such as a storage that did not answer."""
    study.set_user_attr(FAULTS, [*study.user_attrs.get(FAULTS, []), text])


def taken(name: str, driver: str) -> StudyError:
    """The refusal of a study that another driver has."""
    return StudyError(f"the study {name} is being run by {driver}; wait for it, or end it there")


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
