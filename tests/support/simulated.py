"""A small study and its workers, without Ray and training: a driver with any storage, from any state."""

from __future__ import annotations

import math
from typing import Any

import optuna
from optuna.storages import BaseStorage

from search.space.loading import parse_space
from search.storage.folder import FAULTS, whole_study
from search.storage.lease import DRIVER
from search.storage.retrying import TOKEN
from search.study.record import TrialRecord
from search.study.settings import StudySettings
from search.study.study import Study
from search.worker.messages import OUT_OF_MEMORY

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


class Workers:
    """What outlives a driver: the checkpoints, each with the measurements that its trial has taken so far."""

    def __init__(self) -> None:
        self.taken: dict[int, list[dict[str, Any]]] = {}
        self.trained: list[tuple[int, int]] = []  # trial and rung, as often as one was trained to it

    def run(self, study: Study) -> None:
        """Train, one trial at a time, until there is nothing to do."""
        while (proposal := study.propose()) is not None:
            record, continues = study.records[proposal.number], True
            while continues and not record.has_ended:
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
                continues = study.report(proposal.number, {**unreported[0], "environment": {"num_threads": 1}})


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
    search = parsed.spec.search
    return StudySettings(
        space=parsed,
        budget=parsed.budget(),
        seed=SEED,
        corpus=corpus,
        sampler=search.sampler,
        stopping=search.stopping,
    )


def resume_study(storage: BaseStorage, space: str, workers: Workers) -> None:
    """What `tinysearch run` does to a study, whether it is there, not there, or half made."""
    names = {summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)}
    stored = whole_study(storage, "study", "the storage") if "study" in names else None
    made = settings(space)
    workers.run(Study(stored, made) if stored is not None else Study.create(storage, "study", made))


def described(storage: BaseStorage) -> list[str]:
    """All that a study says of itself and its trials, but for the times and what only a database has."""
    study = optuna.load_study(study_name="study", storage=storage)
    about = {key: value for key, value in study.user_attrs.items() if key not in (DRIVER, FAULTS)}
    lines = [repr(sorted(about.items())), repr(study.metric_names)]
    for trial in study.get_trials():
        system = {key: value for key, value in trial.system_attrs.items() if key != TOKEN}
        parts = [trial.params, trial.user_attrs, system, trial.intermediate_values, trial.constraints]
        lines.append(repr([trial.number, trial.state.name, trial.values, *(sorted(part.items()) for part in parts)]))
    return lines


def records_of(storage: BaseStorage) -> list[TrialRecord]:
    return [TrialRecord.of(t) for t in optuna.load_study(study_name="study", storage=storage).get_trials()]


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
