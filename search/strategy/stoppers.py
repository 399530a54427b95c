"""Early stopping by name: ASHA, Hyperband, the median rule, and none. (The model of curves is in strategy.py.)

All of them rank trials by their values at the same rung, so they take one metric. Values of a diverged trial, and of
one that did not fit or broke a limit, count as the worst.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from search.strategy.choice import Continue, GoOn, Stateless, Stop, Verdict, Wait
from search.strategy.curves import Curve

GOLDEN = (5**0.5 - 1) / 2  # multiples of it, without their whole parts, are spread evenly
_FRACTIONS = {2: "half", 3: "third", 4: "quarter", 5: "fifth"}


class Brackets:
    """Divides trials into the brackets of Hyperband; bracket b compares no trial before rung b.

    A trial's bracket follows from its number alone. The shares are those of Li et al., Hyperband (2018), algorithm 1.
    """

    def __init__(self, rungs: Sequence[int], eta: float, number: int):
        """`number` of brackets, 1 to the number of rungs."""
        last = len(rungs) - 1
        sizes = [math.ceil((last + 1) / (last - b + 1) * eta ** (last - b)) for b in range(number)]
        self._ends = np.cumsum(sizes) / sum(sizes)

    def of(self, number: int) -> int:
        """The bracket of the trial with this number."""
        if len(self._ends) == 1:
            return 0
        return int(np.searchsorted(self._ends, (number + 1) * GOLDEN % 1, side="right"))


class Promoting(Stateless):
    """ASHA as published (Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020, algorithm 2).

    A trial pauses at each rung. The best 1/eta of all trials at a rung are promoted, in the deepest rung first. Once
    nothing is left to start and nothing can reach a rung any more, at least its best trial is promoted.
    """

    def __init__(self, rungs: Sequence[int], eta: float, num_brackets: int):
        self._rungs, self._eta = rungs, eta
        self._brackets, self._num_brackets = Brackets(rungs, eta, num_brackets), num_brackets

    def judge(self, curves: Sequence[Curve], number: int) -> Verdict:
        curve = next(curve for curve in curves if curve.number == number)
        return GoOn() if curve.deepest < self._brackets.of(number) else None

    def resume(self, curves: Sequence[Curve], *, can_start: bool) -> Continue | Wait | None:
        brackets: list[list[Curve]] = [[] for _ in range(self._num_brackets)]
        for curve in curves:
            brackets[self._brackets.of(curve.number)].append(curve)
        for rung in reversed(range(len(self._rungs) - 1)):
            for own in brackets:
                members = ranked(own, rung)
                num_promoted = int(len(members) // self._eta)
                if not can_start and not any(curve.is_pending and curve.deepest < rung for curve in own):
                    num_promoted = max(1, num_promoted)
                for curve in members[:num_promoted]:
                    if curve.is_paused and curve.deepest == rung and math.isfinite(_value(curve, rung)):
                        return Continue(curve.number)
        return Wait() if any(curve.is_pending for curve in curves) else None

    def why(self, curves: Sequence[Curve], number: int) -> str:
        bracket = self._brackets.of(number)
        own = [curve for curve in curves if self._brackets.of(curve.number) == bracket]
        return f"{_place(own, number, self._rungs)}; the best {_fraction(self._eta)} is promoted"


class Judging(Stateless, ABC):
    """A stopper that decides at once whether a trial at a rung trains on or ends there."""

    @abstractmethod
    def judge(self, curves: Sequence[Curve], number: int) -> Verdict:
        """As `search.strategy.choice.Stopper`, but never None."""

    def resume(self, curves: Sequence[Curve], *, can_start: bool) -> Continue | Wait | None:
        """Trials that finished before the study was extended continue if they would have trained on."""
        paused = [curve for curve in curves if curve.is_paused]
        for curve in sorted(paused, key=lambda curve: (curve.deepest, _value(curve, curve.deepest), curve.number)):
            if isinstance(self.judge(curves, curve.number), GoOn):
                return Continue(curve.number)
        return Wait() if paused and any(curve.is_pending for curve in curves) else None

    def why(self, curves: Sequence[Curve], number: int) -> str:
        verdict = self.judge(curves, number)
        return verdict.reason if isinstance(verdict, Stop) else ""


class Never(Judging):
    """Trains every trial to its end."""

    def judge(self, curves: Sequence[Curve], number: int) -> Verdict:
        return GoOn()


class Cutting(Judging):
    """ASHA as Ray has it: a trial ends at a rung unless it is among the best 1/eta of those that were there before."""

    def __init__(self, rungs: Sequence[int], eta: float, num_brackets: int):
        self._rungs, self._eta, self._brackets = rungs, eta, Brackets(rungs, eta, num_brackets)

    def judge(self, curves: Sequence[Curve], number: int) -> Verdict:
        bracket = self._brackets.of(number)
        own = [curve for curve in curves if self._brackets.of(curve.number) == bracket]
        rung, value, others = _beside(own, number)
        if rung < bracket or not others or value <= np.percentile(others, 100 / self._eta):
            return GoOn()
        return Stop(f"{_place(own, number, self._rungs)}; the best {_fraction(self._eta)} trains on")


class Median(Judging):
    """The median rule: a trial ends at a rung if its best value so far is worse than the others' median there."""

    def __init__(self, rungs: Sequence[int], num_others: int, warmup_tokens: int):
        """No trial ends before `warmup_tokens`, nor at a rung that fewer than `num_others` others have reached."""
        self._rungs, self._num_others, self._warmup_tokens = rungs, num_others, warmup_tokens

    def judge(self, curves: Sequence[Curve], number: int) -> Verdict:
        rung, _, others = _beside(curves, number)
        if self._rungs[rung] < self._warmup_tokens or len(others) < max(1, self._num_others):
            return GoOn()
        curve = next(curve for curve in curves if curve.number == number)
        best, median = min(map(float, curve.values.values())), float(np.median(others))
        if best <= median:
            return GoOn()
        return Stop(f"worse than the median of {len(others)} others at {self._rungs[rung]:,} tokens")


def ranked(curves: Sequence[Curve], rung: int) -> list[Curve]:
    """The trials with a value at the rung, the best first; of equal ones the earlier trial."""
    return sorted((c for c in curves if rung in c.values), key=lambda c: (_value(c, rung), c.number))


def _value(curve: Curve, rung: int) -> float:
    """The value at a rung; infinite for a trial that failed there or later."""
    failed = any(math.isnan(value) for value in curve.values.values())
    return math.inf if failed else curve.values.get(rung, math.inf)


def _beside(curves: Sequence[Curve], number: int) -> tuple[int, float, list[float]]:
    """A trial's deepest rung, its value there, and the finite values of the others there."""
    curve = next(curve for curve in curves if curve.number == number)
    rung = curve.deepest
    others = [c.values[rung] for c in curves if c is not curve and math.isfinite(c.values.get(rung, math.nan))]
    return rung, curve.values[rung], others


def _place(curves: Sequence[Curve], number: int, rungs: Sequence[int]) -> str:
    """`7th of 9 at 12,000 tokens`."""
    rung = next(curve for curve in curves if curve.number == number).deepest
    order = [curve.number for curve in ranked(curves, rung)]
    return f"{_ordinal(order.index(number) + 1)} of {len(order)} at {rungs[rung]:,} tokens"


def _ordinal(n: int) -> str:
    suffix = "th" if 11 <= n % 100 <= 13 else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{suffix}"


def _fraction(eta: float) -> str:
    return _FRACTIONS.get(int(eta), f"{100 / eta:.0f} %") if eta == int(eta) else f"{100 / eta:.0f} %"
