"""Configurations as things to be counted: which two are the same, and all that a finite space lets be launched.

A space without a continuous parameter is listed by backtracking: parameter by parameter, those first that rules tie
together, and each rule asked as soon as it has its names. Limits have to wait for whole configurations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from search.space.expression import ExpressionError
from search.space.parameter import Parameter, Value, Values, typed
from search.space.space import Rule, Space

MAX_STEPS = 200_000  # values tried while a space is listed, some 10 us each
MAX_CHECKS = 10_000  # whole configurations checked, some 200 us each

Identity = frozenset[tuple[str, Hashable]]


def identity(values: Values) -> Identity:
    """Equal for two complete configurations that are the same: 1 and 1.0 are, as are numbers but for rounding."""
    return frozenset((name, float(f"{v:.12g}") if isinstance(v, float) else v) for name, v in values.items())


def same_presets(space: Space) -> dict[str, str]:
    """The presets that say the same as an earlier one, and which; narrowing a space can make them so."""
    first: dict[Identity, str] = {}
    found = {name: first.setdefault(identity(space.complete(p.values)), name) for name, p in space.presets.items()}
    return {name: other for name, other in found.items() if name != other}


@dataclass(frozen=True)
class Listing:
    """Configurations that may be launched, each once; `is_whole` says that there are no others."""

    configurations: list[dict[str, Value]]
    is_whole: bool

    @classmethod
    def of(cls, space: Space, reasons_against: Callable[[Values], list[str]], *, at_most: float = math.inf) -> Listing:
        """Those of a space. Not the whole where there is a continuous parameter, or too much to try, or more than
        `at_most`.
        """
        search = _Backtracking(space, reasons_against, at_most)
        try:
            search.visit(0)
        except _Cut:
            return cls([*search.found.values()], False)
        return cls([*search.found.values()], True)


class _Cut(Exception):
    """The listing ends before it is whole."""


@dataclass
class _Backtracking:
    """The state of a listing: the values chosen so far, what was found, and the work done."""

    space: Space
    reasons_against: Callable[[Values], list[str]]
    at_most: float
    values: dict[str, Value] = field(default_factory=dict)
    found: dict[Identity, dict[str, Value]] = field(default_factory=dict)
    num_steps: int = 0
    num_checks: int = 0

    def __post_init__(self) -> None:
        self._order = [*_in_order(self.space)]
        place = {parameter.name: i for i, parameter in enumerate(self._order)}
        self._rules_at: list[list[Rule]] = [[] for _ in self._order]
        for rule in self.space.rules:
            if rule.require.names:
                self._rules_at[max(place[name] for name in rule.require.names)].append(rule)

    def visit(self, depth: int) -> None:
        """All that the parameters from `depth` on can be after the values chosen so far. Raises _Cut."""
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
        """What to add for a parameter, in turn: a value, or nothing where it is not there; none for a dead end."""
        try:
            if not parameter.is_active(self.values):
                yield {}
                return
            if parameter.derived is not None:
                options: Iterable[Any] = (parameter.computed(parameter.derived, self.values),)
            elif parameter.is_range:
                options = _values_of_range(parameter, *parameter.bounds(self.values))
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


def _values_of_range(parameter: Parameter, low: float, high: float) -> Iterable[Value]:
    """Those from `low` to `high`. Raises _Cut where there is no counting them."""
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
    """The parameters, each after those it reads: as early as may be what has one value, and then what rules tie."""
    waiting = dict(space.parameters)
    tied = frozenset().union(*(rule.require.names for rule in space.rules))

    def rank(name: str) -> tuple[bool, float, bool]:
        num_open = [len(rule.require.names & waiting.keys()) for rule in space.rules if name in rule.require.names]
        return waiting[name].is_searched, min((n for n in num_open), default=math.inf), name not in tied

    while waiting:
        ready = [name for name, parameter in waiting.items() if not parameter.reads & waiting.keys()]
        yield waiting.pop(min(ready, key=rank))
