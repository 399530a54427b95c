"""Optuna through its ask-and-tell interface: TPE without stopping, and TPE with its Hyperband pruner."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from benchmarks.search.policy import ETA, Problem, Proposal, stopping_rungs
from benchmarks.search.table import Axis, point, values_at


def distributions(axes: tuple[Axis, ...]) -> dict[str, BaseDistribution]:
    """An Optuna distribution for each hyperparameter of a table: levels by number, everything else from 0 to 1."""
    return {axis.name: _distribution(axis) for axis in axes}


def overwrite(trial: optuna.Trial, values: Mapping[str, float | int]) -> None:
    """Make `values` the parameters of a trial under way, in its study and in its own copy, as if it had drawn them.

    Optuna has no call for it. In memory its storage replaces what a trial has; a database would refuse.
    """
    for name, distribution in trial.distributions.items():
        internal = distribution.to_internal_repr(values[name])
        trial.storage.set_trial_param(trial._trial_id, name, internal, distribution)
        trial._cached_frozen_trial.params[name] = values[name]


class OptunaAsked:
    """What every policy that asks an Optuna study has in common: how it proposes, and hears what it was given."""

    rungs: tuple[int, ...] = ()

    def __init__(self, problem: Problem, **study: Any):
        """`study` are options of `optuna.create_study`."""
        self._axes = problem.axes
        self._distributions = distributions(problem.axes)
        self._num_left = problem.num_configurations
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(**study)
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


class OptunaTPE(OptunaAsked):
    """TPE as Optuna has it by default, no trial stopped. Hands over `study.best_trial`: the best finished one."""

    def __init__(self, problem: Problem, seed: int, pruner: optuna.pruners.BasePruner | None = None):
        super().__init__(
            problem,
            study_name=f"seed {seed}",  # Hyperband's brackets hang on it
            sampler=optuna.samplers.TPESampler(seed=seed),
            pruner=pruner or optuna.pruners.NopPruner(),
        )
        self._best: tuple[float, int | None] = (math.inf, None)

    def report(self, key: int, rung: int, value: float) -> bool:
        trial = self._trials[key]
        trial.report(value, rung)
        if trial.should_prune():
            self._study.tell(self._trials.pop(key), state=TrialState.PRUNED)
            return False
        return True

    def finished(self, key: int, rung: int, value: float) -> None:
        trial = self._trials.pop(key)
        trial.report(value, rung)
        if math.isnan(value):
            self._study.tell(trial, state=TrialState.FAIL)  # as `study.optimize` tells a NaN
            return
        self._study.tell(trial, value)
        self._best = min(self._best, (value, key))

    def incumbent(self) -> int | None:
        return self._best[1]  # study.best_trial, without its search through all trials


class OptunaHyperband(OptunaTPE):
    """TPE with HyperbandPruner, reporting at its rungs. Hands over `study.best_trial`, which is never a pruned one."""

    def __init__(self, problem: Problem, seed: int):
        pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=problem.num_rungs, reduction_factor=ETA)
        super().__init__(problem, seed, pruner)
        self.rungs = stopping_rungs(problem.num_rungs)


def _distribution(axis: Axis) -> BaseDistribution:
    if not axis.num_levels:
        return FloatDistribution(0.0, 1.0)
    if axis.is_ordered:
        return IntDistribution(0, axis.num_levels - 1)
    return CategoricalDistribution(tuple(range(axis.num_levels)))
