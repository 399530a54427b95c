"""The search controller without one of its parts each: does the part earn its place?

They are policies as the others are: `python -m benchmarks.search FOLDER --policies parts`. What a guide is worth is
tried with one that is right, recommending a configuration from around the best tenth of the table, and a wrong one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.search.controller import Tinysearch
from search.strategy.curves import Curves
from search.strategy.strategy import Strategy
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


def _deciding_by(strategy: type[Strategy]) -> type[Tinysearch]:
    return type(strategy.__name__, (Tinysearch,), {"strategy": strategy})


WithoutExpectedLeader = _deciding_by(_OnlyFinishedToBeat)
WithoutFidelity = _deciding_by(_EveryValueAFinalOne)
WithoutModelOfNew = _deciding_by(_NoModelOfNew)
WithoutSuccess = _deciding_by(_FailuresTeachNothing)
