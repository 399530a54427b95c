"""A space: the parameters of one guide with their ranges and relations (loading.py reads it from YAML).

A space knows how to complete a configuration (fixed and derived values, conditions), whether one lies inside it, how
to narrow itself by goals and `--set`, and how to turn a configuration into what the trainer takes.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from search.document import Document, Path_, parse_number
from search.expression import Expression, ExpressionError, parse_expression
from search.grammar import BudgetSpec, GoalSpec, LimitSpec, ParameterSpec, SpaceSpec
from trainer.config import TrainConfig, unknown_name

Value = bool | int | float | str
Values = Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter: fixed, derived, or searched over `choices` or over the range `low` to `high`."""

    name: str
    type: type
    choices: tuple[Value, ...] = ()
    low: Expression | float | int | None = None
    high: Expression | float | int | None = None
    log: bool = False
    step: float | int | None = None
    derived: Expression | None = None
    default: Expression | Value | None = None
    when: Expression | None = None
    spec: ParameterSpec = ParameterSpec()

    @property
    def is_searched(self) -> bool:
        return self.derived is None and (len(self.choices) != 1)

    @property
    def is_range(self) -> bool:
        return self.low is not None

    @property
    def reads(self) -> frozenset[str]:
        """The parameters whose values this one's bounds, default, condition or formula need."""
        parts = (self.low, self.high, self.derived, self.default, self.when)
        return frozenset().union(*(part.names for part in parts if isinstance(part, Expression)))

    def bounds(self, values: Values) -> tuple[float, float]:
        """The range, both ends included, where the other parameters have these values."""
        low, high = (_number(part, values) for part in (self.low, self.high))
        return (math.ceil(low), math.floor(high)) if self.type is int else (low, high)

    def default_for(self, values: Values) -> Value:
        value = self.default.evaluate(values) if isinstance(self.default, Expression) else self.default
        return _typed(value, self.type)

    def fault_of(self, value: Value, values: Values) -> str | None:
        """Why `value` is not in this parameter's range, or None."""
        if not self.is_range:
            return None if value in self.choices else f"{value!r} is none of {listed(self.choices)}"
        low, high = self.bounds(values)
        if isinstance(value, (str, bool)) or not low <= value <= high:
            return f"{value!r} is not in {shown(low)} to {shown(high)}"
        if self.step and abs((value - low) / self.step - round((value - low) / self.step)) > 1e-9:
            return f"{value!r} is not {shown(low)} plus a multiple of {shown(self.step)}"
        return None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A relation that every configuration must satisfy."""

    require: Expression
    why: str
    source: str
    path: Path_

    def holds(self, values: Values) -> bool:
        """False also where the rule has no value (a division by zero, say)."""
        try:
            return bool(self.require.evaluate(values))
        except ExpressionError:
            return False


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A configuration that the guide recommends, complete with the space's defaults."""

    name: str
    values: dict[str, Value]
    why: str = ""
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Space:
    """A checked space; `parameters` stand in the order in which their values can be computed."""

    spec: SpaceSpec
    document: Document
    parameters: dict[str, Parameter]
    rules: tuple[Rule, ...]
    presets: dict[str, Preset]
    changes: tuple[str, ...] = ()  # what the command line narrowed, as the user wrote it

    @property
    def family(self) -> str:
        return self.spec.family

    @property
    def searched(self) -> dict[str, Parameter]:
        return {name: p for name, p in self.parameters.items() if p.is_searched}

    @property
    def digest(self) -> str:
        """Identifies the text and the narrowing; comments and layout count, so that a difference is never missed."""
        text = "\n".join([self.document.text, *self.changes])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def reference(self) -> Preset | None:
        """The guide's own configuration, which every search is compared with: the first preset."""
        return next(iter(self.presets.values()), None)

    def budget(self, name: str | None = None) -> BudgetSpec:
        """The budget of that name, or the default one. Raises ValueError for a name the space does not have."""
        if name is None:
            return self.spec.budget
        if name not in self.spec.budgets:
            raise ValueError(f"{self.document.source}: {unknown_name('budget', name, self.spec.budgets)}")
        return self.spec.budgets[name]

    def limits(self, budget: BudgetSpec) -> dict[str, LimitSpec]:
        """The space's limits and the budget's; of two on one measurement, the tighter."""
        merged = dict(self.spec.limits)
        for name, limit in budget.limits.items():
            other = merged.get(name, LimitSpec())
            lows = [m for m in (limit.min, other.min) if m is not None]
            highs = [m for m in (limit.max, other.max) if m is not None]
            merged[name] = LimitSpec(min=max(lows, default=None), max=min(highs, default=None))
        return merged

    def complete(self, chosen: Values) -> dict[str, Value]:
        """Every active parameter's value: `chosen` where given, else its fixed, derived or default value.

        A parameter whose condition does not hold is left out, also where `chosen` names it.
        """
        values: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            if parameter.when is not None and not parameter.when.evaluate(values):
                continue
            if parameter.derived is not None:
                values[name] = _typed(parameter.derived.evaluate(values), parameter.type)
            elif name in chosen:
                values[name] = _typed(chosen[name], parameter.type)
            else:
                values[name] = parameter.default_for(values)
        return values

    def broken_rules(self, values: Values) -> list[Rule]:
        """The rules that a complete configuration does not satisfy; rules over inactive parameters hold."""
        return [rule for rule in self.rules if rule.require.names <= values.keys() and not rule.holds(values)]

    def faults_of(self, values: Values) -> list[str]:
        """Why a complete configuration is not in this space: out of range, or against a rule."""
        faults = [
            f"{name}: {fault}"
            for name, parameter in self.parameters.items()
            if name in values and parameter.is_searched and (fault := parameter.fault_of(values[name], values))
        ]
        return faults + [
            f"breaks the rule {rule.require}" + (f" ({rule.why})" if rule.why else "")
            for rule in self.broken_rules(values)
        ]

    def train_config(self, values: Values, *, rungs: Iterable[int], **run: Any) -> TrainConfig:
        """What the trainer takes for a complete configuration. Raises ConfigError where it cannot be trained."""
        return TrainConfig.from_flat(self.family, {**values, "rungs": tuple(rungs), **run})

    def narrowed(self, *, goals: Iterable[str] = (), assignments: Iterable[str] = ()) -> Space:
        """This space with goals applied and parameters fixed by `name=value`. Raises ValueError, naming the mistake."""
        goals, assignments = tuple(goals), tuple(assignments)
        parameters = _apply_goals(self, goals)
        for assignment in assignments:
            name, value = _assignment(self, assignment)
            parameters[name] = replace(
                parameters[name], choices=(value,), low=None, high=None, derived=None, default=value
            )
        changes = (*self.changes, *(f"goal {g}" for g in goals), *(f"set {a}" for a in assignments))
        return replace(self, parameters=in_order(parameters), changes=changes)


