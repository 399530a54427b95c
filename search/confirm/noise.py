"""How much of a difference between two means is noise: Welch's t-interval, from the standard library alone.

Welch (1947), The generalization of Student's problem when several different population variances are involved; the
incomplete beta function by the continued fraction of DLMF 8.17.22.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev, variance

CONFIDENCE = 0.95
POWER = 0.8  # the chance that the interval excludes zero with the number of seeds said to separate two means
MAX_SEEDS = 1000  # more separate nothing that matters
_TINY = 1e-300  # replaces a zero denominator


@dataclass(frozen=True)
class Difference:
    """A difference of two means, and the interval that holds the true one; no interval if there is no spread."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def is_tie(self) -> bool | None:
        """Whether the interval contains zero; None without an interval."""
        return None if self.low is None or self.high is None else self.low <= 0 <= self.high

    @classmethod
    def between(cls, sample: Sequence[float], baseline: Sequence[float], confidence: float = CONFIDENCE) -> Difference:
        """The mean of `sample` minus that of `baseline`; without an interval if either has a single value."""
        value = fmean(sample) - fmean(baseline)
        if min(len(sample), len(baseline)) < 2:
            return cls(value)
        errors = [variance(values) / len(values) for values in (sample, baseline)]
        if not (total := sum(errors)):
            return cls(value, value, value)
        shares = [error / total for error in errors]  # each at most 1: squares of tiny errors would underflow
        degrees = 1 / sum(s**2 / (len(values) - 1) for s, values in zip(shares, (sample, baseline), strict=True))
        margin = t_quantile((1 + confidence) / 2, degrees) * math.sqrt(total)
        return cls(value, value - margin, value + margin)


def seeds_to_separate(difference: float, one: float, other: float) -> int | None:
    """How many seeds of each of two configurations make their Welch interval exclude zero, with chance POWER.

    Assumes that the true difference and both standard deviations are as measured. None: more than MAX_SEEDS.
    """

    def is_enough(num: int) -> bool:
        error = math.hypot(one, other) / math.sqrt(num)
        if not error:
            return difference != 0
        shares = (one / math.hypot(one, other)) ** 2, (other / math.hypot(one, other)) ** 2
        degrees = (num - 1) / (shares[0] ** 2 + shares[1] ** 2)
        return abs(difference) > (t_quantile((1 + CONFIDENCE) / 2, degrees) + t_quantile(POWER, degrees)) * error

    numbers = range(2, MAX_SEEDS + 1)
    found = bisect.bisect_left(numbers, True, key=is_enough)
    return numbers[found] if found < len(numbers) else None


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation of the population that the values are a sample of (n - 1); None for a single value."""
    return stdev(values) if len(values) > 1 else None


def t_quantile(probability: float, degrees: float) -> float:
    """The quantile of Student's t with this many degrees of freedom, for a probability from 0.5 to below 1."""
    assert 0.5 <= probability < 1 and degrees > 0, (probability, degrees)
    above = 1 - probability
    high = 1.0
    while _t_above(high, degrees) > above:
        high *= 2
    low = 0.0
    while low < (middle := (low + high) / 2) < high:  # until no number lies between them
        if _t_above(middle, degrees) > above:
            low = middle
        else:
            high = middle
    return high


def _t_above(t: float, degrees: float) -> float:
    """The probability that Student's t exceeds t >= 0."""
    return incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5) / 2


def incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), for x from 0 to 1."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # here the fraction converges slowly, and its mirror image fast
        return 1 - incomplete_beta(1 - x, b, a)
    log_factor = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    # Lentz's algorithm, two terms per iteration
    numerator, denominator = 1.0, 1 / (1 - (a + b) * x / (a + 1) or _TINY)
    fraction, m, change = denominator, 0, 0.0
    while abs(change - 1) > 1e-15 and m < 10_000:
        m += 1
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            denominator = 1 / (1 + term * denominator or _TINY)
            numerator = 1 + term / numerator or _TINY
            change = numerator * denominator
            fraction *= change
    return math.exp(log_factor) * fraction / a
