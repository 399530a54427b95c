"""Narrows a space: by what a budget sets, by goals of the guide, and by `--set`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from search.space.document import parse_number
from search.space.expression import Expression, ExpressionError, parse_expression
from search.space.measurement import MEASURED
from search.space.names import unknown_measurement
from search.space.parameter import Parameter, Value, Values, checked_value, kind_name, shown, typed
from search.space.space import Space, extremes, in_order, not_in, tighter
from search.space.spec import BudgetSpec, GoalSpec, LimitSpec, MetricSpec
from search.space.synonyms import unknown_parameter
from trainer.checks import unknown_name


def narrow(
    space: Space,
    *,
    budget: BudgetSpec | None = None,
    goals: Iterable[str] = (),
    assignments: Iterable[str] = (),
    metrics: Iterable[str] = (),
) -> Space:
    """The space with the budget's values set, goals applied and parameters fixed by `name=value`.

    `metrics` replace those of the space. Raises ValueError, naming the mistake.
    """
    goals, assignments, metrics = tuple(goals), tuple(assignments), tuple(metrics)
    if metrics:
        space = _with_metrics(space, metrics)
    if budget is not None:
        space = _with_budget(space, budget)
    space = replace(space, changes=(*space.changes, *(f"goal {g}" for g in goals), *(f"set {a}" for a in assignments)))
    space = _with_assignments(_with_goals(space, goals), assignments)
    try:
        defaults = space.complete({})
    except ExpressionError as error:
        raise ValueError(f"{', '.join(space.changes)}: the defaults have no value any more: {error}") from None
    for assignment in assignments:
        _check_condition(space, assignment, defaults)
    return space


def limited(space: Space, budget: BudgetSpec, limits: Iterable[str]) -> BudgetSpec:
    """The budget with further limits, `num_params=2M` or `tokens_per_second=1000..`. Raises ValueError."""
    found: dict[str, LimitSpec] = dict(budget.limits.items())
    own: dict[str, LimitSpec] = dict(space.spec.limits.items())
    for text in limits:
        name, limit = _limit(text)
        found[name] = both = tighter(limit, found.get(name, LimitSpec()))
        whole = tighter(both, own.get(name, LimitSpec()))
        if whole.min is not None and whole.max is not None and whole.min > whole.max:
            raise ValueError(
                f"--limit {text}: with the other limits no {name} is left: at least {shown(whole.min)}, "
                f"at most {shown(whole.max)}"
            )
    return budget.model_copy(update={"limits": found})


_LIMIT = re.compile(r"\s*([^\s=<>:]*)\s*(<=|>=|=|:)\s*(.*?)\s*", re.DOTALL)


def _limit(text: str) -> tuple[str, LimitSpec]:
    match = _LIMIT.fullmatch(text)
    if match is None or not match.group(1) or not match.group(3):
        remedy = "write NAME=MAX, NAME=MIN..MAX or NAME=MIN.., such as num_params=2M; quote < and > for the shell"
        raise ValueError(f"--limit {text}: {remedy}")
    name, sign, value = match.groups()
    if name not in MEASURED:
        raise ValueError(f"--limit {text}: {unknown_measurement(name)}")
    low, dots, high = value.partition("..")
    if sign == ">=":
        low, high = value, ""
    elif not dots:
        if sign != "<=" and MEASURED[name].is_better_higher:
            raise ValueError(f"--limit {text}: of {name} more is better; for at least that write {name}={value}..")
        low, high = "", value
    numbers = [parse_number(end) if end.strip() else None for end in (low, high)]
    for end, number in zip((low, high), numbers, strict=True):
        if end.strip() and (number is None or math.isinf(number)):
            raise ValueError(f"--limit {text}: expected a number such as 0.5, 27M or 12 GiB, got {end.strip()!r}")
    if numbers == [None, None]:
        raise ValueError(f"--limit {text}: give a smallest value before .., or a largest after it")
    return name, LimitSpec(min=numbers[0], max=numbers[1])


def _with_budget(space: Space, budget: BudgetSpec) -> Space:
    """Fix what the budget sets, in the presets too, so that they are compared at the same cost per step."""
    values = {name: typed(value, space.parameters[name].type) for name, value in budget.set.items()}
    parameters = {name: p.fixed_to(values[name]) if name in values else p for name, p in space.parameters.items()}
    presets = {
        name: replace(preset, values={key: values.get(key, value) for key, value in preset.values.items()})
        for name, preset in space.presets.items()
    }
    return replace(space, parameters=in_order(parameters), presets=presets)


def _with_metrics(space: Space, names: tuple[str, ...]) -> Space:
    try:
        metrics = [MetricSpec.of(name) for name in names]
    except ValueError as error:
        raise ValueError(f"--metrics {','.join(names)}: {error}") from None
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ValueError(f"--metrics {','.join(names)}: {twice[0]} is listed twice")
    chosen = {"metric": metrics[0], "metrics": []} if len(names) == 1 else {"metrics": list(names)}
    return replace(space, spec=space.spec.model_copy(update=chosen))


def _with_goals(space: Space, goals: tuple[str, ...]) -> Space:
    """Apply the goals: raise keeps the values at or above the default, lower those at or below."""
    parameters = dict(space.parameters)
    moved: dict[str, list[_Move]] = {}
    defaults = space.complete({})
    for goal_name in goals:
        goal = space.spec.goals.get(goal_name)
        if goal is None and goal_name in space.spec.budgets:
            raise ValueError(f"{goal_name} is a budget, not a goal: --budget {goal_name}")
        if goal is None:
            raise ValueError(f"{space.document.source}: {unknown_name('goal', goal_name, space.spec.goals)}")
        for name, move in _moves(goal_name, goal):
            for other in moved.setdefault(name, []):
                if _contradict(space, space.parameters[name], move, other, defaults):
                    raise ValueError(
                        f"the goals {other.goal} and {goal_name} contradict each other: "
                        f"one would {other.in_words(name)}, the other {move.in_words('it')}"
                    )
            # A value that one goal sets stays, even if others cut the range around it.
            if not moved[name] or move.target is not None:
                parameters[name] = _moved(space, space.parameters[name], move, defaults)
            moved[name].append(move)
    narrowed = replace(space, parameters=in_order(parameters))
    for name, moves in moved.items():
        _check_not_empty(narrowed, narrowed.parameters[name], f"goal {moves[-1].goal}")
    return narrowed


@dataclass(frozen=True)
class _Move:
    """The effect of one goal on one parameter: raise it, lower it, or set it to `target`."""

    goal: str
    verb: str
    target: Value | None = None

    def in_words(self, name: str) -> str:
        return f"{self.verb} {name}" + ("" if self.target is None else f" to {shown(self.target)}")


def _moves(name: str, goal: GoalSpec) -> list[tuple[str, _Move]]:
    moves = [(moved, _Move(name, "raise")) for moved in goal.raises]
    moves += [(moved, _Move(name, "lower")) for moved in goal.lowers]
    return moves + [(moved, _Move(name, "set", target)) for moved, target in goal.set.items()]


def _contradict(space: Space, parameter: Parameter, one: _Move, other: _Move, defaults: Values) -> bool:
    """Whether no value of the parameter satisfies both; formulas are not checked beforehand."""
    if (one.verb, one.target) == (other.verb, other.target):
        return False
    value, kept = (one, other) if other.target is None else (other, one)
    if value.target is None or kept.target is not None:
        return True
    if isinstance(value.target, str) and parameter.type is not str:
        return True
    return not_in(space, _moved(space, parameter, kept, defaults), value.target) is not None


def _moved(space: Space, parameter: Parameter, move: _Move, defaults: Values) -> Parameter:
    target, goal_name = move.target, move.goal
    if isinstance(target, str) and parameter.type is not str:
        formula = replace(parameter.fixed_to(0), choices=(), default=None, derived=parse_expression(target))
        return formula
    if target is not None:
        if (value := checked_value(target, parameter.type)) is None:
            raise ValueError(f"goal {goal_name}: {parameter.name} is {kind_name(parameter.type)}, not {target!r}")
        if wrong := not_in(space, parameter, value):
            raise ValueError(f"goal {goal_name}: {parameter.name}: {wrong}")
        return parameter.fixed_to(value)
    default: Any = defaults.get(parameter.name, parameter.default)
    if isinstance(default, Expression):
        raise ValueError(
            f"goal {goal_name}: {parameter.name} has no default while it is inactive; goals move from there"
        )
    if parameter.is_range:
        return replace(parameter, **{"at_least" if move.verb == "raise" else "at_most": default})
    kept = tuple(c for c in parameter.choices if (c >= default if move.verb == "raise" else c <= default))
    return replace(parameter, choices=kept)


def _check_not_empty(space: Space, parameter: Parameter, cause: str) -> None:
    try:
        low, high = extremes(space, parameter) if parameter.is_range else (0, 0)
    except ExpressionError as error:
        raise ValueError(f"{cause}: {parameter.name}: {error}") from None
    if low > high or not (parameter.is_range or parameter.choices or parameter.derived):
        raise ValueError(f"{cause} leaves nothing of {parameter.name}")


def _with_assignments(space: Space, assignments: tuple[str, ...]) -> Space:
    """Fix each named parameter: a searched one inside its range, a fixed or derived one to any value of its type."""
    fixed: dict[str, Value] = {}
    written: dict[str, str] = {}
    for text in assignments:
        name, value = _assignment(space, text)
        as_written = text.partition("=")[0].strip()
        if written.setdefault(name, as_written) != as_written:
            raise ValueError(f"--set {text}: {as_written} and {written[name]} are one parameter; set one of them")
        if fixed.setdefault(name, value) != value:
            raise ValueError(f"--set {text}: {name} is set to {shown(fixed[name])} as well")
        parameter = space.parameters[name]
        if parameter.is_searched and (wrong := not_in(space, parameter, value)):
            goals = [change for change in space.changes if change.startswith("goal ")]
            after = f" (after {', '.join(goals)})" if goals else ""
            raise ValueError(f"--set {text}: {wrong}{after}; to search elsewhere, change the space")
    parameters = {name: p.fixed_to(fixed[name]) if name in fixed else p for name, p in space.parameters.items()}
    narrowed = replace(space, parameters=in_order(parameters))
    for name, parameter in narrowed.searched.items():
        _check_not_empty(narrowed, parameter, f"--set {', '.join(assignments)}") if name not in fixed else None
    return narrowed


def _assignment(space: Space, text: str) -> tuple[str, Value]:
    name, equals, raw = (part.strip() for part in text.partition("="))
    if not equals or not raw or not name:
        raise ValueError(f"--set {text}: write name=value")
    name = space.aliases.get(name, name)
    if name not in space.parameters:
        raise ValueError(f"--set {text}: {unknown_parameter(name, space.parameters)}")
    kind = space.parameters[name].type
    number = parse_number(raw)
    value: Any = raw if number is None or kind is str else number
    if kind is bool:
        value = {"true": True, "false": False}.get(raw.lower(), raw)
    if (checked := checked_value(value, kind)) is None or abs(number or 0) == float("inf"):
        raise ValueError(f"--set {text}: {name} is {kind_name(kind)}, not {raw!r}")
    return name, checked


def _check_condition(space: Space, assignment: str, defaults: Values) -> None:
    """Refuse to set a parameter that can never be active, because only unsearched parameters decide its condition."""
    name = assignment.partition("=")[0].strip()
    name = space.aliases.get(name, name)
    when = space.parameters[name].when
    if when is not None and name not in defaults and not any(space.parameters[n].is_searched for n in when.names):
        raise ValueError(f"--set {assignment}: {name} is only there where {when}, and that does not hold")
