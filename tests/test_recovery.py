"""A driver that is killed between any two writes: the study goes on and ends as if nothing had happened."""

from __future__ import annotations

import copy
import functools
import math
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from search.journal import Journal
from search.loading import parse_space
from search.record import OUT_OF_MEMORY, TrialRecord
from search.settings import StudySettings
from search.study import Study

RUNGS = (1000, 3000, 9000)
NUM_TRIALS = 7
SEED = 45
SPACE = """
family: hybrid
budget: {trials: 7, min_tokens: 1000, max_tokens: 9000, eta: 3}
limits: {tokens_per_second: {min: 10}, train_seconds: {max: 100}}
parameters:
  d_model: {value: 16}
  attn_layer_idx: {value: 0}
  n_layers: {min: 2, max: 6, default: 3}
  learning_rate: {min: 1e-4, max: 1e-1, log: true, default: 1e-3}
presets:
  guide: {n_layers: 3}
"""
PARETO = SPACE.replace("budget:", "metrics: [loss, tokens_per_second]\nbudget:")
OUTCOMES = {"finished", "stopped", "diverged", "infeasible", "out of memory"}
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


class Workers:
    """What outlives a driver: the checkpoints, each with the measurements that its trial has taken so far."""

    def __init__(self) -> None:
        self.taken: dict[int, list[dict[str, Any]]] = {}
        self.trained: list[tuple[int, int]] = []  # trial and rung, as often as one was trained to it

    def run(self, study: Study) -> None:
        """Train, one trial at a time, until there is nothing to do."""
        while (proposal := study.propose()) is not None:
            record, goes_on = study.records[proposal.number], True
            while goes_on and not record.has_ended:
                taken = self.taken.setdefault(proposal.number, [])
                unreported = [m for m in taken if m["tokens"] not in record.measurements]
                if not unreported and _does_not_fit(proposal.values):
                    study.finish(proposal.number, OUT_OF_MEMORY, "it does not fit")
                    break
                if not unreported:
                    rung = RUNGS[len(taken)]
                    self.trained.append((proposal.number, rung))
                    taken.append(_measurement(proposal.values, rung))
                    unreported = taken[-1:]
                goes_on = study.report(proposal.number, {**unreported[0], "environment": {"num_threads": 1}})


def _does_not_fit(values: dict[str, Any]) -> bool:
    return values["n_layers"] == 6


def _measurement(values: dict[str, Any], tokens: int) -> dict[str, Any]:
    loss = 2 + abs(math.log10(values["learning_rate"]) + 2) + 1000 / tokens
    speed = 100.0 / values["n_layers"]
    if values["n_layers"] == 5 and tokens > RUNGS[0]:
        loss = math.nan
    seconds = 1000 if values["n_layers"] == 2 and values["learning_rate"] > 3e-3 else 10
    return {"tokens": tokens, "loss": loss, "tokens_per_second": speed, "train_seconds": seconds}


def settings(space: str) -> StudySettings:
    parsed = parse_space(space)
    corpus = {"digest": "d", "about": "text", "paths": []}
    return StudySettings(space=parsed, budget=parsed.budget(), seed=SEED, corpus=corpus)


def go_on(storage: BaseStorage, space: str, workers: Workers) -> None:
    """What `tinysearch run` does to a study, whether it is there, not there, or half made."""
    names = {summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)}
    stored = optuna.load_study(study_name="study", storage=storage) if "study" in names else None
    if stored is not None and "format_version" in stored.user_attrs:
        study = Study(stored, StudySettings.from_attrs(stored.user_attrs))
    else:
        study = Study.create(storage, "study", settings(space))
    workers.run(study)


def described(storage: BaseStorage) -> list[Any]:
    """All that a study says of itself and its trials, but for the times; NaN as text, which equals itself."""
    study = optuna.load_study(study_name="study", storage=storage)
    trials = [
        (t.number, t.state.name, t.values, t.params, t.user_attrs, t.system_attrs, t.intermediate_values, t.constraints)
        for t in study.get_trials()
    ]
    return [study.user_attrs, study.metric_names, *(repr([_sorted(part) for part in trial]) for trial in trials)]


