"""How likely a configuration is to be trained to its end, learned from which trials diverged or did not fit.

Gaussian process classification (Rasmussen and Williams, Gaussian Processes for Machine Learning, algorithms 3.1, 3.2)
with a logistic likelihood and Laplace's approximation. The kernel is a constant, a plane and a Matern-5/2: the edges of
divergence and of memory are nearly planes on log axes, so a dozen failures show where they are.
"""

from __future__ import annotations

import numpy as np

CONSTANT_VARIANCE, PLANE_VARIANCE, LOCAL_VARIANCE = 4.0, 200.0, 4.0  # of the log odds
LENGTH_SCALE = 0.6  # in units of an axis
MAX_TRIALS = 160  # the latest; the time grows with their third power
NUM_STEPS = 12  # of Newton's method
SQRT_5 = 5**0.5


class SuccessModel:
    """The chance of success given trials at `points` (n, d), of which `has_failed` (n,) did not reach their end.

    `weights` (n,), from 0 to 1, say how much each counts: a running trial may still fail.
    """

    def __init__(self, points: np.ndarray, has_failed: np.ndarray, weights: np.ndarray):
        self._knows_failures = bool(has_failed.any())
        if not self._knows_failures:
            return
        self._points = points[-MAX_TRIALS:]
        has_succeeded, weights = ~has_failed[-MAX_TRIALS:], weights[-MAX_TRIALS:]
        covariance = _kernel(self._points, self._points)
        odds = np.zeros(len(self._points))
        for _ in range(NUM_STEPS):
            chance = _logistic(odds)
            slope = weights * (has_succeeded - chance)
            self._root = np.sqrt(np.maximum(weights * chance * (1 - chance), 1e-10))
            self._factor = np.linalg.cholesky(np.eye(len(odds)) + self._root[:, None] * covariance * self._root)
            target = self._root**2 * odds + slope
            solved = np.linalg.solve(self._factor, self._root * (covariance @ target))
            odds = covariance @ (target - self._root * np.linalg.solve(self._factor.T, solved))
        self._slope = weights * (has_succeeded - _logistic(odds))

    def chances(self, points: np.ndarray) -> np.ndarray:
        """The chance of success at each of `points` (m, d), (m,); 1 while nothing has failed."""
        if not self._knows_failures or not len(points):
            return np.ones(len(points))
        across = _kernel(points, self._points)
        own = CONSTANT_VARIANCE + PLANE_VARIANCE * ((points - 0.5) ** 2).sum(1) + LOCAL_VARIANCE
        explained = (np.linalg.solve(self._factor, (self._root * across).T) ** 2).sum(0)
        return _logistic(across @ self._slope / np.sqrt(1 + np.pi / 8 * np.maximum(own - explained, 0)))


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    square = (x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * x @ y.T
    distance = np.sqrt(np.maximum(square, 0)) * (SQRT_5 / LENGTH_SCALE)
    local = (1 + distance + distance**2 / 3) * np.exp(-distance)
    return CONSTANT_VARIANCE + PLANE_VARIANCE * ((x - 0.5) @ (y - 0.5).T) + LOCAL_VARIANCE * local


def _logistic(odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(odds, -40, 40)))
