"""What searches for a front of two metrics: the controller and its peers. Values are pairs, lower is better in both."""

from __future__ import annotations

import math
from collections.abc import Callable

import optuna
from optuna.trial import TrialState

from benchmarks.search.controller import Tinysearch
from benchmarks.search.entrants import TINYSEARCH
from benchmarks.search.optuna_peers import OptunaAsked
from benchmarks.search.peers import RandomSearch
from benchmarks.search.policy import Problem
from search.study.record import pareto_front

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


class OptunaPairs(OptunaAsked):
    """One of Optuna's samplers for several objectives; no trial is stopped, for Optuna cannot."""

    def __init__(self, problem: Problem, sampler: optuna.samplers.BaseSampler):
        super().__init__(problem, directions=["minimize", "minimize"], sampler=sampler)

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
    """The search controller with two metrics; its front is what `tinysearch best --pareto` prints."""

    metrics = METRICS

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
