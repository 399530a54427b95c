"""A study store in a database: an Optuna RDB URL such as `postgresql://user:password@host/name` or `sqlite:///file.db`.

Messages and files never contain its password.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import StorageInternalError

from search.storage.address import DRIVERS, Address
from search.storage.folder import Direction, StudyError, note_fault, whole_study
from search.storage.lease import DRIVER, Lease, turn_of
from search.storage.optuna_database import TABLES, IdempotentStorage
from search.storage.optuna_private import FrozenStudy, study_id_of
from search.storage.retrying import RetryingStorage, reason_of


class Database:
    """A study store: the studies of an Optuna database. A lease gives each study at most one driver."""

    def __init__(self, url: str):
        self._address = Address(url)
        self._storage: RetryingStorage | None = None

    def __str__(self) -> str:
        return self._address.shown

    def names(self) -> list[str]:
        if not self._has_tables():
            return []
        ours = [study for study in self._connected().get_all_studies() if "format_version" in study.user_attrs]
        return [study.study_name for study in sorted(ours, key=_last_run)]

    def find(self, name: str) -> optuna.Study | None:
        if not self._has_tables():
            return None
        there = [study.study_name for study in self._connected().get_all_studies()]
        return whole_study(self._connected(), name, str(self)) if name in there else None

    def open(self, name: str) -> RetryingStorage:
        self._has_tables()
        return self._connected()

    @contextlib.contextmanager
    def hold(self, name: str, directions: Sequence[Direction]) -> Iterator[None]:
        storage = self.open(name)
        if directions:
            study = optuna.create_study(
                storage=storage, study_name=name, directions=list(directions), load_if_exists=True
            )
        else:
            study = optuna.load_study(storage=storage, study_name=name)
        lease = Lease(storage.engine, study_id_of(study), name)
        with self._explained():
            lease.acquire()
        storage.guard, storage.on_fault = lease.check, functools.partial(note_fault, study)
        try:
            yield
        finally:
            storage.guard, storage.on_fault = lambda: None, lambda text: None
            lease.release()

    def driver(self, name: str) -> str | None:
        storage = self._connected()
        with self._explained():
            return Lease(storage.engine, storage.get_study_id_from_name(name), name).holder()

    def _connected(self) -> RetryingStorage:
        """The storage, one for all studies. Creates Optuna's tables if there are none."""
        if self._storage is None:
            with self._explained():
                url = self._address.for_sqlalchemy.replace("{", "{{").replace("}", "}}")  # Optuna formats it
                options = {"pool_pre_ping": True, "connect_args": self._address.connect_args}
                optunas = _opened(url, options)
                storage = RetryingStorage(optunas, str(self), self._address.masked)
                made, ours = optunas.get_current_version(), optunas.get_head_version()
            if made != ours:
                raise StudyError(
                    f"{self} was made by another Optuna (its tables are of {made}, not {ours}); use that version here, "
                    "or make a copy and run `optuna storage upgrade --storage URL`"
                )
            self._storage = storage
        return self._storage

    def _has_tables(self) -> bool:
        """Whether Optuna's tables exist. Raises StudyError if the database has other tables; writes nothing."""
        if self._storage is not None:
            return True
        if (file := self._address.file) is not None and not file.exists():  # connecting would create it
            return False
        with self._explained():
            engine = sqlalchemy.create_engine(self._address.for_sqlalchemy, connect_args=self._address.connect_args)
            try:
                there = set(sqlalchemy.inspect(engine).get_table_names())
            finally:
                engine.dispose()
        is_optunas = {"studies", "trials", "version_info"} <= there
        foreign = there - TABLES - {"alembic_version"}
        if foreign and not is_optunas:
            named = ", ".join(sorted(foreign)[:3])
            raise StudyError(f"{self} is not Optuna's: it holds {named}; give tinysearch a database of its own")
        return is_optunas

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns errors of opening the database into a StudyError with a remedy."""
        backend, driver = self._address.backend, self._address.driver
        try:
            yield
        except (ImportError, sqlalchemy.exc.NoSuchModuleError):
            usual = DRIVERS[backend] or "sqlite3"
            remedy = f"run pip install -e '.[{backend}]' in tinysearch's checkout"
            if driver != usual:
                remedy = f"install it, or write {backend}:// for {usual}"
            raise StudyError(f"{self} needs the driver {driver}, which is not installed; {remedy}") from None
        except StudyError:
            raise
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, ValueError, TypeError) as error:
            raise StudyError(f"{self} cannot be opened: {self._address.masked(reason_of(error))}") from None


def _opened(url: str, options: dict[str, Any]) -> IdempotentStorage:
    """Optuna's storage; creates its tables if there are none. Retries, because two processes that do so may collide."""
    pauses = iter((0.5, 1.0, 2.0))
    while True:
        try:
            return IdempotentStorage(url, options, skip_compatibility_check=True)
        except sqlalchemy.exc.DBAPIError as error:
            pause = next(pauses, None)
            overtaken = isinstance(error, sqlalchemy.exc.IntegrityError) or "exists" in str(error)
            if pause is None or not overtaken:
                raise
            time.sleep(pause)


def _last_run(study: FrozenStudy) -> tuple[int, int]:
    return turn_of(study.user_attrs.get(DRIVER, {})), study_id_of(study)
