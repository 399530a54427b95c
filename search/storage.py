"""Where a study is kept: one folder with an Optuna journal, for one driver at a time and any number of readers."""

from __future__ import annotations

import json
import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage

from search.journal import Journal, JournalError, no_garbage_collection

FORMAT_VERSION = 1
JOURNAL = "journal.log"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class StudyError(ValueError):
    """A study that cannot be opened or created as asked; the message says which, why, and what to do."""


@dataclass(frozen=True)
class StudyFolder:
    """`runs/<name>/`: the space as given, the journal, the checkpoints."""

    runs: Path
    name: str

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
        return self.path / JOURNAL

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint(self, number: int) -> Path:
        """The checkpoint file of a trial."""
        return self.checkpoints / f"trial-{number}.pt"

    @property
    def exists(self) -> bool:
        return self.journal.exists()

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

    def lock(self) -> FileLock:
        """Take the study for this driver until released, or the process ends. Raises StudyError if it is taken."""
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / "driver.lock")
        owner = self.path / "driver.json"
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise StudyError(
                f"the study {self.name} is being run by {_owner(owner)}; wait for it, or end it there"
            ) from None
        owner.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid()}))
        # This driver is the only writer now. One that was killed may have left the journal locked, or its last line
        # unfinished: nobody was told of that entry, and what is appended to it could never be read.
        Path(f"{self.journal}.lock").unlink(missing_ok=True)
        _drop_torn_line(self.journal)
        return lock

    def driver(self) -> str | None:
        """Who is running the study now, or None."""
        file = self.path / "driver.lock"
        if not file.exists():
            return None
        lock = FileLock(file)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return _owner(self.path / "driver.json")
        lock.release()
        return None

    def open_storage(self) -> JournalStorage:
        """The study's Optuna storage. Raises StudyError for a file that is no Optuna journal, or a damaged one."""
        # A file that never was a journal is told otherwise than a damaged one: look at the first line.
        if self.journal.exists() and self.journal.stat().st_size:
            with open(self.journal, "rb") as file:
                first = file.readline(1_000_000)
            try:
                entry = json.loads(first)
                known = isinstance(entry, dict) and "op_code" in entry
            except (ValueError, RecursionError):
                known = False
            if not known:
                raise StudyError(f"{self.journal} is not an Optuna journal; move it away, or choose another --name")
        try:
            with no_garbage_collection():
                return JournalStorage(Journal(str(self.journal)))
        except OSError as error:
            raise StudyError(f"{self.journal}: {error.strerror}") from None
        except JournalError as error:
            raise StudyError(str(error)) from None

    def load(self) -> optuna.Study:
        """The study in this folder. Raises StudyError where there is none, or one that tinysearch did not make."""
        if not self.exists:
            known = sorted(p.parent.name for p in self.runs.glob(f"*/{JOURNAL}"))
            there = f"studies there: {', '.join(known)}" if known else "there are no studies there yet"
            raise StudyError(f"no study {self.name!r} in {self.runs}; {there}")
        storage = self.open_storage()
        names = [study.study_name for study in storage.get_all_studies()]
        if self.name not in names:
            what = f"holds {', '.join(map(repr, names))}" if names else "is empty"
            raise StudyError(
                f"{self.journal} {what}, not a study {self.name!r}; move it away, or choose another --name"
            )
        study = optuna.load_study(study_name=self.name, storage=storage)
        version = study.user_attrs.get("format_version")
        if version is None:
            raise StudyError(
                f"{self.journal} holds an Optuna study that tinysearch did not make; choose another --name"
            )
        if isinstance(version, bool) or not isinstance(version, int) or version < 1:
            raise StudyError(f"the study {self.name} is damaged: its format_version is {version!r:.60}, not 1 or more")
        if version > FORMAT_VERSION:
            raise StudyError(
                f"the study {self.name} was written by a newer tinysearch "
                f"(format {version}; this one reads {FORMAT_VERSION})"
            )
        return study


def _drop_torn_line(file: Path) -> None:
    if not file.exists():
        return
    content = file.read_bytes()
    if content and not content.endswith(b"\n"):
        with open(file, "r+b") as journal:
            journal.truncate(content.rfind(b"\n") + 1)


def _owner(file: Path) -> str:
    try:
        owner = json.loads(file.read_text())
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def latest_study(runs: Path) -> str:
    """The name of the study that was written to last. Raises StudyError where there is none."""
    journals = sorted(runs.glob(f"*/{JOURNAL}"), key=lambda path: path.stat().st_mtime)
    if not journals:
        raise StudyError(f"there are no studies in {runs}; `tinysearch run` makes one")
    return journals[-1].parent.name
