"""Several metrics at once: the front, its hypervolume, and a scalarization for each decision.

A search with several metrics looks for their front: the trials that no other beats in one metric without losing in
another. The strategy needs one number for each trial and rung. A scalarization computes it from several, anew for every
decision: the largest weighted shortfall (augmented Tchebycheff, Knowles 2006, ParEGO) with random weights. So one
decision looks for a low loss, the next for speed and the third for something between. A small fast trial that looks
hopeless by the first may be resumed by the second; until then it is paused, because nothing is stopped before the end.
At the end each paused trial is judged by the weights that suit it best, and stopped if even so it has hardly a chance.

In every function lower values are better, and a row with NaN is beaten by all and beats none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from search.strategy.curves import Curve

Vectors = Mapping[int, Mapping[int, tuple[float, ...]]]
"""Number of a trial -> index of a rung -> a value for each metric."""

SUM_WEIGHT = 0.05  # weight of the sum beside the maximum, which decides between equal maxima


def undominated(values: np.ndarray) -> np.ndarray:
    """Which rows of `values` (n, metrics) no other row beats, (n,); equal rows do not beat each other."""
    values = np.asarray(values, dtype=float)
    if not len(values):
        return np.zeros(0, dtype=bool)
    no_worse = (values[:, None] <= values[None]).all(axis=2)
    better = (values[:, None] < values[None]).any(axis=2)
    return ~(no_worse & better).any(axis=0) & np.isfinite(values).all(axis=1)


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """The volume that the rows of `values` (n, metrics) dominate, up to `reference` (metrics,), a point worse than
    most.

    Exact, by slicing along the last metric: suitable for fronts of up to a few hundred points and few metrics.
    """
    values = np.asarray(values, dtype=float)
    values = values[(values < reference).all(axis=1)]
    if not len(values):
        return 0.0
    if values.shape[1] == 1:
        return float(reference[0] - values.min())
    values = values[np.argsort(values[:, -1], kind="stable")]
    ends = np.append(values[1:, -1], reference[-1])
    return sum(
        float(end - row[-1]) * hypervolume(values[: i + 1, :-1], reference[:-1])
        for i, (row, end) in enumerate(zip(values, ends, strict=True))
        if end > row[-1]
    )


def random_scalarization(curves: Sequence[Curve], vectors: Vectors, *, seed: int) -> list[Curve]:
    """The curves with one value at each rung, with weights of the metrics drawn uniformly from their simplex.

    The same curves and seed give the same values.
    """
    shares = _Shares(curves, vectors)
    rng = np.random.default_rng([seed, len(curves), len(shares.values), len(vectors)])
    return shares.weighted(rng.dirichlet(np.ones(shares.values.shape[1])))


def favourable_scalarizations(curves: Sequence[Curve], vectors: Vectors) -> Iterator[list[Curve]]:
    """As `random_scalarization`, for each paused trial with the weights that suit it best among those that got as far.

    A trial without a chance by its own weights is beaten in every metric by one that has finished or soon will.
    """
    shares = _Shares(curves, vectors)
    for curve in curves:
        if curve.is_paused and vectors.get(curve.number):
            rung = max(vectors[curve.number])
            rivals = np.array([seen[rung] for seen in vectors.values() if rung in seen], dtype=float)
            own = np.array(vectors[curve.number][rung])
            weights = 1 / (SUM_WEIGHT + (rivals < own).mean(axis=0))
            yield shares.weighted(weights / weights.sum())


class _Shares:
    """The curves with a value for each metric: the share of all values, of all rungs, that are better."""

    def __init__(self, curves: Sequence[Curve], vectors: Vectors):
        self._curves = curves
        self._places = [(curve.number, rung) for curve in curves for rung in vectors.get(curve.number, ())]
        values = np.array([vectors[number][rung] for number, rung in self._places], dtype=float)
        self.values = np.apply_along_axis(_share_below, 0, values) if len(values) else np.zeros((0, 1))

    def weighted(self, weights: np.ndarray) -> list[Curve]:
        weighted = weights * self.values
        scalars = weighted.max(axis=1) + SUM_WEIGHT * weighted.sum(axis=1)
        seen: dict[int, dict[int, float]] = {curve.number: {} for curve in self._curves}
        for (number, rung), scalar in zip(self._places, scalars.tolist(), strict=True):
            seen[number][rung] = scalar
        return [replace(curve, values=seen[curve.number]) for curve in self._curves]


def _share_below(values: np.ndarray) -> np.ndarray:
    """The share of the other values that are better than each one, 0 for the best and 1 for the worst; NaN stays."""
    ordered = np.sort(values[np.isfinite(values)])
    middle = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") - 1
    return np.where(np.isfinite(values), middle / 2 / max(len(ordered) - 1, 1), np.nan)
