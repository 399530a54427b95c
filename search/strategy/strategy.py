"""What to train next: a new configuration, or the next rung of a trial that was paused.

At every rung the model of all curves seen so far (surrogate.py) gives each choice an acquisition value: the
improvement that is expected over the incumbent, for each unit of training that is left. A trial trains on while no
other choice has a larger value. Others are paused, with their checkpoints, and resume when their value is the largest:
nothing is stopped for good before the search ends. A new configuration is started in place of a paused trial only if
its value is more than twice as large, because it is the largest of hundreds of guesses.

The first few configurations are random, so that a model can be learned at all. The incumbent is the best finished value
or, if that is lower, the value that the best running trial is expected to reach. Without it the first running trials
would look as good as any.

A trial that diverged or did not fit says nothing about the quality of its neighbours, and the best often lie next to
it. So it is no value for that model. Another one (success.py) learns the chance of success from it, and the acquisition
value of a new configuration is multiplied by that chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np

from search.space.parameter import Values
from search.strategy.choice import RANDOM, Continue, Origin, SeenTrial, Start, Verdict
from search.strategy.curves import Curve, Curves
from search.strategy.success import SuccessModel
from search.strategy.surrogate import CurveModel, Observations, Posterior

NUM_FIRST = 6  # random configurations before the model proposes any
RANDOM_SHARE = 0.1  # of the new configurations, drawn at random in any case
PREFERENCE = 0.5  # weight of a new configuration's acquisition value beside a paused trial's
MIN_CHANCE = 0.02  # of becoming the best; once nothing new can start, a paused trial below it does not resume
MAX_OBSERVATIONS = 128  # for the model; more say little more, and the time grows with their third power
MAX_RUNNING = 128  # running trials, the best expected, that count as if they had ended
REFIT_GROWTH = 1.15  # growth of the observations since the last fit that makes another one worth its time
NUM_LEADERS = 6
MIN_SUCCESS = 0.7  # minimum chance of success for a new configuration, if any has that much
CEILING, SOFTNESS = 0.7, 0.3  # standardised values above the ceiling are all simply bad


class Candidates(Protocol):
    """The source of new configurations; see `search.strategy.sampling`. `random` raises if there is none."""

    def random(self, rng: np.random.Generator) -> dict[str, Any]: ...
    def spread(self, leaders: np.ndarray, rng: np.random.Generator) -> tuple[list[dict[str, Any]], np.ndarray]: ...
    def may_launch(self, values: Values) -> bool: ...
    def left(self, rng: np.random.Generator) -> list[dict[str, Any]]: ...
    def point(self, values: Values) -> np.ndarray: ...


class Strategy:
    """Decides from curves alone; the same curves and seed give the same decision."""

    def __init__(self, num_dims: int, rungs: tuple[int, ...], candidates: Candidates, *, seed: int):
        """`rungs` are in tokens; points of the unit cube have `num_dims` coordinates."""
        self._share_done = np.array([0.0, *(rung / rungs[-1] for rung in rungs)])  # after how many rungs
        self._last = len(rungs) - 1
        self._candidates = candidates
        self._seed = seed
        self.model = CurveModel(num_dims, rungs)
        self._num_fitted = 0

    @property
    def state(self) -> dict[str, Any]:
        """What was learned and cannot be computed again from the curves, as plain values."""
        return {"theta": self.model.theta.tolist(), "fits": self.model.num_fits, "fitted": self._num_fitted}

    def restore(self, state: dict[str, Any]) -> None:
        """Resume from another strategy's `state`; one of a space with other dimensions is ignored.

        Raises ValueError, TypeError, KeyError or AttributeError if it is not a state.
        """
        if len(state.get("theta", ())) == len(self.model.theta):
            self.model.restore(np.array(state["theta"], dtype=float), int(state["fits"]))
            self._num_fitted = int(state["fitted"])

    def learn(self, trial: SeenTrial) -> None:
        """Does nothing: the curves say everything that the model needs."""

    def forget(self, number: int) -> None:
        """As `learn`."""

    def judge(self, curves: Sequence[Curve], number: int) -> Verdict:
        """Nothing: every trial at a rung is weighed against all other choices, by `next`."""
        return None

    def why(self, curves: Sequence[Curve], number: int) -> str:
        """Nothing: a value among many values has no short reason."""
        return ""

    def propose(self, curves: Sequence[Curve]) -> Start:
        """The new configuration that `next` would weigh against the paused trials."""
        seen = Curves.of(curves)
        rng = np.random.default_rng([self._seed, len(seen), len(seen.values)])
        if len(seen) < NUM_FIRST or not np.isfinite(seen.values).any():
            return Start(self._candidates.random(rng), Origin(RANDOM))
        posterior, best = self._posterior(seen, rng)
        mean, _ = posterior.at_last_rung(seen.points, seen.numbers)
        return Start(self._new(seen, posterior, mean, self._incumbent(seen, mean, best), rng)[0])

    def next(self, curves: Sequence[Curve], *, can_start: bool) -> Start | Continue | None:
        """What a free worker should do; None if nothing may start and no paused trial is worth its training."""
        seen = Curves.of(curves)
        rng = np.random.default_rng([self._seed, len(seen), len(seen.values)])
        has_seen = np.isfinite(seen.values).any()
        if can_start and (len(seen) < NUM_FIRST or not has_seen):
            return Start(self._candidates.random(rng), Origin(RANDOM))
        if not has_seen:
            return None
        posterior, best = self._posterior(seen, rng)
        mean, sd = posterior.at_last_rung(seen.points, seen.numbers)
        paused = np.flatnonzero(seen.is_paused)
        if not can_start:
            acquisitions, chances = self._of_paused(seen, paused, mean, sd, best)
            is_worth_it = (chances >= MIN_CHANCE).any()
            return Continue(int(seen.numbers[paused[np.argmax(acquisitions)]])) if is_worth_it else None
        incumbent = self._incumbent(seen, mean, best)
        acquisitions, _ = self._of_paused(seen, paused, mean, sd, incumbent)
        values, acquisition = self._new(seen, posterior, mean, incumbent, rng)
        if len(paused) and acquisitions.max() >= PREFERENCE * acquisition:
            return Continue(int(seen.numbers[paused[np.argmax(acquisitions)]]))
        return Start(values)

    def _incumbent(self, curves: Curves, mean: np.ndarray, best: float) -> float:
        """The best finished value or, if that is lower, what the best running trial is expected to reach."""
        shows = curves.is_running & (curves.deepest >= 0)
        return min(best, float(mean[shows].min())) if shows.any() else best

    def _success(self, curves: Curves) -> SuccessModel:
        """The chances of success given everything seen; unfailed trials count by the share of rungs they passed."""
        tried, has_failed = curves.deepest >= 0, curves.has_failed
        passed = np.where(has_failed, 1.0, (curves.deepest + 1) / (self._last + 1))
        return SuccessModel(curves.points[tried], has_failed[tried], passed[tried])

    def _posterior(self, curves: Curves, rng: np.random.Generator) -> tuple[Posterior, float]:
        """The model given everything seen, and the best value of a finished trial."""
        seen = self._observations(curves, rng)
        num_values = int(np.isfinite(curves.values).sum())
        if num_values >= self._num_fitted * REFIT_GROWTH + 1:
            self.model.fit(seen)
            self._num_fitted = num_values
        finished = seen.values[seen.rungs == self._last]
        return self.model.given(seen), float(finished.min()) if len(finished) else CEILING

    def _of_paused(
        self, curves: Curves, paused: np.ndarray, mean: np.ndarray, sd: np.ndarray, best: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """For each paused trial, its acquisition value and its chance of becoming the best."""
        mean, sd = mean[paused], sd[paused]
        left = 1 - self._share_done[curves.deepest[paused] + 1]
        return expected_improvement(mean, sd, best) / left, _normal_cdf((best - mean) / sd)

    def _new(
        self, curves: Curves, posterior: Posterior, mean: np.ndarray, best: float, rng: np.random.Generator
    ) -> tuple[dict[str, Any], float]:
        """The configuration with the largest acquisition value among those that may be launched, and that value."""
        rank = np.argsort(np.where(curves.has_failed, np.inf, mean), kind="stable")
        leaders = curves.points[rank[:NUM_LEADERS]]
        running = np.flatnonzero(curves.is_running)
        if len(running):  # as if they had ended as expected, to look elsewhere
            running = running[np.sort(np.argsort(mean[running], kind="stable")[:MAX_RUNNING])]
            at_end = np.full(len(running), self._last)
            ends = Observations(curves.points[running], at_end, curves.numbers[running], mean[running])
            posterior = self.model.given(posterior.seen.and_also(ends))
        found, points = self._candidates.spread(leaders, rng)
        success = self._success(curves)
        acquisition = _acquisition(posterior, success, points, best)
        if rng.random() < RANDOM_SHARE:  # the model may be wrong
            values = self._candidates.random(rng)
            points = self._candidates.point(values)[None]
            mean, sd = posterior.at_last_rung(points)
            return values, float(expected_improvement(mean, sd, best)[0] * success.chances(points)[0])
        has_met_known = False
        for i in np.argsort(-acquisition, kind="stable"):
            is_known = (curves.points == points[i]).all(axis=1).any()
            has_met_known |= bool(is_known)
            if not is_known and self._candidates.may_launch(found[i]):
                return dict(found[i]), float(acquisition[i])
        if has_met_known and (left := self._candidates.left(rng)):
            acquisition = _acquisition(posterior, success, np.array([*map(self._candidates.point, left)]), best)
            return left[int(acquisition.argmax())], float(acquisition.max())
        return self._candidates.random(rng), 0.0

    def _observations(self, curves: Curves, rng: np.random.Generator) -> Observations:
        """Everything seen except failures, standardised.

        Of more than MAX_OBSERVATIONS: final values, the deepest rungs and the best.
        """
        is_value = np.isfinite(curves.values)
        owners, rungs, values = curves.owners[is_value], curves.rungs[is_value], standardised(curves.values[is_value])
        if len(values) > MAX_OBSERVATIONS:
            behind = curves.deepest[owners] - rungs  # rungs that the trial has passed since
            worth = 1.0 * (behind == 0) + 0.3 * (behind == 1) + 2.0 * (rungs == self._last) - 0.5 * values
            worth += 0.5 * rng.random(len(values))
            kept = np.sort(np.argsort(-worth, kind="stable")[:MAX_OBSERVATIONS])
            owners, rungs, values = owners[kept], rungs[kept], values[kept]
        return Observations(curves.points[owners], rungs, curves.numbers[owners], values - values.mean())


def _acquisition(posterior: Posterior, success: SuccessModel, points: np.ndarray, best: float) -> np.ndarray:
    """The acquisition value of each of `points` (n, d), (n,); 0 if it is likely to fail."""
    mean, sd = posterior.at_last_rung(points)
    chances = success.chances(points)
    is_likely = chances >= min(MIN_SUCCESS, chances.max(initial=0.0))
    return np.where(is_likely, expected_improvement(mean, sd, best) * chances, 0.0)


def standardised(values: np.ndarray) -> np.ndarray:
    """Normal scores of finite values of all rungs together: only their order counts, so outliers and units do not.

    Lower stays better. Values worse than most are compressed, because it does not matter how bad they are.
    """
    if not len(values):
        return values
    ordered = np.sort(values)
    middle = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    share = np.clip(middle / 2 / len(values), 0.3 / len(values), 1 - 0.3 / len(values))
    scores = np.array([*map(NormalDist().inv_cdf, share.tolist())])
    return np.where(scores > CEILING, CEILING + SOFTNESS * np.tanh((scores - CEILING) / SOFTNESS), scores)


def expected_improvement(mean: np.ndarray, sd: np.ndarray, best: float) -> np.ndarray:
    """The expected value of max(0, best - x) for x normal with `mean` and `sd`, elementwise."""
    z = (best - mean) / sd
    return sd * (z * _normal_cdf(z) + np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi))


def _normal_cdf(z: np.ndarray) -> np.ndarray:
    return np.array([0.5 * math.erfc(value) for value in (-z / math.sqrt(2)).tolist()])
