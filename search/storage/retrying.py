"""An Optuna storage that survives a database outage: it retries for minutes.

A call may have been carried out although its answer was lost. So every call that is retried takes effect once:
attributes and intermediate values are overwritten with the same value, a state that is set already counts as set, and a
new trial has a token by which it is found again.
"""

from __future__ import annotations

import copy
import sys
import time
import uuid
import weakref
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any, TypeVar

import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, get_storage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.storage.folder import StudyError
from search.storage.optuna_database import TOKEN, IdempotentStorage
from search.storage.optuna_private import FrozenStudy
from trainer.checks import printable

PATIENCE_SECONDS = 600.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 15.0
LOCAL_TROUBLES = ("locked", "busy", "disk is full", "disk i/o error")  # SQLite has no other error for these
T = TypeVar("T")


class RetryingStorage(BaseStorage):
    """Forwards every call to Optuna's storage; `guard` is called before each write, and `on_fault` after a wait."""

    def __init__(self, storage: IdempotentStorage, name: str, masked: Callable[[str], str]):
        """`name` is used in messages; `masked` removes the password from what the database says."""
        self.guard: Callable[[], None] = lambda: None
        self.on_fault: Callable[[str], None] = lambda text: None
        self.engine = storage.engine
        weakref.finalize(self, self.engine.dispose)  # closes its connections
        self._storage = get_storage(storage)
        self._name, self._masked = name, masked
        self._has_given_up = False

    # Reading.

    def get_study_id_from_name(self, study_name: str) -> int:
        return self._patiently(lambda: self._storage.get_study_id_from_name(study_name))

    def get_study_name_from_id(self, study_id: int) -> str:
        return self._patiently(lambda: self._storage.get_study_name_from_id(study_id))

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return self._patiently(lambda: self._storage.get_study_directions(study_id))

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._patiently(lambda: self._storage.get_study_user_attrs(study_id))

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self._patiently(lambda: self._storage.get_study_system_attrs(study_id))

    def get_all_studies(self) -> list[FrozenStudy]:
        return self._patiently(self._storage.get_all_studies)

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return self._patiently(lambda: self._storage.get_trial_id_from_study_id_trial_number(study_id, trial_number))

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._patiently(lambda: self._storage.get_trial(trial_id))

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return self._patiently(lambda: self._storage.get_all_trials(study_id, deepcopy, states))

    # Writing.

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> int:
        return self._write(lambda: self._storage.create_new_study(directions, study_name))

    def delete_study(self, study_id: int) -> None:
        self._write(lambda: self._storage.delete_study(study_id))

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._write(lambda: self._storage.set_study_user_attr(study_id, key, value))

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._write(lambda: self._storage.set_study_system_attr(study_id, key, value))

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        template = copy.deepcopy(template_trial)
        if template is not None:
            template.system_attrs = {**template.system_attrs, TOKEN: uuid.uuid4().hex}
        return self._write(lambda: self._storage.create_new_trial(study_id, template))

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        self._write(lambda: self._storage.set_trial_param(trial_id, param_name, param_value_internal, distribution))

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        tries = 0

        def write() -> bool:
            nonlocal tries
            tries += 1
            if tries > 1 and self._storage.get_trial(trial_id).state == state:
                return True
            return self._storage.set_trial_state_values(trial_id, state, values)

        return self._write(write)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        self._write(lambda: self._storage.set_trial_intermediate_value(trial_id, step, intermediate_value))

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write(lambda: self._storage.set_trial_user_attr(trial_id, key, value))

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._write(lambda: self._storage.set_trial_system_attr(trial_id, key, value))

    # Details.

    def _write(self, call: Callable[[], T]) -> T:
        def guarded() -> T:
            self.guard()
            return call()

        return self._patiently(guarded)

    def _patiently(self, call: Callable[[], T]) -> T:
        """The call's result, after as many tries as needed. Raises StudyError if waiting does not help."""
        started: float | None = None
        for pause in _pauses():
            try:
                result = call()
                break
            except (StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
                reason = self._masked(reason_of(error))
                if not is_transient(error):
                    raise StudyError(f"{self._name} refuses: {reason}") from error
                if started is None:
                    started = time.monotonic()
                    print(printable(f"{self._name} does not answer, waiting: {reason}"), file=sys.stderr, flush=True)
                if self._has_given_up or time.monotonic() - started > PATIENCE_SECONDS:
                    self._has_given_up = True  # do not wait again for what is written while the driver ends
                    raise StudyError(
                        f"{self._name} did not answer for {PATIENCE_SECONDS:.0f} s ({reason}); "
                        "once it does, the same command resumes"
                    ) from error
            time.sleep(pause)
        if started is not None:
            seconds = time.monotonic() - started
            print(f"{self._name} answers again after {seconds:.0f} s", file=sys.stderr, flush=True)
            self.on_fault(f"the storage did not answer for {seconds:.0f} s")
        return result


def is_transient(error: BaseException) -> bool:
    """Whether the same call may succeed later: the database is down, starting or locked, and the call is valid."""
    cause = _database_error(error)
    if isinstance(cause, sqlalchemy.exc.TimeoutError):  # no connection was free
        return True
    if not isinstance(cause, sqlalchemy.exc.DBAPIError):
        return False
    if type(cause.orig).__module__.startswith("sqlite3"):
        return any(words in str(cause.orig).lower() for words in LOCAL_TROUBLES)
    return cause.connection_invalidated or isinstance(
        cause, (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)
    )


def reason_of(error: BaseException) -> str:
    """What the database says, in one line."""
    cause = _database_error(error) or error
    text = str(getattr(cause, "orig", None) or cause)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(cause).__name__)


def _database_error(error: BaseException | None) -> sqlalchemy.exc.SQLAlchemyError | None:
    """SQLAlchemy's error inside Optuna's, whose message has no details."""
    while error is not None and not isinstance(error, sqlalchemy.exc.SQLAlchemyError):
        error = error.__cause__
    return error


def _pauses() -> Iterator[float]:
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
