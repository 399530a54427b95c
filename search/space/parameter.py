"""One parameter of a space: its values, its range (whose bounds may depend on other parameters), its condition."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from search.space.document import MAX_NUMBER
from search.space.expression import Expression, ExpressionError
from search.space.spec import ParameterSpec

Value = bool | int | float | str
Values = Mapping[str, Value]

MAX_LISTED = 12


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter that is fixed, derived, or searched over `choices` or over the range from `low` to `high`."""

    name: str
    type: type
    choices: tuple[Value, ...] = ()
    low: Expression | float | int | None = None
    high: Expression | float | int | None = None
    at_least: float | int | None = None  # if a goal has cut the range
    at_most: float | int | None = None
    log: bool = False
    step: float | int | None = None
    derived: Expression | None = None
    default: Expression | Value | None = None
    when: Expression | None = None
    spec: ParameterSpec = ParameterSpec()

    @property
    def is_searched(self) -> bool:
        return self.derived is None and len(self.choices) != 1

    @property
    def is_range(self) -> bool:
        return self.low is not None

    @property
    def expressions(self) -> dict[str, Expression]:
        """Its expressions, by their keys in the space file."""
        parts = {"min": self.low, "max": self.high, "derive": self.derived, "default": self.default, "when": self.when}
        return {key: part for key, part in parts.items() if isinstance(part, Expression)}

    @property
    def reads(self) -> frozenset[str]:
        """The parameters that this one's bounds, default, condition or formula read."""
        return frozenset().union(*(part.names for part in self.expressions.values()))

    def fixed_to(self, value: Value) -> Parameter:
        none: dict[str, Any] = dict.fromkeys(("low", "high", "at_least", "at_most", "step", "derived"))
        return replace(self, choices=(value,), default=value, log=False, **none)

    def is_active(self, values: Values) -> bool:
        """Whether its condition holds; a condition that reads an inactive parameter does not hold."""
        return self.when is None or (self.when.names <= values.keys() and bool(self.when.evaluate(values)))

    def bounds(self, values: Values) -> tuple[float, float]:
        """The range for these values of the other parameters, both ends included; empty if low is above high.

        Raises ExpressionError if a bound has no usable value.
        """
        low, high = (_number(part, values) for part in (self.low, self.high))
        return self.clipped(low, high)

    def clipped(self, low: float, high: float) -> tuple[float, float]:
        """A range of its expressions adapted to this parameter: whole if its type is, and within the goals' cuts."""
        if max(abs(low), abs(high)) > MAX_NUMBER:
            raise ExpressionError(f"the range of {self.name} reaches beyond 2**53")
        if self.log and low <= 0:
            raise ExpressionError(f"the logarithmic range of {self.name} starts at {shown(low)}")
        if self.at_least is not None:
            low = max(low, self.at_least)
        if self.at_most is not None:
            high = min(high, self.at_most)
        return (math.ceil(low), math.floor(high)) if self.type is int else (float(low), float(high))

    def on_grid(self, low: float, high: float) -> float:
        """The largest value of the range that is `low` plus a whole number of steps."""
        if self.step is None or low > high:
            return high
        start, end, step = (Decimal(str(part)) for part in (low, high, self.step))
        return type(high)(start + (end - start) // step * step)

    def num_steps(self, low: float, high: float) -> int:
        """How many whole steps fit between two ends of a range with a step."""
        assert self.step
        return math.floor((high - low) / self.step + 1e-9)

    def nth(self, low: float, count: int) -> float:
        """The value this many steps above `low`, as one would write it: 0.3 and not 0.30000000000000004."""
        return typed(float(Decimal(str(low)) + count * Decimal(str(self.step))), self.type)

    def default_for(self, values: Values) -> Value:
        assert self.default is not None, f"{self.name} has no default"
        return self.computed(self.default, values) if isinstance(self.default, Expression) else self.default

    def computed(self, expression: Expression, values: Values) -> Value:
        """The expression's value in this parameter's type. Raises ExpressionError if it has none."""
        value = expression.evaluate(values)
        if (found := checked_value(value, self.type)) is None:
            raise ExpressionError(f"{self.name} is {kind_name(self.type)}, but {expression} is not always")
        if not isinstance(found, str) and abs(found) > MAX_NUMBER:
            raise ExpressionError(f"{expression} is beyond 2**53")
        return found

    def fault_of(self, value: Value, values: Values) -> str | None:
        """Why `value` is not valid for this parameter, or None."""
        if not self.is_range:
            if value in self.choices:
                return None
            if len(self.choices) == 1:
                return f"{given_value(value)} is not {given_value(self.choices[0])}, to which it is fixed"
            return f"{given_value(value)} is not one of {listed(self.choices)}"
        low, high = self.bounds(values)
        if low > high:
            return f"{given_value(value)}: the range {shown(low)} to {shown(high)} is empty"
        if isinstance(value, (str, bool)) or not low <= value <= high:
            return f"{given_value(value)} is not in {shown(low)} to {shown(high)}"
        if self.step and abs((value - low) / self.step - round((value - low) / self.step)) > 1e-9:
            return f"{given_value(value)} is not {shown(low)} plus a multiple of {shown(self.step)}"
        return None


def typed(value: Any, kind: type) -> Any:
    """A whole float as an int if an int is needed, an int as a float if a float is; anything else unchanged."""
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def checked_value(value: Any, kind: type[Value]) -> Value | None:
    """`value` as `kind`, or None if it has another type."""
    if kind in (int, float) and isinstance(value, bool):
        return None
    value = typed(value, kind)
    return value if isinstance(value, kind) else None


def kind_name(kind: type) -> str:
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]


def listed(values: Iterable[Value]) -> str:
    """The values, separated by commas; of many, the first and the last."""
    names = [shown(value) for value in values]
    if len(names) > MAX_LISTED:
        names = [*names[: MAX_LISTED - 2], "...", names[-1]]
    return ", ".join(names)


def shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def given_value(value: Value) -> str:
    return repr(value) if isinstance(value, str) else shown(value)


def _number(part: Expression | float | int | None, values: Values) -> float:
    value = part.evaluate(values) if isinstance(part, Expression) else part
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ExpressionError(f"{part} is {value!r}, not a number")
    return value
