"""The lease of a study in a database: one driver at a time, wherever it runs.

Who drives a study is kept in its attribute `driver`, which the driver changes every few seconds. Whoever wants the
study watches whether it still changes: no clock of another machine is believed. And it is only ever written in place
of exactly what was read, so of two that want a study at once one gets it.
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

DRIVER = "driver"  # the study attribute: who drives it; after that, only its turn
BEAT_SECONDS = 2.0
WATCH_SECONDS = 20.0  # without a beat, after which a driver elsewhere counts as dead
LEAVE_SECONDS = 10.0  # for the last beat to end, whose connection is left open otherwise


class Lease:
    """A study's lease as one process sees it: anyone may look, one at a time holds it."""

    def __init__(self, engine: sqlalchemy.Engine, study_id: int, name: str):
        self._engine, self._study_id, self._name = engine, study_id, name
        self._token = uuid.uuid4().hex
        self._text = ""  # what we wrote last
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def holder(self) -> str | None:
        """Who drives the study, or None. Waits for a beat where that is not known at once."""
        found, is_alive = self._watch()
        return _who(found) if is_alive else None

    def acquire(self) -> None:
        """Hold the lease until `release`, or until this process ends. Raises StudyError where a driver holds it."""
        found, is_alive = self._watch()
        if is_alive:
            raise taken(self._name, _who(found))
        content = {**_this_process(), "token": self._token, "beats": 0, "turn": self._next_turn()}
        self._text = json.dumps(content)
        if not self._swap(found, self._text):
            raise taken(self._name, _who(self._read()))
        self._thread.start()

    def check(self) -> None:
        """Raises StudyError where another driver has taken over, as it may while this one is frozen for long."""
        found = self._read()
        if _content(found).get("token") != self._token:
            raise StudyError(
                f"the study {self._name} was taken over by {_who(found)}, since this driver did not answer for "
                f"{WATCH_SECONDS:.0f} s or more; it ends here, the study goes on there"
            )

    def release(self) -> None:
        """Leave the study to others; where the storage does not answer, they find that this process has ended."""
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
        """Change the lease; False once it is another's."""
        content = _content(self._text)
        changed = json.dumps({**content, "beats": content["beats"] + 1})
        if self._swap(self._text, changed):
            self._text = changed
            return True
        found = self._read()
        if found is None or _content(found).get("token") != self._token:
            return False
        self._text = found  # a beat that was written, and whose confirmation was lost
        return True

    def _watch(self) -> tuple[str | None, bool]:
        """What the lease says, and whether its holder is alive."""
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
        """Write `after` in place of `before`; False where something else is there."""
        if before is None:
            new = {"study_id": self._study_id, "key": DRIVER, "value_json": after}
            change: sqlalchemy.Insert | sqlalchemy.Update = sqlalchemy.insert(Attribute).values(new)
        else:
            ours = sqlalchemy.update(Attribute).where(*self._row, Attribute.value_json == before)
            change = ours.values(value_json=after)
        try:
            with self._engine.begin() as connection:
                return connection.execute(change).rowcount == 1 or before is None
        except sqlalchemy.exc.IntegrityError:  # another was first to write any
            return False

    @property
    def _row(self) -> tuple[Any, ...]:
        return Attribute.study_id == self._study_id, Attribute.key == DRIVER

    def _next_turn(self) -> int:
        with self._engine.connect() as connection:
            leases = connection.execute(sqlalchemy.select(Attribute.value_json).where(Attribute.key == DRIVER))
            return 1 + max((turn_of(_content(text)) for text in leases.scalars()), default=0)


def turn_of(driver: dict[str, Any]) -> int:
    """The how-manieth run of a database's studies the last one of a study was, from its attribute `driver`."""
    return driver.get("turn", 0)


def _content(text: str | None) -> dict[str, Any]:
    return {} if text is None else json.loads(text)


def _who(text: str | None) -> str:
    content = _content(text)
    return f"process {content['pid']} on {content['host']}" if "token" in content else "another process"


def _this_process() -> dict[str, Any]:
    return {**_this_machine(), "pid": os.getpid()}


def _this_machine() -> dict[str, Any]:
    """Where a process id means the same process: a host since it was started, and one container of those on it."""
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