def rungs_of(budget: BudgetSpec) -> tuple[int, ...]:
    """The token counts at which trials are compared: min_tokens, eta times apart, and max_tokens at the end."""
    rungs, tokens = [], budget.min_tokens
    while tokens < budget.max_tokens:
        rungs.append(tokens)
        tokens *= budget.eta
    return (*rungs, budget.max_tokens)


def _apply_goals(space: Space, goals: tuple[str, ...]) -> dict[str, Parameter]:
    """The parameters narrowed by the goals: raise keeps the part at or above the default, lower the part below."""
    parameters = dict(space.parameters)
    moved: dict[str, tuple[str, str]] = {}
    defaults = space.complete({})
    for goal_name in goals:
        goal = space.spec.goals.get(goal_name)
        if goal is None:
            raise ValueError(f"{space.document.source}: {unknown_name('goal', goal_name, space.spec.goals)}")
        for name, direction in _moves(goal):
            if name in moved and moved[name][0] != direction:
                raise ValueError(
                    f"the goals {moved[name][1]} and {goal_name} contradict each other: "
                    f"one would {moved[name][0]} {name}, the other {direction} it"
                )
            moved[name] = (direction, goal_name)
            parameters[name] = _moved(parameters[name], direction, goal.set.get(name), defaults)
    return parameters


