"""Ray's OptunaSearch and ASHAScheduler: the real objects, called as Tune's controller calls them, without a cluster.

What Tune does and this repeats: one trial is proposed ahead; every result goes to the scheduler, and to the searcher
unless the scheduler stops the trial; a trial that ends, stopped or not, is reported to both with its last result, so
the searcher takes a stopped trial's last value for a final one.

A trial trains a recorded configuration and not the proposed one. The searcher learns that from its Optuna trial, where
it keeps what it has suggested. The trial ahead is proposed after that.
"""

from __future__ import annotations

import logging
import math
import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna

from benchmarks.search.optuna_peers import distributions, overwrite
from benchmarks.search.policy import ETA, Problem, Proposal, stopping_rungs
from benchmarks.search.table import point, values_at

METRIC, TIME = "value", "training_iteration"
DOCS_ETA = 4  # ASHAScheduler's default


class RayOptunaAsha:
    """`OptunaSearch()` with `ASHAScheduler(grace_period=1)`; a trial that diverged continues, as it does there.

    Trials report at every rung. Hands over `get_best_result`: the trial whose last reported value is best, whether
    it has finished or not.
    """

    def __init__(self, problem: Problem, seed: int, eta: int):
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        logging.getLogger("ray.tune.search.optuna.optuna_search").setLevel(logging.ERROR)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._axes = problem.axes
        self._num_left = problem.num_configurations
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # words about unset options
            self._searcher = OptunaSearch(space=distributions(problem.axes), metric=METRIC, mode="min", seed=seed)
        self._scheduler = ASHAScheduler(
            metric=METRIC, mode="min", grace_period=1, reduction_factor=eta, max_t=problem.num_rungs
        )
        self.rungs = stopping_rungs(problem.num_rungs, eta) if problem.restart else tuple(range(1, problem.num_rungs))
        self._ahead: Proposal | None = None
        self._num_asked = 0
        self._trials: dict[int, Any] = {}
        self._last: dict[int, float] = {}
        self._best: tuple[float, int | None] = (math.inf, None)

    def propose(self) -> Proposal | None:
        proposal, self._ahead = self._ahead or self._ask(), None
        return proposal

    def given(self, key: int, point: np.ndarray) -> None:
        overwrite(self._searcher._ot_trials[str(key)], values_at(self._axes, point))
        self._ahead = self._ask()

    def report(self, key: int, rung: int, value: float) -> bool:
        if self._result(key, rung, value) == "STOP":
            self._complete(key, rung, value)
            return False
        return True

    def finished(self, key: int, rung: int, value: float) -> None:
        self._result(key, rung, value)
        self._complete(key, rung, value)

    def incumbent(self) -> int | None:
        return self._best[1]

    def _ask(self) -> Proposal | None:
        if not self._num_left:
            return None
        self._num_left -= 1
        key = self._num_asked
        self._num_asked += 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            config = self._searcher.suggest(str(key))
        self._trials[key] = SimpleNamespace(trial_id=str(key))
        self._scheduler.on_trial_add(None, self._trials[key])
        return Proposal(key, point(self._axes, config))

    def _result(self, key: int, rung: int, value: float) -> str:
        result = {METRIC: value, TIME: rung}
        decision = self._scheduler.on_trial_result(None, self._trials[key], result)
        if decision != "STOP":
            self._searcher.on_trial_result(str(key), result)
        self._keep_best(key, value)
        return decision

    def _complete(self, key: int, rung: int, value: float) -> None:
        result = {METRIC: value, TIME: rung}
        self._scheduler.on_trial_complete(None, self._trials.pop(key), result)
        self._searcher.on_trial_complete(str(key), result)

    def _keep_best(self, key: int, value: float) -> None:
        """The best of the last values; searched for again only where the best one's own has become worse."""
        value = math.inf if math.isnan(value) else value
        self._last[key] = value
        if value <= self._best[0]:
            self._best = (value, key) if value < math.inf else (math.inf, None)
        elif key == self._best[1]:
            best = min(self._last, key=lambda k: (self._last[k], k))
            self._best = (self._last[best], best) if self._last[best] < math.inf else (math.inf, None)


class RayAsInItsDocs(RayOptunaAsha):
    """With the scheduler's own reduction factor."""

    def __init__(self, problem: Problem, seed: int):
        super().__init__(problem, seed, DOCS_ETA)


class RayEta3(RayOptunaAsha):
    """With the reduction factor that every other peer has."""

    def __init__(self, problem: Problem, seed: int):
        super().__init__(problem, seed, ETA)
