"""The samplers `random` and `grid`, which ask only the space.

Optuna's own do not know rules, conditions or bounds that depend on other parameters: most of a grid could not be
launched, and random values would gather at the bounds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from search.space.configurations import Listing, identity
from search.space.parameter import Value
from search.space.space import Space
from search.strategy.choice import RANDOM, Origin, SeenTrial, Start, Stateless
from search.strategy.curves import Curve
from search.strategy.sampling import Candidates, NothingFeasible, NothingNew

GRID = "grid"
MAX_POINTS = 10_000  # of a grid; each is checked against rules and limits


class Draws(Stateless):
    """What samplers without a memory have in common."""

    def __init__(self, candidates: Candidates, seed: int):
        self._candidates, self._seed = candidates, seed
        self._next_number = 0

    def learn(self, trial: SeenTrial) -> None:
        self._next_number = max(self._next_number, trial.number + 1)

    def forget(self, number: int) -> None:
        """Does nothing."""


class Random(Draws):
    """Each parameter uniform on its axis, within the bounds that the others set."""

    def propose(self, curves: Sequence[Curve]) -> Start:
        rng = np.random.default_rng([self._seed, self._next_number])
        return Start(self._candidates.random(rng), Origin(RANDOM))


class Grid(Draws):
    """Every launchable configuration of a grid once, in an order that follows from the seed.

    All values of a list; every value of a range with at most `points` values; of other ranges `points` values evenly
    spaced on the parameter's axis, within the bounds that the other parameters set.
    """

    def __init__(self, candidates: Candidates, space: Space, seed: int, points: int):
        super().__init__(candidates, seed)
        self._space, self._points = space, points
        self._order: list[dict[str, Value]] | None = None
        self._version = -1

    def propose(self, curves: Sequence[Curve]) -> Start:
        if self._order is None or self._version != self._candidates.version:
            listing = Listing.of(self._space, self._candidates.reasons_against, points=self._points)
            assert listing.is_whole, "the size of a grid is checked before the search"
            rng = np.random.default_rng(self._seed)
            self._order = [listing.configurations[i] for i in rng.permutation(len(listing.configurations))]
            self._version = self._candidates.version
        for values in self._order:
            if identity(values) not in self._candidates.started:
                return Start(dict(values), Origin(GRID))
        if not self._candidates.started:
            raise NothingFeasible("no point of the grid may be launched; give more points, or another sampler")
        raise NothingNew(is_exact=True)