def _moves(goal: GoalSpec) -> list[tuple[str, str]]:
    return (
        [(n, "raise") for n in goal.raises]
        + [(n, "lower") for n in goal.lowers]
        + [(n, f"set to {v}") for n, v in goal.set.items()]
    )


def _moved(parameter: Parameter, direction: str, fixed: Any, defaults: Values) -> Parameter:
    if fixed is not None:
        if isinstance(fixed, str) and parameter.type is not str:
            return replace(parameter, derived=parse_expression(fixed), low=None, high=None, choices=())
        return replace(parameter, choices=(fixed,), low=None, high=None, default=fixed)
    default = defaults.get(parameter.name, parameter.default)
    if parameter.is_range:
        return replace(parameter, **{"low" if direction == "raise" else "high": default})
    kept = [c for c in parameter.choices if (c >= default if direction == "raise" else c <= default)]  # type: ignore[operator]
    return replace(parameter, choices=tuple(kept))


def _assignment(space: Space, text: str) -> tuple[str, Value]:
    name, equals, given = text.partition("=")
    name = name.strip()
    if not equals or not given.strip():
        raise ValueError(f"--set {text}: write name=value")
    if name not in space.parameters:
        raise ValueError(f"--set {text}: {unknown_name('parameter', name, space.parameters)}")
    kind = space.parameters[name].type
    raw = given.strip()
    number = parse_number(raw)
    value = checked_value(
        {"true": True, "false": False}.get(raw.lower(), raw if number is None or kind is str else number), kind
    )
    if value is None:
        raise ValueError(f"--set {text}: {name} is {kind_name(kind)}, not {raw!r}")
    return name, value


def in_order(parameters: dict[str, Parameter]) -> dict[str, Parameter]:
    """In an order in which each stands after those it reads. Raises ValueError for a circle."""
    ordered: dict[str, Parameter] = {}
    waiting = dict(parameters)
    while waiting:
        ready = [name for name, p in waiting.items() if p.reads & waiting.keys() <= set()]
        if not ready:
            raise ValueError(f"these parameters are defined by each other: {', '.join(sorted(waiting))}")
        for name in ready:
            ordered[name] = waiting.pop(name)
    return ordered


def extremes(space: Space, parameter: Parameter) -> tuple[float, float]:
    """The widest range that a parameter's bounds can take, evaluated at the corners of the parameters they read."""
    corners = [{}]
    for name in sorted(_all_reads(space, parameter)):
        other = space.parameters[name]
        if other.derived is not None:
            continue
        ends = list(other.choices) if not other.is_range else sorted(set(extremes(space, other)))
        ends = [ends[0], ends[-1]] if other.is_range else ends
        corners = [{**corner, name: _typed(end, other.type)} for corner, end in itertools.product(corners, ends)]
    bounds = [parameter.bounds(space.complete(corner)) for corner in corners]
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _all_reads(space: Space, parameter: Parameter) -> set[str]:
    reads = {n for part in (parameter.low, parameter.high) if isinstance(part, Expression) for n in part.names}
    return reads | {deep for name in reads for deep in _all_reads_of_derived(space, name)}


def _all_reads_of_derived(space: Space, name: str) -> set[str]:
    derived = space.parameters[name].derived
    return (
        set()
        if derived is None
        else set(derived.names) | {d for n in derived.names for d in _all_reads_of_derived(space, n)}
    )


def _number(part: Expression | float | int | None, values: Values) -> float:
    value = part.evaluate(values) if isinstance(part, Expression) else part
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ExpressionError(f"{part} is {value!r}, not a number")
    return value


def _typed(value: Any, kind: type) -> Value:
    """A computed value as the parameter's type: a whole float becomes an int where an int is needed."""
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def checked_value(value: Any, kind: type) -> Value | None:
    """`value` as `kind`, or None where it is of another kind."""
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        typed = _typed(value, kind)
        return typed if isinstance(typed, kind) else None
    return value if isinstance(value, kind) else None


def kind_name(kind: type) -> str:
    return {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]


def listed(values: Iterable[Value]) -> str:
    return ", ".join(shown(value) for value in values)


def shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