def records_of(storage: BaseStorage) -> list[TrialRecord]:
    return [TrialRecord.of(t) for t in optuna.load_study(study_name="study", storage=storage).get_trials()]


def _sorted(part: Any) -> Any:
    return sorted(part.items()) if isinstance(part, dict) else part


def check_whole(storage: BaseStorage, workers: Workers) -> None:
    """Every trial has ended and has one record of each rung; none was trained twice."""
    trials = optuna.load_study(study_name="study", storage=storage).get_trials()
    assert all(trial.state.is_finished() for trial in trials)
    configurations = [tuple(trial.user_attrs["values"].items()) for trial in trials]
    assert len(set(configurations)) == len(trials) == NUM_TRIALS
    assert len(set(workers.trained)) == len(workers.trained)
    for trial in trials:
        record = TrialRecord.of(trial)
        assert tuple(record.measurements) == RUNGS[: len(record.measurements)]
        assert len(record.measurements) == len(workers.taken.get(trial.number, []))


def images_of_database(storage: RDBStorage, workers: Workers) -> list[tuple[bytes, Workers]]:
    """Fills while `storage` is written to: what a kill right before each write leaves there, and of the workers."""
    images: list[tuple[bytes, Workers]] = []

    def photographed(write: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        images.append((_connection(storage).serialize(), copy.deepcopy(workers)))
        return write(*args, **kwargs)

    for name in WRITES:
        setattr(storage, name, functools.partial(photographed, getattr(storage, name)))
    return images


def _connection(storage: RDBStorage) -> sqlite3.Connection:
    return storage.engine.raw_connection().driver_connection


@pytest.mark.slow  # some 100 studies
def test_a_driver_killed_at_any_write_to_a_database_leaves_a_study_that_ends_the_same():
    undisturbed, workers = RDBStorage("sqlite:///:memory:"), Workers()
    images = images_of_database(undisturbed, workers)
    go_on(undisturbed, SPACE, workers)
    check_whole(undisturbed, workers)
    expected = described(undisturbed)
    assert {record.outcome for record in records_of(undisturbed)} >= OUTCOMES
    assert len(images) > 80
    storage = RDBStorage("sqlite:///:memory:")  # one for all: its engine remembers the statements it has compiled
    for k, (image, left) in enumerate(images):
        _connection(storage).deserialize(image)
        go_on(storage, SPACE, left)
        check_whole(storage, left)
        assert described(storage) == expected, f"killed before write {k}"


@pytest.mark.slow  # some 100 studies each
@pytest.mark.parametrize("space", [SPACE, PARETO], ids=["one metric", "two metrics"])
def test_a_driver_killed_at_any_line_of_a_journal_leaves_a_study_that_ends_the_same(
    space: str, tmp_path: Path, monkeypatch
):
    workers, images = Workers(), []
    write = JournalFileBackend.append_logs

    def photographed(self: Journal, logs: list[dict[str, Any]]) -> None:
        images.extend(copy.deepcopy(workers) for _ in logs)
        write(self, logs)

    with monkeypatch.context() as patched:
        patched.setattr(JournalFileBackend, "append_logs", photographed)
        go_on(JournalStorage(Journal(str(tmp_path / "whole.log"))), space, workers)
    undisturbed = JournalStorage(Journal(str(tmp_path / "whole.log")))
    lines = (tmp_path / "whole.log").read_bytes().splitlines(keepends=True)
    assert len(lines) == len(images)
    for k, left in enumerate(images):
        (tmp_path / f"{k}.log").write_bytes(b"".join(lines[:k]))
        storage = JournalStorage(Journal(str(tmp_path / f"{k}.log")))
        go_on(storage, space, left)
        check_whole(storage, left)
        assert described(storage) == described(undisturbed), f"killed before line {k}"
