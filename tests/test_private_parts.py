"""The private parts of Optuna and Ray that the search relies on: each exists and works as it is used.

An upgrade that changes one fails here, and not in a user's study.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search.storage import optuna_private
from search.storage.optuna_private import JournalOperation, backend_of, storage_of, study_id_of, trial_id_of
from search.storage.replay import Replay


def parameters_of(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


# Optuna (search/storage/optuna_private.py).


def test_a_study_and_its_trials_know_where_they_are_kept():
    storage = InMemoryStorage()
    optuna.create_study(storage=storage, study_name="another").ask()  # so that no number is right by being 0
    study = optuna.create_study(storage=storage, study_name="s")
    trial = study.ask()
    assert storage_of(study) is storage
    assert study_id_of(study) == storage.get_study_id_from_name("s") == 1
    assert [study_id_of(listed) for listed in storage.get_all_studies() if listed.study_name == "s"] == [1]
    known = storage.get_trial_id_from_study_id_trial_number(1, trial.number)
    assert trial_id_of(trial) == trial_id_of(study.trials[0]) == known == 1


def test_a_journal_storage_hands_out_what_it_writes_to(tmp_path):
    backend = JournalFileBackend(str(tmp_path / "j.log"))
    assert backend_of(JournalStorage(backend)) is backend
    assert backend_of(InMemoryStorage()) is None


def test_every_operation_of_the_journal_is_known():
    assert Replay()._takers.keys() == set(JournalOperation)


def test_a_journal_storage_decodes_distributions_by_the_function_that_is_replaced(tmp_path, monkeypatch):
    file = str(tmp_path / "j.log")
    study = optuna.create_study(storage=JournalStorage(JournalFileBackend(file)))
    for _ in range(3):
        study.add_trial(
            optuna.trial.create_trial(value=1.0, params={"x": 0.5}, distributions={"x": FloatDistribution(0, 1)})
        )
    asked: list[str] = []
    known = optuna_private.known_distribution
    monkeypatch.setattr(optuna_private, "known_distribution", lambda text: asked.append(text) or known(text))
    with optuna_private.distributions_decoded_once():
        JournalStorage(JournalFileBackend(file))
    assert len(asked) == 3
    JournalStorage(JournalFileBackend(file))
    assert len(asked) == 3


# Optuna's database (search/storage/optuna_database.py).


def test_the_tables_have_the_columns_that_are_read_and_written():
    from optuna.storages._rdb import models

    from search.storage.optuna_database import TABLES, Attribute

    assert {"studies", "trials", "version_info", "study_user_attributes"} <= TABLES
    assert {"study_id", "key", "value_json"} <= set(Attribute.__table__.columns.keys())
    assert {"trial_id", "key", "value_json"} <= set(models.TrialSystemAttributeModel.__table__.columns.keys())
    assert "trial_id" in models.TrialModel.__table__.columns.keys()


def test_a_database_creates_a_trial_by_the_method_that_is_extended(tmp_path):
    from search.storage.optuna_database import TOKEN, IdempotentStorage

    storage = IdempotentStorage(f"sqlite:///{tmp_path}/studies.db")
    try:
        assert storage.engine.dialect.name == "sqlite"
        study = optuna.create_study(storage=storage)
        template = optuna.trial.create_trial(state=TrialState.RUNNING, system_attrs={TOKEN: "t"})
        ids = {storage.create_new_trial(study_id_of(study), template) for _ in range(2)}
        assert len(ids) == 1
    finally:
        storage.engine.dispose()


# Ray (search/driver/ray_private.py). No Ray is started.


def test_ray_takes_the_folders_that_it_has_no_public_options_for(tmp_path):
    import ray

    from search.driver import ray_private

    with pytest.raises(RuntimeError, match="_no_such"):  # it refuses what it does not know, before it starts
        ray.init(address="local", _no_such=1)
    for name in ray_private.folders(tmp_path, "/dev/shm"):
        assert f'kwargs.pop("{name}"' in inspect.getsource(ray.init)


def test_what_ray_prints_of_lost_workers_goes_through_the_function_that_is_replaced(monkeypatch):
    from ray._private import worker

    from search.driver import ray_private

    rays = worker.print_to_stdstream
    assert parameters_of(rays) == parameters_of(ray_private._print_nothing)
    assert "print_to_stdstream" in inspect.getsource(worker.listen_error_messages)
    monkeypatch.setattr(worker, "print_to_stdstream", rays)  # put back after the test
    ray_private.keep_quiet_about_lost_workers()
    assert worker.print_to_stdstream is ray_private._print_nothing


def test_tune_makes_the_manager_of_actors_that_it_is_given():
    from ray.tune.execution.tune_controller import TuneController

    from search.driver.tune import ActorManager

    rays = ActorManager.__mro__[1]
    assert rays.__module__.startswith("ray.")
    assert parameters_of(rays._actor_task_failed) == parameters_of(ActorManager._actor_task_failed)
    made_by = TuneController.__init__.__globals__["RayActorManager"]
    assert made_by is ActorManager and "RayActorManager(" in inspect.getsource(TuneController.__init__)


def test_a_trial_of_tune_has_what_the_scheduler_reads_and_sets(tmp_path):
    from ray.tune.experiment import Trial

    trial = Trial("no trainable", stub=True)
    assert trial.status == trial.PENDING and trial.trial_id and trial.num_failures == 0
    trial.max_failures = 3
    assert trial.should_recover()
    assert isinstance(Trial.error_file, property)
