"""The search controller without one of its parts each, or with another: does the part earn its place?

They are policies as the others are: `python -m benchmarks.search FOLDER --policies parts`. What a guide is worth is
tried with one that is right, recommending a configuration from around the best tenth of the table, and a wrong one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.search.controller import Tinysearch
from search.strategy.curves import Curves
from search.strategy.strategy import PREFERENCE, Strategy, expected_improvement
from search.strategy.success import SuccessModel
from search.strategy.surrogate import Observations, Posterior


class _OnlyFinishedToBeat(Strategy):
    def _incumbent(self, curves: Curves, mean: np.ndarray, best: float) -> float:
        return best


class _EveryValueAFinalOne(Strategy):
    """Each trial counts with its latest value, as if it were that of its end: what Ray tells its searcher."""

    def _observations(self, curves: Curves, rng: np.random.Generator) -> Observations:
        is_latest = curves.rungs == curves.deepest[curves.owners]
        ends = np.full(is_latest.sum(), self._last)
        latest = replace(curves, owners=curves.owners[is_latest], rungs=ends, values=curves.values[is_latest])
        return super()._observations(latest, rng)


class _NoModelOfNew(Strategy):
    """New configurations are random with the middle one's acquisition value."""

    def _new(
        self, curves: Curves, posterior: Posterior, mean: np.ndarray, best: float, rng: np.random.Generator
    ) -> tuple[dict[str, Any], float]:
        _, acquisition = super()._new(curves, posterior, mean, best, rng)
        return self._candidates.random(rng), acquisition


class _FailuresTeachNothing(Strategy):
    def _success(self, curves: Curves) -> SuccessModel:
        return SuccessModel(np.zeros((0, 0)), np.zeros(0, dtype=bool), np.zeros(0))


class _ExpectedCost(Strategy):
    """Divides by the training that a trial is expected to take, not by all that is left: weak ones pause at each rung.

    A rung lets a trial pass with the chance 1 - c, where c is the learned correlation of its values with the last ones.
    """

    def _costs(self) -> np.ndarray:
        """From after each number of rungs, (R,), in full trainings; [0] is that of a new trial."""
        across, own, _ = self.model.rung_kernels(self.model.theta)
        correlations = (across[:, -1] + own[:, -1]) / (across[-1, -1] + own[-1, -1])
        costs = np.diff(self._share_done)
        for rung in reversed(range(len(costs) - 1)):
            costs[rung] += (1 - correlations[rung]) * costs[rung + 1]
        return costs

    def _of_paused(
        self, curves: Curves, paused: np.ndarray, mean: np.ndarray, sd: np.ndarray, best: float
    ) -> tuple[np.ndarray, np.ndarray]:
        _, chances = super()._of_paused(curves, paused, mean, sd, best)
        costs = self._costs()[curves.deepest[paused] + 1]
        return expected_improvement(mean[paused], sd[paused], best) / costs, chances

    def _new(
        self, curves: Curves, posterior: Posterior, mean: np.ndarray, best: float, rng: np.random.Generator
    ) -> tuple[dict[str, Any], float]:
        values, acquisition = super()._new(curves, posterior, mean, best, rng)
        return values, acquisition / self._costs()[0] / PREFERENCE


def _deciding_by(strategy: type[Strategy]) -> type[Tinysearch]:
    return type(strategy.__name__, (Tinysearch,), {"strategy": strategy})


ExpectedCost = _deciding_by(_ExpectedCost)
WithoutExpectedLeader = _deciding_by(_OnlyFinishedToBeat)
WithoutFidelity = _deciding_by(_EveryValueAFinalOne)
WithoutModelOfNew = _deciding_by(_NoModelOfNew)
WithoutSuccess = _deciding_by(_FailuresTeachNothing)
