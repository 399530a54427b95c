"""What searches for a front of two metrics: the brain, and its peers. Values are pairs, lower is better in both."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np
import optuna
from optuna.trial import TrialState

from benchmarks.search.brain import Tinysearch
from benchmarks.search.entrants import TINYSEARCH
from benchmarks.search.optuna_peers import distributions, overwrite
from benchmarks.search.peers import RandomSearch
from benchmarks.search.policy import Problem, Proposal
from benchmarks.search.table import point, values_at
from search.record import pareto_front

METRICS = ["loss", "train_seconds"]


class RandomPairs(RandomSearch):
    """Random search: its front is that of all that it finished."""

    def __init__(self, problem: Problem, seed: int):
        super().__init__(problem, seed)
        self._finished: list[int] = []

    def finished(self, key: int, rung: int, value: tuple[float, float]) -> None:  # type: ignore[override]
        self._finished.append(key)

    def incumbent(self) -> int | None:
        return None

    def front(self) -> list[int]:
        return self._finished


class OptunaPairs:
    """One of Optuna's samplers for several objectives; no trial is stopped, for Optuna cannot."""

    rungs: tuple[int, ...] = ()

    def __init__(self, problem: Problem, sampler: optuna.samplers.BaseSampler):
        self._axes = problem.axes
        self._distributions = distributions(problem.axes)
        self._num_left = problem.num_configurations
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        self._trials: dict[int, optuna.Trial] = {}

    def propose(self) -> Proposal | None:
        if not self._num_left:
            return None
        self._num_left -= 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = self._study.ask(self._distributions)
        self._trials[trial.number] = trial
        return Proposal(trial.number, point(self._axes, trial.params))

    def given(self, key: int, point: np.ndarray) -> None:
        overwrite(self._trials[key], values_at(self._axes, point))

    def report(self, key: int, rung: int, value: tuple[float, float]) -> bool:
        return True

    def finished(self, key: int, rung: int, value: tuple[float, float]) -> None:
        trial = self._trials.pop(key)
        if math.isnan(value[0]):
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, value)

    def incumbent(self) -> int | None:
        return None

    def front(self) -> list[int]:
        return [trial.number for trial in self._study.best_trials]


class TinysearchPairs(Tinysearch):
    """The brain with two metrics; its front is what `tinysearch best --pareto` prints."""

    metrics = METRICS

    def report(self, key: int, rung: int, value: tuple[float, float]) -> bool:  # type: ignore[override]
        return self.study.report(key, {**dict(zip(METRICS, value, strict=True)), "tokens": rung})

    def finished(self, key: int, rung: int, value: tuple[float, float]) -> None:  # type: ignore[override]
        self.study.report(key, {**dict(zip(METRICS, value, strict=True)), "tokens": self._end})

    def incumbent(self) -> int | None:
        return None

    def front(self) -> list[int]:
        return [record.number for record in pareto_front(self.study.records.values(), self.study.metrics)]


POLICIES: dict[str, Callable] = {
    "random": RandomPairs,
    "nsga2": lambda problem, seed: OptunaPairs(problem, optuna.samplers.NSGAIISampler(seed=seed)),
    "tpe": lambda problem, seed: OptunaPairs(problem, optuna.samplers.TPESampler(seed=seed)),
    TINYSEARCH: TinysearchPairs,
}
