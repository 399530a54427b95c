"""Asynchronous successive halving (ASHA, arXiv:1810.05934) as plain functions over plain records.

The stopping variant: a trial that reaches a rung goes on if it is among the best 1/eta of all that have reached the
rung so far, itself included. Values are "lower is better"; NaN is worse than every number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable


def survives(value: float, others: Iterable[float], eta: int) -> bool:
    """Whether a trial with `value` at a rung goes on, where `others` are the values of the rest that reached it.

    The first to arrive at a rung survives unless its value is NaN or infinite.
    """
    if not math.isfinite(value):
        return False
    others = list(others)
    num_better = sum(1 for other in others if other < value)
    return num_better < max(1, (len(others) + 1) // eta)


def next_rung(tokens: int, rungs: tuple[int, ...]) -> int | None:
    """The first rung above `tokens`, or None when the budget is spent."""
    return next((rung for rung in rungs if rung > tokens), None)
