"""A model of learning curves: predicts values at the last rung from what trials have shown at their rungs.

A Gaussian process over configurations and rungs. Values of similar configurations are correlated (a Matern-5/2 kernel
with a length scale for each axis), and values of one trial more so. Both correlations decay from rung to rung. How fast
each decays is learned from the trials: if the first rung of a task says nothing about the last, the model learns not to
trust it. A study has a few hundred numbers to learn from, so the whole model is refitted from them (maximum a
posteriori, analytic gradients) and needs only numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SQRT_5 = 5**0.5
LEVEL_VARIANCE = 4.0  # of the mean of standardised values at the first rung, and of its drift to the last
JITTER = 1e-5
FIRST_STEPS, LATER_STEPS = 25, 12  # of gradient descent, for a new model and from the last fit
NUM_FIRST_FITS = 3
LEARNING_RATE = 0.15
FARTHEST = 3.0  # of a hyperparameter from its initial value


@dataclass(frozen=True)
class Observations:
    """Values that trials have shown: `points` (n, d) in the unit cube, `rungs` (n,), `trials` (n,), `values` (n,).

    Rungs are counted from 0; values are standardised, lower is better.
    """

    points: np.ndarray
    rungs: np.ndarray
    trials: np.ndarray
    values: np.ndarray

    def and_also(self, other: Observations) -> Observations:
        return Observations(
            np.vstack([self.points, other.points]),
            np.concatenate([self.rungs, other.rungs]),
            np.concatenate([self.trials, other.trials]),
            np.concatenate([self.values, other.values]),
        )


class CurveModel:
    """The process. `fit` learns its hyperparameters, `given` conditions on observations, `at_last_rung` predicts.

    Hyperparameters, all logarithms: d length scales; the standard deviation that configurations explain, and that of
    each trial's own part; for each step from a rung to the next, the decay of both; the noise.
    """

    def __init__(self, num_dims: int, rungs: Sequence[int]):
        self.num_fits = 0
        self.num_dims, self._steps = num_dims, len(rungs) - 1
        progress = np.log(np.asarray(rungs) / rungs[0])
        self._progress = progress / max(progress[-1], 1e-12)
        decay = np.log(0.5 * 0.6 ** np.arange(self._steps))  # later rungs are closer to the last
        self._prior = np.concatenate([np.full(num_dims, np.log(0.6)), np.log([1, 0.4]), decay, decay, [np.log(0.05)]])
        self._spread = np.concatenate([np.full(num_dims, 0.8), [0.5, 0.7], np.full(2 * self._steps, 1.0), [0.8]])
        self.theta = self._prior.copy()
        rung = np.arange(len(rungs))
        low, high = np.minimum.outer(rung, rung), np.maximum.outer(rung, rung)
        self._between = [(low <= step) & (step < high) for step in range(self._steps)]

    def restore(self, theta: np.ndarray, num_fits: int) -> None:
        """Resume from another model's hyperparameters. Raises ValueError for values that `fit` cannot have found."""
        if not (np.abs(theta - self._prior) <= FARTHEST + 1e-9).all():
            raise ValueError("hyperparameters beyond their bounds")
        self.theta, self.num_fits = theta, num_fits

    def fit(self, seen: Observations) -> None:
        """Move the hyperparameters towards the most probable ones, starting from the last fit (Adam)."""
        theta, best = self.theta.copy(), (np.inf, self.theta)
        mean, square = np.zeros_like(theta), np.zeros_like(theta)
        num_steps = FIRST_STEPS if self.num_fits < NUM_FIRST_FITS else LATER_STEPS
        for step in range(1, num_steps + 1):
            try:
                loss, gradient = self.loss(theta, seen)
            except np.linalg.LinAlgError:
                break
            if loss < best[0]:
                best = (loss, theta.copy())
            mean = 0.8 * mean + 0.2 * gradient
            square = 0.95 * square + 0.05 * gradient**2
            move = mean / (1 - 0.8**step) / (np.sqrt(square / (1 - 0.95**step)) + 1e-8)
            theta = np.clip(theta - LEARNING_RATE * move, self._prior - FARTHEST, self._prior + FARTHEST)
        self.theta = best[1]
        self.num_fits += 1

    def given(self, seen: Observations) -> Posterior:
        return Posterior(self, seen)

    def loss(self, theta: np.ndarray, seen: Observations) -> tuple[float, np.ndarray]:
        """Negative log posterior density of the hyperparameters (up to a constant) and its gradient."""
        d, x, rungs, y = self.num_dims, seen.points / np.exp(theta[: self.num_dims]), seen.rungs, seen.values
        across, own, level = self.rung_kernels(theta)
        square, distance, decay = _matern_parts(x, x)
        at = np.ix_(rungs, rungs)
        shared = (1 + distance + 5 / 3 * square) * decay * across[at]
        private = (seen.trials[:, None] == seen.trials[None]) * own[at]
        covariance = shared + private + level[at]
        noise = np.exp(2 * theta[-1])
        covariance[np.diag_indices(len(y))] += noise + JITTER
        inverse = np.linalg.inv(covariance)
        weights = inverse @ y
        loss = 0.5 * y @ weights + 0.5 * np.linalg.slogdet(covariance)[1]

        slope = np.outer(weights, weights) - inverse  # -2 d loss / d covariance
        by_distance = slope * (across[at] * (5 / 3) * (1 + distance) * decay)
        rows = by_distance.sum(1)
        for_scales = [-(rows @ x[:, j] ** 2 - x[:, j] @ by_distance @ x[:, j]) for j in range(d)]
        is_at = np.zeros((len(y), self._steps + 1))
        is_at[np.arange(len(y)), rungs] = 1
        by_shared = is_at.T @ (slope * shared) @ is_at  # summed over pairs of rungs
        by_private = is_at.T @ (slope * private) @ is_at
        decays = np.exp(theta[d + 2 : -1])
        for_decay = [
            0.5 * decays[part * self._steps + step] * sums[between].sum()
            for part, sums in enumerate((by_shared, by_private))
            for step, between in enumerate(self._between)
        ]
        gradient = np.array(
            [*for_scales, -by_shared.sum(), -by_private.sum(), *for_decay, -np.trace(slope) * noise], dtype=float
        )
        z = (theta - self._prior) / self._spread
        return float(loss + 0.5 * z @ z), gradient + z / self._spread

    def rung_kernels(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Covariances over pairs of rungs: of what configurations explain, of a trial's own part, of the mean level."""
        d, steps = self.num_dims, self._steps
        way = np.concatenate([[0.0], np.cumsum(np.exp(theta[d + 2 : d + 2 + steps]))])
        own_way = np.concatenate([[0.0], np.cumsum(np.exp(theta[d + 2 + steps : -1]))])
        across = np.exp(2 * theta[d] - np.abs(way[:, None] - way[None]))
        own = np.exp(2 * theta[d + 1] - np.abs(own_way[:, None] - own_way[None]))
        return across, own, LEVEL_VARIANCE * (1 + np.minimum.outer(self._progress, self._progress))


class Posterior:
    """What a model predicts after `seen`. Raises numpy.linalg.LinAlgError if that cannot be computed."""

    def __init__(self, model: CurveModel, seen: Observations):
        self.seen = seen
        self._scales = np.exp(model.theta[: model.num_dims])
        self._across, self._own, self._level = model.rung_kernels(model.theta)
        x = seen.points / self._scales
        square, distance, decay = _matern_parts(x, x)
        at = np.ix_(seen.rungs, seen.rungs)
        covariance = (1 + distance + 5 / 3 * square) * decay * self._across[at] + self._level[at]
        covariance += (seen.trials[:, None] == seen.trials[None]) * self._own[at]
        covariance[np.diag_indices(len(x))] += np.exp(2 * model.theta[-1]) + JITTER
        inverse = np.linalg.inv(covariance)
        self._weights = inverse @ seen.values
        self._inverse = inverse.astype(np.float32)
        self._x = x.astype(np.float32)
        last = len(self._level) - 1
        self._variance = self._across[last, last] + self._own[last, last] + self._level[last, last]

    def at_last_rung(self, points: np.ndarray, trials: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, (m,) each, of the value at the last rung of `points` (m, d).

        `trials` (m,) says which trials they are; None: new trials without values.
        """
        seen = self.seen
        square, distance, decay = _matern_parts((points / self._scales).astype(np.float32), self._x)
        shared = (1 + distance + np.float32(5 / 3) * square) * decay
        covariance = shared * self._across[-1][seen.rungs].astype(np.float32)
        covariance += self._level[-1][seen.rungs].astype(np.float32)
        if trials is not None:
            row, column = np.nonzero(trials[:, None] == seen.trials[None])
            covariance[row, column] += self._own[-1][seen.rungs[column]].astype(np.float32)
        mean = covariance.astype(float) @ self._weights
        explained = np.einsum("ij,ij->i", covariance @ self._inverse, covariance)
        return mean, np.sqrt(np.maximum(self._variance - explained.astype(float), 1e-6))


def _matern_parts(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Squared distances, sqrt(5) times the distances, and exp(-those), of points scaled by their length scales."""
    with np.errstate(invalid="ignore"):  # BLAS computes lanes that it drops, from uninitialised memory behind a vector
        product = x @ y.T
    square = (x * x).sum(1)[:, None] + (y * y).sum(1)[None] - 2 * product
    np.maximum(square, 0, out=square)
    distance = np.sqrt(square) * x.dtype.type(SQRT_5)
    return square, distance, np.exp(-distance)
