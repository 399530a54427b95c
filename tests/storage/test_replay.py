"""A journal replayed into fewer entries gives the same as Optuna reading all of them."""

from __future__ import annotations

import random
from pathlib import Path

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search.storage.journal import Journal
from search.storage.replay import Replay

DISTRIBUTIONS = {
    "x": FloatDistribution(0.1, 10, log=True),
    "n": IntDistribution(1, 8, step=1),
    "word": CategoricalDistribution(("a", "b", None)),
}


def random_history(file: Path, seed: int) -> None:
    """Two processes that do all that a storage can be asked for, in any order; what it refuses is written too."""
    rng = random.Random(seed)
    storages = [JournalStorage(JournalFileBackend(str(file))) for _ in range(2)]
    study_ids = [storages[0].create_new_study([optuna.study.StudyDirection.MINIMIZE], name) for name in "pq"]
    trial_ids: list[int] = []

    def create(storage: JournalStorage) -> None:
        template = None
        if rng.random() < 0.5:
            params = {"x": rng.uniform(0.1, 10), "n": rng.randint(1, 8), "word": rng.choice(("a", "b", None))}
            state = rng.choice((TrialState.RUNNING, TrialState.WAITING, TrialState.COMPLETE))
            template = optuna.trial.create_trial(
                state=state,
                value=1.5 if state == TrialState.COMPLETE else None,
                params=params,
                distributions=DISTRIBUTIONS,
                user_attrs={"values": params},
                intermediate_values={3: 0.5},
            )
        trial_ids.append(storage.create_new_trial(rng.choice(study_ids), template))

    def set_state(storage: JournalStorage) -> None:
        state = rng.choice((TrialState.RUNNING, TrialState.WAITING, *[s for s in TrialState if s.is_finished()]))
        storage.set_trial_state_values(rng.choice(trial_ids), state, rng.choice((None, [0.5], [2])))

    def set_param(storage: JournalStorage) -> None:
        name = rng.choice(list(DISTRIBUTIONS))
        storage.set_trial_param(rng.choice(trial_ids), name, 1.0, DISTRIBUTIONS[name])

    doings = (
        create,
        set_state,
        set_param,
        lambda s: s.set_trial_user_attr(rng.choice(trial_ids), rng.choice("ab"), rng.choice((1, [2], {"c": None}))),
        lambda s: s.set_trial_system_attr(rng.choice(trial_ids), rng.choice("ab"), rng.random()),
        lambda s: s.set_trial_intermediate_value(rng.choice(trial_ids), rng.randint(0, 3), rng.choice((1, 0.5))),
        lambda s: s.set_study_user_attr(rng.choice(study_ids), rng.choice("ab"), rng.random()),
        lambda s: s.set_study_system_attr(rng.choice(study_ids), rng.choice("ab"), rng.random()),
    )
    create(storages[0])
    for _ in range(60):
        try:
            rng.choice(doings)(rng.choice(storages))
        except (optuna.exceptions.UpdateFinishedTrialError, KeyError):
            continue
    if rng.random() < 0.3:
        storages[0].delete_study(study_ids[1])


@pytest.mark.parametrize("seed", range(30))
def test_a_replayed_journal_is_what_optuna_makes_of_it(tmp_path: Path, seed: int):
    file = tmp_path / "journal.log"
    random_history(file, seed)
    ours, theirs = (JournalStorage(backend(str(file))) for backend in (Journal, JournalFileBackend))
    assert [vars(study) for study in ours.get_all_studies()] == [vars(study) for study in theirs.get_all_studies()]
    for study in theirs.get_all_studies():
        assert ours.get_all_trials(study._study_id) == theirs.get_all_trials(study._study_id)


def test_an_entry_for_each_trial_is_left():
    replay = Replay()
    replay.take({"op_code": 0, "study_name": "s", "directions": [1]})
    for number in range(3):
        replay.take({"op_code": 4, "study_id": 0, "datetime_start": None})
        for value in range(5):
            replay.take({"op_code": 8, "trial_id": number, "user_attr": {"a": value}})
    for value in range(5):
        replay.take({"op_code": 2, "study_id": 0, "user_attr": {"learned": value}})
    assert [entry["op_code"] for entry in replay.entries] == [0, 4, 4, 4, 2]
    assert [entry["user_attrs"] for entry in replay.entries[1:4]] == [{"a": 4}] * 3
    assert replay.entries[-1]["user_attr"] == {"learned": 4}
