"""The baselines that split a strategy's gain: random search, successive halving alone, the first epoch alone.

The peers that search with Optuna and Ray are in optuna_peers.py and ray_peers.py.
"""

from __future__ import annotations

import math
from bisect import insort
from heapq import heappop, heappush

import numpy as np

from benchmarks.search.policy import ETA, Problem, Proposal, stopping_rungs
from benchmarks.search.simulation import random_order


class RandomSearch:
    """Configurations in random order, each trained to its end. Hands over the best finished one."""

    rungs: tuple[int, ...] = ()

    def __init__(self, problem: Problem, seed: int):
        self._points = problem.points
        self._order = random_order(problem.num_configurations, seed)
        self._num_proposed = 0
        self._best: tuple[float, int | None] = (math.inf, None)

    def propose(self) -> Proposal | None:
        key = self._num_proposed
        if key >= len(self._order):
            return None
        self._num_proposed += 1
        return Proposal(key, self._points[self._order[key]])

    def given(self, key: int, point: np.ndarray) -> None:
        """The configuration that was proposed, or its twin."""

    def report(self, key: int, rung: int, value: float) -> bool:
        return True

    def finished(self, key: int, rung: int, value: float) -> None:
        if value < self._best[0]:
            self._best = (value, key)

    def incumbent(self) -> int | None:
        return self._best[1]


class RandomAsha(RandomSearch):
    """Random search with asynchronous successive halving (arXiv:1810.05934) by the rule of Ray's ASHAScheduler.

    A trial stops at a rung when it is worse than the best 1/eta quantile (interpolated) of those that were there
    before it, and, unlike in Ray, where it diverged. Hands over the best at the deepest rung; a finished trial is
    deepest, whatever its length.
    """

    def __init__(self, problem: Problem, seed: int, eta: int = ETA):
        super().__init__(problem, seed)
        self.rungs = stopping_rungs(problem.num_rungs, eta)
        self._eta = eta
        self._values: dict[int, list[float]] = {rung: [] for rung in self.rungs}
        self._deepest: tuple[float, float, int | None] = (0, math.inf, None)  # minus the rung, value, key

    def report(self, key: int, rung: int, value: float) -> bool:
        if math.isnan(value):
            return False
        values = self._values[rung]
        continues = not values or value <= quantile(values, 1 / self._eta)
        insort(values, value)
        self._deepest = min(self._deepest, (-rung, value, key))
        return continues

    def finished(self, key: int, rung: int, value: float) -> None:
        if not math.isnan(value):
            self._deepest = min(self._deepest, (-math.inf, value, key))

    def incumbent(self) -> int | None:
        return self._deepest[2]


class OneEpochTopK(RandomSearch):
    """Looks at random configurations for one rung each, then trains the best of them to the end, in order.

    The looks take half the budget, counted in rungs of a median training; the other half decides K. Hands over the
    best finished trial; while there is none, the best after its first rung.
    """

    def __init__(self, problem: Problem, seed: int):
        super().__init__(problem, seed)
        self.rungs = (1,) if problem.num_rungs > 1 else ()
        num_looks = math.ceil(problem.budget / 2 * problem.median_length)
        self._num_looks = min(num_looks, problem.num_configurations)
        self._looked: list[tuple[float, int]] = []
        self._best_look: tuple[float, int | None] = (math.inf, None)

    def propose(self) -> Proposal | None:
        if self._num_proposed < self._num_looks:
            return super().propose()
        return Proposal(heappop(self._looked)[1]) if self._looked else None

    def report(self, key: int, rung: int, value: float) -> bool:
        if not math.isnan(value):
            heappush(self._looked, (value, key))
            self._best_look = min(self._best_look, (value, key))
        return False

    def incumbent(self) -> int | None:
        return self._best_look[1] if self._best[1] is None else self._best[1]


def quantile(ordered: list[float], share: float) -> float:
    """With linear interpolation, as numpy's."""
    place = share * (len(ordered) - 1)
    i = int(place)
    return ordered[i] + (place - i) * (ordered[i + 1] - ordered[i]) if i + 1 < len(ordered) else ordered[-1]
