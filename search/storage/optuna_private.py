"""What the search takes from Optuna's private parts, all of it but its database's tables (optuna_database.py).

Optuna may change any of it in a minor release, so pyproject.toml names the first that has not been looked at, and
tests/test_private_parts.py fails where a part is not as it is used here. All of it was seen in Optuna 5.0.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import optuna
from optuna.distributions import json_to_distribution
from optuna.storages import BaseStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.storages.journal import _storage as journal_storage
from optuna.storages.journal._storage import JournalOperation as JournalOperation  # the operations of its journal
from optuna.study._frozen import FrozenStudy as FrozenStudy  # a study as storages list it; no public name has its type
from optuna.trial import FrozenTrial

known_distribution = functools.lru_cache(maxsize=1000)(json_to_distribution)


def storage_of(study: optuna.Study) -> BaseStorage:
    """Where a study is kept: the recorder writes there what `Study` and `Trial` have no method for, such as WAITING."""
    return study._storage


def study_id_of(study: optuna.Study | FrozenStudy) -> int:
    """A study's number in its storage, by which storages know it. The public way asks the storage once more."""
    return study._study_id


def trial_id_of(trial: optuna.Trial | FrozenTrial) -> int:
    """A trial's number in its storage, by which storages know it. The public way asks the storage once more."""
    return trial._trial_id


def backend_of(storage: BaseStorage) -> BaseJournalBackend | None:
    """What a journal storage reads and writes, for a step of the study to be one write; None of other storages."""
    return storage._backend if isinstance(storage, optuna.storages.JournalStorage) else None


@contextlib.contextmanager
def distributions_decoded_once() -> Iterator[None]:
    """Optuna decodes the distributions anew for each trial of a journal, which is half of its time to take one."""
    optunas = journal_storage.json_to_distribution
    journal_storage.json_to_distribution = known_distribution
    try:
        yield
    finally:
        journal_storage.json_to_distribution = optunas
