"""What a driver leaves in a database if it is killed between two of its writes."""

from __future__ import annotations

import copy
import functools
import sqlite3
from collections.abc import Callable
from typing import Any

from optuna.storages import RDBStorage

from tests.support.simulated import Workers

WRITES = [
    "create_new_study",
    "_create_new_trial",
    "set_study_user_attr",
    "set_study_system_attr",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_trial_intermediate_value",
    "set_trial_state_values",
]


def images_of_database(storage: RDBStorage, workers: Workers) -> list[tuple[bytes, Workers]]:
    """Fills while `storage` is written to: what a kill right before each write leaves there, and of the workers."""
    images: list[tuple[bytes, Workers]] = []

    def photographed(write: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        images.append((connection_of(storage).serialize(), copy.deepcopy(workers)))
        return write(*args, **kwargs)

    for name in WRITES:
        setattr(storage, name, functools.partial(photographed, getattr(storage, name)))
    return images


def connection_of(storage: RDBStorage) -> sqlite3.Connection:
    return storage.engine.raw_connection().driver_connection
