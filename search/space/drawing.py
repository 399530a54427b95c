"""Random configurations of a space: each parameter uniform within the bounds that the others set."""

from __future__ import annotations

import math

import numpy as np

from search.space.parameter import Parameter, Value, Values, typed
from search.space.space import Space


def random_values(space: Space, rng: np.random.Generator) -> dict[str, Value]:
    """A complete random configuration: each parameter uniform (on its log axis) within the bounds that the others set.

    It lies in every range that is not empty, but may break a rule. Raises ExpressionError if an expression has no value
    for the drawn parameters.
    """

    def draw(parameter: Parameter, values: Values) -> Value:
        if parameter.is_range:
            return _draw(parameter, *parameter.bounds(values), rng)
        return parameter.choices[rng.integers(len(parameter.choices)) if parameter.is_searched else 0]

    return space.filled(draw)


def _draw(parameter: Parameter, low: float, high: float, rng: np.random.Generator) -> Value:
    if low >= high:
        return typed(low, parameter.type)  # the range is empty, so the value is outside it and will be rejected
    if parameter.step:
        return parameter.nth(low, int(rng.integers(parameter.num_steps(low, high) + 1)))
    if parameter.type is int and not parameter.log:
        return int(rng.integers(int(low), int(high) + 1))
    if parameter.type is int:
        return int(min(high, max(low, round(math.exp(rng.uniform(math.log(low - 0.5), math.log(high + 0.5)))))))
    if parameter.log:
        return float(min(high, max(low, math.exp(rng.uniform(math.log(low), math.log(high))))))
    return float(rng.uniform(low, high))
