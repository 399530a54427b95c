"""What to train next: a new configuration, or the next rung of a trial that was paused.

Every rung is a question to the model of all curves seen so far (`search.surrogate`): how much better may this trial
become than what is to be beaten, for each unit of training that is left to it? A trial goes on while no other use of
the worker promises more. Others wait where they are, with their checkpoints, and are taken up again when they look
best: nothing is stopped for good before the search ends. A paused trial must promise less than half of what a new one
does to lose its place, since the promise of a new one is the best of hundreds of guesses.

The first few configurations are random, so that a model can be learned at all. What is to be beaten is the best
finished value or, where it is lower, what the best trial under way is expected to reach: else the first to be under way
look as good as any.

What diverged or did not fit says nothing of how good its neighbours are, and the best often lie next to it. So it is no
value to that model, but to another one (`search.success`), by whose chance of success a new promise is multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np

from search.parameter import Values
from search.success import SuccessModel
from search.surrogate import CurveModel, Observations, Posterior

NUM_FIRST = 6  # configurations before the model proposes any
RANDOM_SHARE = 0.1  # of the new configurations, drawn at random whatever the model says
PREFERENCE = 0.5  # a new configuration's promise counts this much beside a paused trial's
MIN_CHANCE = 0.02  # of becoming the best; below, a paused trial is not worth going on with once nothing new is to start
MAX_OBSERVATIONS = 128  # the model looks at; more say little more and cost with their third power
MAX_UNDER_WAY = 128  # of the trials under way, the best expected, count as if they had ended
REFIT_GROWTH = 1.15  # observations since the last fit that make another one worth its time
NUM_LEADERS = 6
MIN_SUCCESS = 0.7  # chance of a new configuration to be trained to its end, where any has it
CEILING, SOFTNESS = 0.7, 0.3  # standardised values above are all simply bad


@dataclass
class Curve:
    """A trial as the strategy sees it: its point in the unit cube and its values; lower is better, NaN a failure."""

    number: int
    point: np.ndarray
    values: dict[int, float] = field(default_factory=dict)  # index of the rung -> value
    is_running: bool = False
    is_paused: bool = False

    @property
    def rung(self) -> int:
        """Index of the deepest rung with a value; -1 before the first."""
        return max(self.values, default=-1)

    @property
    def has_failed(self) -> bool:
        """Whether it diverged or could not be had."""
        return any(not math.isfinite(value) for value in self.values.values())


@dataclass(frozen=True)
class Start:
    """Train a new configuration."""

    values: dict[str, Any]


@dataclass(frozen=True)
class Continue:
    """Train a paused trial to its next rung."""

    number: int


class Candidates(Protocol):
    """Where new configurations come from; see `search.sampling`."""

    def random(self, rng: np.random.Generator) -> dict[str, Any]: ...
    def spread(self, leaders: np.ndarray, rng: np.random.Generator) -> tuple[list[dict[str, Any]], np.ndarray]: ...
    def may_launch(self, values: Values) -> bool: ...
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
        """What was learned and cannot be computed again from the curves alone, as plain values."""
        return {"theta": self.model.theta.tolist(), "fits": self.model.num_fits, "fitted": self._num_fitted}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from another strategy's `state`; one of a space with other dimensions is ignored.

        Raises ValueError, TypeError, KeyError or AttributeError for what is no state.
        """
        if len(state.get("theta", ())) == len(self.model.theta):
            self.model.restore(np.array(state["theta"], dtype=float), int(state["fits"]))
            self._num_fitted = int(state["fitted"])

    def next(self, curves: Sequence[Curve], *, can_start: bool) -> Start | Continue | None:
        """What a free worker should do; None where nothing may start and no paused trial is worth its training."""
        rng = np.random.default_rng([self._seed, len(curves), sum(len(c.values) for c in curves)])
        has_seen = any(math.isfinite(value) for curve in curves for value in curve.values.values())
        paused = [curve for curve in curves if curve.is_paused]
        if can_start and (len(curves) < NUM_FIRST or not has_seen):
            return Start(self._candidates.random(rng))
        if not has_seen:
            return None
        posterior, best = self._posterior(curves, rng)
        if not can_start:
            promises, chances = self._of_paused(paused, posterior, best)
            return Continue(paused[int(np.argmax(promises))].number) if (chances >= MIN_CHANCE).any() else None
        to_beat = self._to_beat(curves, posterior, best)
        promises, _ = self._of_paused(paused, posterior, to_beat)
        values, promise = self._new(curves, posterior, to_beat, rng)
        top = int(np.argmax(promises)) if paused else -1
        if paused and promises[top] >= PREFERENCE * promise:
            return Continue(paused[top].number)
        return Start(values)

    def _to_beat(self, curves: Sequence[Curve], posterior: Posterior, best: float) -> float:
        """The best finished value, or what the best trial under way is expected to end at, if that is lower."""
        running = [curve for curve in curves if curve.is_running and curve.values]
        if not running:
            return best
        mean, _ = posterior.at_last_rung(
            np.array([curve.point for curve in running]), np.array([curve.number for curve in running])
        )
        return min(best, float(mean.min()))

    def _success(self, curves: Sequence[Curve]) -> SuccessModel:
        """The chances of success after all that was seen; of those not failed, the share of rungs passed counts."""
        tried = [curve for curve in curves if curve.values]
        has_failed = np.array([curve.has_failed for curve in tried])
        passed = np.array([(curve.rung + 1) / (self._last + 1) for curve in tried])
        return SuccessModel(np.array([curve.point for curve in tried]), has_failed, np.where(has_failed, 1.0, passed))

    def _posterior(self, curves: Sequence[Curve], rng: np.random.Generator) -> tuple[Posterior, float]:
        """The model after all that was seen, and the best value of a finished trial."""
        seen = self._observations(curves, rng)
        num_values = sum(math.isfinite(value) for curve in curves for value in curve.values.values())
        if num_values >= self._num_fitted * REFIT_GROWTH + 1:
            self.model.fit(seen)
            self._num_fitted = num_values
        finished = seen.values[seen.rungs == self._last]
        return self.model.given(seen), float(finished.min()) if len(finished) else CEILING

    def _of_paused(self, paused: list[Curve], posterior: Posterior, best: float) -> tuple[np.ndarray, np.ndarray]:
        """For each paused trial the improvement expected of it per training left, and its chance to be the best."""
        if not paused:
            return np.zeros(0), np.zeros(0)
        points = np.array([curve.point for curve in paused])
        mean, sd = posterior.at_last_rung(points, np.array([curve.number for curve in paused]))
        left = 1 - self._share_done[[curve.rung + 1 for curve in paused]]
        return expected_improvement(mean, sd, best) / left, _normal_cdf((best - mean) / sd)

    def _new(
        self, curves: Sequence[Curve], posterior: Posterior, best: float, rng: np.random.Generator
    ) -> tuple[dict[str, Any], float]:
        """The most promising configuration that may be launched, and its promise."""
        running = [curve for curve in curves if curve.is_running]
        everywhere = np.array([curve.point for curve in curves])
        mean, _ = posterior.at_last_rung(everywhere, np.array([curve.number for curve in curves]))
        mean = np.where([curve.has_failed for curve in curves], np.inf, mean)
        leaders = everywhere[np.argsort(mean, kind="stable")[:NUM_LEADERS]]
        if running:  # as if they had ended as expected, so that others are sought elsewhere
            numbers = np.array([curve.number for curve in running])
            points = np.array([curve.point for curve in running])
            expected, _ = posterior.at_last_rung(points, numbers)
            kept = np.sort(np.argsort(expected, kind="stable")[:MAX_UNDER_WAY])
            ends = Observations(points[kept], np.full(len(kept), self._last), numbers[kept], expected[kept])
            posterior = self.model.given(posterior.seen.and_also(ends))
        found, points = self._candidates.spread(leaders, rng)
        mean, sd = posterior.at_last_rung(points)
        success = self._success(curves)
        chances = success.chances(points)
        is_likely = chances >= min(MIN_SUCCESS, chances.max())
        promise = np.where(is_likely, expected_improvement(mean, sd, best) * chances, 0.0)
        if rng.random() < RANDOM_SHARE:  # the model may be wrong
            values = self._candidates.random(rng)
            points = self._candidates.point(values)[None]
            mean, sd = posterior.at_last_rung(points)
            return values, float(expected_improvement(mean, sd, best)[0] * success.chances(points)[0])
        known = {curve.point.tobytes() for curve in curves}
        for i in np.argsort(-promise, kind="stable"):
            if points[i].tobytes() not in known and self._candidates.may_launch(found[i]):
                return dict(found[i]), float(promise[i])
        return self._candidates.random(rng), 0.0

    def _observations(self, curves: Sequence[Curve], rng: np.random.Generator) -> Observations:
        """What was seen but for failures, standardised.

        Of more than MAX_OBSERVATIONS the ends, the deepest rungs and the best.
        """
        seen = [(curve, rung, value) for curve in curves for rung, value in curve.values.items()]
        rows = [(curve, rung, value) for curve, rung, value in seen if math.isfinite(value)]
        rungs = np.array([rung for _, rung, _ in rows])
        values = standardised(np.array([value for _, _, value in rows], dtype=float))
        if len(rows) > MAX_OBSERVATIONS:
            behind = np.array([curve.rung - rung for curve, rung, _ in rows])  # rungs that the trial has come since
            worth = 1.0 * (behind == 0) + 0.3 * (behind == 1) + 2.0 * (rungs == self._last) - 0.5 * values
            worth += 0.5 * rng.random(len(rows))
            kept = np.sort(np.argsort(-worth, kind="stable")[:MAX_OBSERVATIONS])
        else:
            kept = np.arange(len(rows))
        values = values[kept]
        return Observations(
            np.array([rows[i][0].point for i in kept]),
            rungs[kept],
            np.array([rows[i][0].number for i in kept]),
            values - values.mean(),
        )


def standardised(values: np.ndarray) -> np.ndarray:
    """Normal scores of finite values of all rungs together: only their order counts, so no outlier and no unit does.

    Lower stays better. What is worse than most is pressed together, since nobody asks how bad.
    """
    if not len(values):
        return values
    ordered = np.sort(values)
    middle = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    share = np.clip(middle / 2 / len(values), 0.3 / len(values), 1 - 0.3 / len(values))
    scores = np.array([NormalDist().inv_cdf(s) for s in share])
    return np.where(scores > CEILING, CEILING + SOFTNESS * np.tanh((scores - CEILING) / SOFTNESS), scores)


def expected_improvement(mean: np.ndarray, sd: np.ndarray, best: float) -> np.ndarray:
    """The expected value of max(0, best - x) for x normal with `mean` and `sd`, elementwise."""
    z = (best - mean) / sd
    return sd * (z * _normal_cdf(z) + np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi))


def _normal_cdf(z: np.ndarray) -> np.ndarray:
    return np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in z])
