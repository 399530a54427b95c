"""The lease of a study in a database: one driver at a time, on any machine.

The study attribute `driver` names the driver, which changes it every few seconds. A process that wants the study
watches whether the attribute still changes, so no machine trusts another's clock. A write replaces exactly what was
read before, so if two processes want a study at once, one of them gets it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy

from search.storage.folder import StudyError, taken
from search.storage.optuna_database import Attribute

DRIVER = "driver"  # the study attribute that names the driver; after the driver has ended, only its turn
BEAT_SECONDS = 2.0
WATCH_SECONDS = 20.0  # without a beat, after which a driver on another machine counts as dead
LEAVE_SECONDS = 10.0  # to wait for the last beat; after that its connection is left open


class Lease:
    """A study's lease as seen by one process. Any process may look; only one holds it at a time."""

    def __init__(self, engine: sqlalchemy.Engine, study_id: int, name: str):
        self._engine, self._study_id, self._name = engine, study_id, name
        self._token = uuid.uuid4().hex
        self._text = ""  # what this process wrote last
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def holder(self) -> str | None:
        """The driver of the study, or None. If that is not certain at once, waits for a beat."""
        found, is_alive = self._watch()
        return _who(found) if is_alive else None

    def acquire(self) -> None:
        """Hold the lease until `release` or until this process ends. Raises StudyError if another driver holds it."""
        found, is_alive = self._watch()
        if is_alive:
            raise taken(self._name, _who(found))
        content = {**_this_process(), "token": self._token, "beats": 0, "turn": self._next_turn()}
        self._text = json.dumps(content)
        if not self._swap(found, self._text):
            raise taken(self._name, _who(self._read()))
        self._thread.start()

    def check(self) -> None:
        """Raises StudyError if another driver has taken over, which is possible if this one was frozen for long."""
        found = self._read()
        if _content(found).get("token") != self._token:
            raise StudyError(
                f"the study {self._name} was taken over by {_who(found)}, since this driver did not answer for "
                f"{WATCH_SECONDS:.0f} s or more; it ends here, and the study continues there"
            )

    def release(self) -> None:
        """Give the lease back. If the storage does not answer, others will find that this process has ended."""
        self._is_over.set()
        self._thread.join(timeout=LEAVE_SECONDS)
        with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
            self._swap(self._text, json.dumps({"turn": _content(self._text)["turn"]}))

    def _keep(self) -> None:
        while not self._is_over.wait(BEAT_SECONDS):
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):  # no answer: the next beat tries again
                if not self._beat():
                    return

    def _beat(self) -> bool:
        """Renew the lease; False if another driver has it."""
        content = _content(self._text)
        changed = json.dumps({**content, "beats": content["beats"] + 1})
        if self._swap(self._text, changed):
            self._text = changed
            return True
        found = self._read()
        if found is None or _content(found).get("token") != self._token:
            return False
        self._text = found  # a beat was written, but its confirmation was lost
        return True

    def _watch(self) -> tuple[str | None, bool]:
        """The content of the lease, and whether its holder is alive."""
        found = self._read()
        content = _content(found)
        if "token" not in content:
            return found, False
        if content.items() >= _this_machine().items() and not _is_process(content["pid"]):
            return found, False
        ends = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < ends:
            time.sleep(BEAT_SECONDS / 4)
            if (now := self._read()) != found:
                return now, "token" in _content(now)
        return found, False

    def _read(self) -> str | None:
        query = sqlalchemy.select(Attribute.value_json).where(*self._row)
        with self._engine.connect() as connection:
            return connection.execute(query).scalar()

    def _swap(self, before: str | None, after: str) -> bool:
        """Write `after` if the stored value is still `before`; False if it is not."""
        if before is None:
            new = {"study_id": self._study_id, "key": DRIVER, "value_json": after}
            change: sqlalchemy.Insert | sqlalchemy.Update = sqlalchemy.insert(Attribute).values(new)
        else:
            ours = sqlalchemy.update(Attribute).where(*self._row, Attribute.value_json == before)
            change = ours.values(value_json=after)
        try:
            with self._engine.begin() as connection:
                return connection.execute(change).rowcount == 1 or before is None
        except sqlalchemy.exc.IntegrityError:  # another process was the first to write it
            return False

    @property
    def _row(self) -> tuple[Any, ...]:
        return Attribute.study_id == self._study_id, Attribute.key == DRIVER

    def _next_turn(self) -> int:
        with self._engine.connect() as connection:
            leases = connection.execute(sqlalchemy.select(Attribute.value_json).where(Attribute.key == DRIVER))
            return 1 + max((turn_of(_content(text)) for text in leases.scalars()), default=0)


def turn_of(driver: dict[str, Any]) -> int:
    """The number of the last run of a study among all runs in its database, from its attribute `driver`."""
    return driver.get("turn", 0)


def _content(text: str | None) -> dict[str, Any]:
    return {} if text is None else json.loads(text)


def _who(text: str | None) -> str:
    content = _content(text)
    return f"process {content['pid']} on {content['host']}" if "token" in content else "another process"


def _this_process() -> dict[str, Any]:
    return {**_this_machine(), "pid": os.getpid()}


def _this_machine() -> dict[str, Any]:
    """Where a process id is unambiguous: one host since its start, and one container on it."""
    try:
        system = f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        system = ""
    return {"host": socket.gethostname(), "system": system}


def _is_process(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True
