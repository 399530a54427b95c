"""What the search uses of Optuna's private parts, except those of its database tables (optuna_database.py).

Optuna may change any of it in a minor release. So pyproject.toml excludes the first release that was not checked, and
tests/test_private_parts.py fails if a part differs from its use here. All of it was checked with Optuna 5.0.
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
from optuna.study._frozen import FrozenStudy as FrozenStudy  # a study as storages list it; its type has no public name
from optuna.trial import FrozenTrial

known_distribution = functools.lru_cache(maxsize=1000)(json_to_distribution)


def storage_of(study: optuna.Study) -> BaseStorage:
    """A study's storage. The recorder uses it for what `Study` and `Trial` have no method for, such as WAITING."""
    return study._storage


def study_id_of(study: optuna.Study | FrozenStudy) -> int:
    """A study's id in its storage. The public way asks the storage once more."""
    return study._study_id


def trial_id_of(trial: optuna.Trial | FrozenTrial) -> int:
    """A trial's id in its storage. The public way asks the storage once more."""
    return trial._trial_id


def backend_of(storage: BaseStorage) -> BaseJournalBackend | None:
    """The backend of a journal storage, so that a step of the study can be one write; None for other storages."""
    return storage._backend if isinstance(storage, optuna.storages.JournalStorage) else None


@contextlib.contextmanager
def distributions_decoded_once() -> Iterator[None]:
    """Decode each distribution of a journal only once. Optuna decodes them for each trial, half of its reading time."""
    optunas = journal_storage.json_to_distribution
    journal_storage.json_to_distribution = known_distribution
    try:
        yield
    finally:
        journal_storage.json_to_distribution = optunas
