"""The brain without one of its parts each: does the part earn its place?

They are policies as the others are: `python -m benchmarks.search FOLDER --policies parts`. What a guide is worth is
tried with one that is right, recommending a configuration from around the best tenth of the table, and a wrong one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.search.brain import Tinysearch
from search.strategy import Curve, Strategy
from search.success import SuccessModel
from search.surrogate import Observations, Posterior


class _NoGrace(Strategy):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.grace = 0


class _NarrowStart(Strategy):
    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.num_first = 6


class _NothingDue(Strategy):
    def _due(self, curves: Sequence[Curve], paused: list[Curve]) -> list[int]:
        return []


class _OnlyFinishedToBeat(Strategy):
    def _to_beat(self, curves: Sequence[Curve], posterior: Posterior, best: float) -> float:
        return best


class _EveryValueAFinalOne(Strategy):
    """Each trial counts with its latest value, as if it were that of its end: what Ray tells its searcher."""

    def _observations(self, curves: Sequence[Curve], rng: np.random.Generator) -> Observations:
        latest = [Curve(c.number, c.point, {self._last: c.values[c.rung]}) for c in curves if c.values]
        return super()._observations(latest, rng)


class _NoModelOfNew(Strategy):
    """New configurations are random and promise what the middle one of the candidates does."""

    def _new(
        self, curves: Sequence[Curve], posterior: Posterior, best: float, rng: np.random.Generator
    ) -> tuple[dict[str, Any], float]:
        _, promise = super()._new(curves, posterior, best, rng)
        return self._candidates.random(rng), promise


class _FailuresTeachNothing(Strategy):
    def _success(self, curves: Sequence[Curve]) -> SuccessModel:
        return SuccessModel(np.zeros((0, 0)), np.zeros(0, dtype=bool), np.zeros(0))


class _Unbelieving(Strategy):
    """A guide's presets are trained first, and nothing more is made of them."""

    def _belief(self, points: np.ndarray, num_trials: int) -> np.ndarray:
        return np.ones(len(points))


def _deciding_by(strategy: type[Strategy]) -> type[Tinysearch]:
    return type(strategy.__name__, (Tinysearch,), {"strategy": strategy})


WithoutGrace = _deciding_by(_NoGrace)
WithoutWideStart = _deciding_by(_NarrowStart)
WithoutOneInThree = _deciding_by(_NothingDue)
WithoutExpectedLeader = _deciding_by(_OnlyFinishedToBeat)
WithoutFidelity = _deciding_by(_EveryValueAFinalOne)
WithoutModelOfNew = _deciding_by(_NoModelOfNew)
WithoutSuccess = _deciding_by(_FailuresTeachNothing)
Unbelieving = _deciding_by(_Unbelieving)
