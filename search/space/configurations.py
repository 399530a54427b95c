"""Identifies and lists configurations: which two are the same, and everything launchable in a finite space.

A space without a continuous parameter is listed by backtracking: one parameter after another, first those that share
rules. Each rule is checked as soon as its parameters have values. Limits need whole configurations.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from search.space.expression import ExpressionError
from search.space.parameter import Parameter, Value, Values, typed
from search.space.space import Rule, Space

MAX_STEPS = 200_000  # values tried while listing a space, about 10 us each
MAX_CHECKS = 10_000  # whole configurations checked, some 200 us each

Identity = frozenset[tuple[str, Hashable]]


def identity(values: Values) -> Identity:
    """Equal for two complete configurations that are the same: 1 equals 1.0, and rounding errors do not count."""
    return frozenset((name, float(f"{v:.12g}") if isinstance(v, float) else v) for name, v in values.items())


def same_presets(space: Space) -> dict[str, str]:
    """The presets that equal an earlier one, and which one; narrowing a space can cause that."""
    first: dict[Identity, str] = {}
    found = {name: first.setdefault(identity(space.complete(p.values)), name) for name, p in space.presets.items()}
    return {name: other for name, other in found.items() if name != other}


@dataclass(frozen=True)
class Listing:
    """Launchable configurations, each once; `is_whole`: there are no others."""

    configurations: list[dict[str, Value]]
    is_whole: bool

    @classmethod
    def of(
        cls,
        space: Space,
        reasons_against: Callable[[Values], list[str]],
        *,
        at_most: float = math.inf,
        points: int | None = None,
    ) -> Listing:
        """The launchable configurations of a space. Not the whole if there is a continuous parameter, if there is too
        much to try, or if there are more than `at_most`.

        With `points` it is a grid: ranges with more values than that are represented by so many.
        """
        search = _Backtracking(space, reasons_against, at_most, points)
        try:
            search.visit(0)
        except _Cut:
            return cls([*search.found.values()], False)
        return cls([*search.found.values()], True)


class _Cut(Exception):
    """The listing stops before it is complete."""


@dataclass
class _Backtracking:
    """The state of a listing: the values chosen so far, what was found, and the work done."""

    space: Space
    reasons_against: Callable[[Values], list[str]]
    at_most: float
    points: int | None = None
    values: dict[str, Value] = field(default_factory=dict)
    found: dict[Identity, dict[str, Value]] = field(default_factory=dict)
    num_steps: int = 0
    num_checks: int = 0

    def __post_init__(self) -> None:
        self._order = [*_in_order(self.space)]
        position = {parameter.name: i for i, parameter in enumerate(self._order)}
        self._rules_at: list[list[Rule]] = [[] for _ in self._order]
        for rule in self.space.rules:
            if rule.require.names:
                self._rules_at[max(position[name] for name in rule.require.names)].append(rule)

    def visit(self, depth: int) -> None:
        """List everything that the parameters from `depth` on can be, given the values chosen so far. Raises _Cut."""
        if depth == len(self._order):
            self._take()
            return
        parameter = self._order[depth]
        for values in self._options(parameter):
            self.num_steps += 1
            if self.num_steps > MAX_STEPS:
                raise _Cut
            self.values.update(values)
            if all(not rule.require.names <= self.values.keys() or rule.holds(self.values)
                   for rule in self._rules_at[depth]):  # fmt: skip
                self.visit(depth + 1)
            self.values.pop(parameter.name, None)

    def _options(self, parameter: Parameter) -> Iterator[dict[str, Value]]:
        """What to add for a parameter, in turn: a value, or nothing if it is inactive; no options for a dead end."""
        try:
            if not parameter.is_active(self.values):
                yield {}
                return
            if parameter.derived is not None:
                options: Iterable[Any] = (parameter.computed(parameter.derived, self.values),)
            elif parameter.is_range:
                low, high = parameter.bounds(self.values)
                whole = _values_of_range if self.points is None else functools.partial(grid_values, points=self.points)
                options = whole(parameter, low, high)
            else:
                options = parameter.choices
        except ExpressionError:
            return
        yield from ({parameter.name: value} for value in options)

    def _take(self) -> None:
        self.num_checks += 1
        if self.num_checks > MAX_CHECKS:
            raise _Cut
        complete = {name: self.values[name] for name in self.space.parameters if name in self.values}
        if not self.reasons_against(complete):
            self.found.setdefault(identity(complete), complete)
            if len(self.found) > self.at_most:
                raise _Cut


def grid_values(parameter: Parameter, low: float, high: float, *, points: int) -> Sequence[Value]:
    """All values from `low` to `high` if there are at most `points`; else so many, evenly spaced on the axis."""
    if low > high:
        return ()
    is_discrete = bool(parameter.step) or parameter.type is int
    number = parameter.num_steps(low, high) + 1 if parameter.step else high - low + 1
    if low == high or is_discrete and number <= points:
        return [*_values_of_range(parameter, low, high)]
    start, end = (math.log(low), math.log(high)) if parameter.log else (low, high)
    between = [start + (end - start) * i / (points - 1) for i in range(points)] if points > 1 else [(start + end) / 2]
    values = [float(f"{math.exp(value) if parameter.log else value:.6g}") for value in between]
    values = [min(high, max(low, value)) for value in values]
    if parameter.step:
        values = [parameter.nth(low, round((value - low) / parameter.step)) for value in values]
    elif parameter.type is int:
        values = [round(value) for value in values]
    return [*dict.fromkeys(typed(value, parameter.type) for value in values)]


def _values_of_range(parameter: Parameter, low: float, high: float) -> Iterable[Value]:
    """The values from `low` to `high`. Raises _Cut if there are infinitely or too many."""
    if low > high:
        return ()
    if low == high:
        return (typed(low, parameter.type),)
    if parameter.step:
        return (parameter.nth(low, i) for i in range(parameter.num_steps(low, high) + 1))
    if parameter.type is not int:
        raise _Cut
    return range(int(low), int(high) + 1)


def _in_order(space: Space) -> Iterator[Parameter]:
    """The parameters, each after those it reads: first those with a single value, then those that share rules."""
    waiting = dict(space.parameters)
    tied = frozenset().union(*(rule.require.names for rule in space.rules))

    def rank(name: str) -> tuple[bool, float, bool]:
        num_open = [len(rule.require.names & waiting.keys()) for rule in space.rules if name in rule.require.names]
        return waiting[name].is_searched, min((n for n in num_open), default=math.inf), name not in tied

    while waiting:
        ready = [name for name, parameter in waiting.items() if not parameter.reads & waiting.keys()]
        yield waiting.pop(min(ready, key=rank))
