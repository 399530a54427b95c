"""Several metrics at once: what is beaten by nothing, what a set of such is worth, and one number for each decision.

A search with several metrics looks for their front: the trials that no other beats in one metric without losing in
another. The strategy decides by one number for each trial and rung. `views` makes it of several, anew for every
decision: the largest weighted shortfall (augmented Tchebycheff, Knowles 2006, ParEGO) with weights at random, so that
one decision looks for a low loss, the next for speed and the third for something between. A small fast trial that looks
hopeless to the first is what the second goes on with; it waits meanwhile, since nothing is stopped before the end.

In every function lower values are better, and a row with NaN is beaten by all and beats none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from search.strategy import Curve

Vectors = Mapping[int, Mapping[int, tuple[float, ...]]]
"""Number of a trial -> index of a rung -> a value for each metric."""

SUM_WEIGHT = 0.05  # of the sum beside the maximum, so that of two with one maximum the better is better


def undominated(values: np.ndarray) -> np.ndarray:
    """Which rows of `values` (n, metrics) no other row beats, (n,); equal rows do not beat each other."""
    values = np.asarray(values, dtype=float)
    if not len(values):
        return np.zeros(0, dtype=bool)
    no_worse = (values[:, None] <= values[None]).all(axis=2)
    better = (values[:, None] < values[None]).any(axis=2)
    return ~(no_worse & better).any(axis=0) & np.isfinite(values).all(axis=1)


def hypervolume(values: np.ndarray, reference: np.ndarray) -> float:
    """The volume that the rows of `values` (n, metrics) beat, up to `reference` (metrics,), a point worse than most.

    Exact, by slicing along the last metric: fit for fronts of up to some hundred and few metrics.
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


def views(curves: Sequence[Curve], vectors: Vectors, *, seed: int) -> Iterator[list[Curve]]:
    """The curves with one value at each rung, by weights of the metrics that are drawn anew for each view.

    The same curves and seed give the same views. There are as many as one asks for.
    """
    rng = np.random.default_rng([seed, len(curves), sum(len(v) for v in vectors.values()), len(vectors)])
    rows = [(curve.number, rung) for curve in curves for rung in vectors.get(curve.number, ())]
    values = np.array([vectors[number][rung] for number, rung in rows], dtype=float)
    shares = np.apply_along_axis(_share_below, 0, values) if rows else values
    while True:
        weights = rng.dirichlet(np.ones(values.shape[1])) if rows else 1.0
        weighted = weights * shares
        scalars = weighted.max(axis=1) + SUM_WEIGHT * weighted.sum(axis=1) if rows else values
        seen: dict[int, dict[int, float]] = {curve.number: {} for curve in curves}
        for (number, rung), scalar in zip(rows, scalars.tolist(), strict=True):
            seen[number][rung] = scalar
        yield [replace(curve, values=seen[curve.number]) for curve in curves]


def _share_below(values: np.ndarray) -> np.ndarray:
    """The share of the other values that each one is worse than, 0 the best and 1 the worst; NaN stays."""
    ordered = np.sort(values[np.isfinite(values)])
    middle = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right") - 1
    return np.where(np.isfinite(values), middle / 2 / max(len(ordered) - 1, 1), np.nan)
