"""From runs to figures: equivalent random search, means over families, ranks, bootstrap intervals.

Equivalent random search: the budget at which the seed-mean curve of random search first has a method's value, over the
method's own budget. Where random search has exactly that value over a stretch of budgets (before its first trial has
finished, say), the budget of the stretch that is nearest to the method's own counts. Cut to 1/LIMIT and LIMIT.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LIMIT = 10.0  # random search is run to as many times the budget


@dataclass(frozen=True, eq=False)
class Reference:
    """Random search on one table: its regret on a grid of costs, a row for each seed."""

    grid: np.ndarray
    curves: np.ndarray

    @staticmethod
    def grid_for(budget: float, num_points: int = 1200) -> np.ndarray:
        """Evenly spaced costs in the logarithm, to LIMIT times the budget."""
        return np.geomspace(0.02, LIMIT * budget, num_points)


def equivalents(reference: np.ndarray, grid: np.ndarray, values: np.ndarray, budget: float) -> np.ndarray:
    """The equivalent random search of `values`, each against its own row of `reference` (a mean curve).

    Curves of seed means do not rise (random search hands over its best finished), so each budget is found by halving.
    """
    reference = np.minimum.accumulate(np.atleast_2d(reference), axis=1)
    values = np.atleast_1d(values)[:, None]
    first = (reference > values + 1e-12).sum(axis=1)  # the first place at which random search is as good ...
    after = (reference >= values - 1e-12).sum(axis=1)  # ... and the first at which it is better
    ends = np.append(grid, np.inf)
    low, high = ends[first], np.where(after >= len(grid), np.inf, ends[np.minimum(after, len(grid) - 1)])
    low = np.where(first == 0, 0.0, low)
    return np.clip(np.clip(budget, low, high) / budget, 1 / LIMIT, LIMIT)


def equivalent(reference: np.ndarray, grid: np.ndarray, value: float, budget: float) -> float:
    """As `equivalents`, for one value and one mean curve."""
    return float(equivalents(reference, grid, np.array([value]), budget)[0])


def over_families(ratios: dict[str, float], family_of: dict[str, str]) -> float:
    """The geometric mean over families of tables, of the geometric mean inside each; `ratios` by table."""
    logs: dict[str, list[float]] = {}
    for table, ratio in ratios.items():
        logs.setdefault(family_of[table], []).append(np.log(ratio))
    return float(np.exp(np.mean([np.mean(inside) for inside in logs.values()])))


def ranks(values: dict[str, float]) -> dict[str, float]:
    """The rank of each policy on one table, 1 is best; equal ones share the mean of their places."""
    found = {}
    for name, value in values.items():
        better = sum(other < value - 1e-12 for other in values.values())
        equal = sum(abs(other - value) <= 1e-12 for other in values.values())
        found[name] = better + (equal + 1) / 2
    return found
