"""A space: the parameters of one guide with their ranges and relations (loading.py reads it from YAML).

A space knows how to complete a configuration (fixed and derived values, conditions), whether one lies inside it, how
to narrow itself by goals and `--set`, and how to turn a configuration into what the trainer takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from search.document import Document, Path_, parse_number
from search.expression import Expression, ExpressionError, parse_expression
from search.grammar import BudgetSpec, GoalSpec, LimitSpec, SpaceSpec
from search.interval import interval
from search.parameter import Parameter, Value, Values, checked_value, given_value, kind_name, listed, shown, typed
from trainer.checks import unknown_name
from trainer.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A relation that every configuration must satisfy."""

    require: Expression
    why: str
    source: str  # with the guide's name
    path: Path_

    def __str__(self) -> str:
        """The relation, where the guide has it and what for: `a % b == 0 (Guide, section 1: heads split evenly)`."""
        told = ": ".join(filter(None, [self.source, self.why]))
        return f"{self.require} ({told})" if told else str(self.require)

    def holds(self, values: Values) -> bool:
        """False also where the rule has no value (a division by zero, say)."""
        try:
            return bool(self.require.evaluate(values))
        except ExpressionError:
            return False


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What the guide recommends; `Space.complete(preset.values)` adds the defaults, also those that were narrowed."""

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
    def aliases(self) -> dict[str, str]:
        """The parameter behind each other name that presets and `--set` may use."""
        return {alias: name for name, p in self.parameters.items() for alias in p.spec.aliases}

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
        merged: dict[str, LimitSpec] = dict(self.spec.limits)
        for name, limit in budget.limits.items():
            other = merged.get(name, LimitSpec())
            lows = [m for m in (limit.min, other.min) if m is not None]
            highs = [m for m in (limit.max, other.max) if m is not None]
            merged[name] = LimitSpec(min=max(lows, default=None), max=min(highs, default=None))
        return merged

    def complete(self, chosen: Values) -> dict[str, Value]:
        """Every active parameter's value: `chosen` where given, else its fixed, derived or default value.

        A parameter whose condition does not hold is left out, also where `chosen` names it. Raises ExpressionError
        where an expression has no value for this configuration.
        """
        return self.filled(
            lambda p, values: typed(chosen[p.name], p.type) if p.name in chosen else p.default_for(values)
        )

    def filled(self, value_for: Callable[[Parameter, Values], Value]) -> dict[str, Value]:
        """As `complete`, with `value_for` giving the value of each parameter that is not derived."""
        values: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            if parameter.is_active(values):
                derived = parameter.derived
                values[name] = parameter.computed(derived, values) if derived else value_for(parameter, values)
        return values

    def broken_rules(self, values: Values) -> list[Rule]:
        """The rules that a complete configuration does not satisfy; rules over inactive parameters hold."""
        return [rule for rule in self.rules if rule.require.names <= values.keys() and not rule.holds(values)]

    def outside(self, values: Values) -> dict[str, str]:
        """The parameters of a complete configuration that have no value of theirs, and why."""
        found = {}
        for name, parameter in self.parameters.items():
            if name in values and parameter.derived is None:
                try:
                    fault = parameter.fault_of(values[name], values)
                except ExpressionError as error:
                    fault = str(error)
                if fault:
                    found[name] = fault
        return found

    def faults_of(self, values: Values) -> list[str]:
        """Why a complete configuration is not in this space: out of range, or against a rule."""
        faults = [f"{name}: {fault}" for name, fault in self.outside(values).items()]
        return faults + [f"breaks the rule {rule}" for rule in self.broken_rules(values)]

    def train_config(self, values: Values, *, rungs: Iterable[int], **run: Any) -> TrainConfig:
        """What the trainer takes for a complete configuration. Raises ConfigError where it cannot be trained."""
        return TrainConfig.from_flat(self.family, {**values, "rungs": tuple(rungs), **run})

    def narrowed(
        self, *, budget: BudgetSpec | None = None, goals: Iterable[str] = (), assignments: Iterable[str] = ()
    ) -> Space:
        """This space with what the budget sets, goals applied and parameters fixed by `name=value`.

        Raises ValueError, naming the mistake.
        """
        goals, assignments = tuple(goals), tuple(assignments)
        space = self if budget is None else _with_budget(self, budget)
        space = replace(
            space, changes=(*self.changes, *(f"goal {g}" for g in goals), *(f"set {a}" for a in assignments))
        )
        space = _with_assignments(_with_goals(space, goals), assignments)
        try:
            defaults = space.complete({})
        except ExpressionError as error:
            raise ValueError(f"{', '.join(space.changes)}: the defaults have no value any more: {error}") from None
        for assignment in assignments:
            _check_condition(space, assignment, defaults)
        return space


def rungs_of(budget: BudgetSpec) -> tuple[int, ...]:
    """The token counts at which trials are compared: min_tokens, eta times apart, and max_tokens at the end."""
    rungs, tokens = [], budget.min_tokens
    while tokens < budget.max_tokens:
        rungs.append(tokens)
        tokens *= budget.eta
    return (*rungs, budget.max_tokens)


def extremes(space: Space, parameter: Parameter) -> tuple[float, float]:
    """The widest range that a parameter's values can take, whatever the parameters have that its bounds read.

    Raises ExpressionError where the bounds have no bound themselves.
    """
    if parameter.derived is not None:
        return interval(parameter.derived, lambda name: extremes(space, space.parameters[name]))
    if not parameter.is_range:
        numbers = [choice for choice in parameter.choices if isinstance(choice, (int, float))]
        if not numbers:
            raise ExpressionError(f"{parameter.name} is text, not a number")
        return min(numbers), max(numbers)
    ends = [
        interval(part, lambda name: extremes(space, space.parameters[name]))
        if isinstance(part, Expression)
        else (part, part)
        for part in (parameter.low, parameter.high)
    ]
    return parameter.clipped(ends[0][0], ends[1][1])  # type: ignore[arg-type]


def in_order(parameters: dict[str, Parameter]) -> dict[str, Parameter]:
    """In an order in which each stands after those it reads. Raises ValueError for a circle."""
    ordered: dict[str, Parameter] = {}
    waiting = dict(parameters)
    while waiting:
        ready = [name for name, p in waiting.items() if not p.reads & waiting.keys()]
        if not ready:
            raise ValueError(f"{_circle(waiting)}; let one of them stand alone")
        for name in ready:
            ordered[name] = waiting.pop(name)
    return ordered


def circle_in(parameters: dict[str, Parameter]) -> list[str]:
    """The parameters of one circle of references, each reading the next; empty where there is none."""
    waiting = dict(parameters)
    while ready := [name for name, p in waiting.items() if not p.reads & waiting.keys()]:
        for name in ready:
            del waiting[name]
    walked: list[str] = []
    name = next(iter(waiting), None)
    while name is not None and name not in walked:
        walked.append(name)
        name = next(n for n in waiting if n in waiting[name].reads)
    return walked[walked.index(name) :] if name else []


def _circle(parameters: dict[str, Parameter]) -> str:
    circle = circle_in(parameters)
    if len(circle) == 1:
        return f"{circle[0]} is defined by itself"
    return f"these parameters are defined by each other: {' reads '.join([*circle, circle[0]])}"


def _with_budget(space: Space, budget: BudgetSpec) -> Space:
    """What the budget sets fixed, in the presets too: they are compared at the same cost of a step."""
    values = {name: typed(value, space.parameters[name].type) for name, value in budget.set.items()}
    parameters = {name: p.fixed_to(values[name]) if name in values else p for name, p in space.parameters.items()}
    presets = {
        name: replace(preset, values={key: values.get(key, value) for key, value in preset.values.items()})
        for name, preset in space.presets.items()
    }
    return replace(space, parameters=in_order(parameters), presets=presets)


def _with_goals(space: Space, goals: tuple[str, ...]) -> Space:
    """Narrowed by the goals: raise keeps the part at or above the default, lower the part at or below."""
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
                        f"one would {other.told(name)}, the other {move.told('it')}"
                    )
            # A value that a goal sets stands, whatever part the others keep around it.
            if not moved[name] or move.target is not None:
                parameters[name] = _moved(space, space.parameters[name], move, defaults)
            moved[name].append(move)
    narrowed = replace(space, parameters=in_order(parameters))
    for name, moves in moved.items():
        _check_not_empty(narrowed, narrowed.parameters[name], f"goal {moves[-1].goal}")
    return narrowed


@dataclass(frozen=True)
class _Move:
    """What one goal does to one parameter: raise it, lower it, or set it to `target`."""

    goal: str
    verb: str
    target: Value | None = None

    def told(self, name: str) -> str:
        return f"{self.verb} {name}" + ("" if self.target is None else f" to {shown(self.target)}")


def _moves(name: str, goal: GoalSpec) -> list[tuple[str, _Move]]:
    moves = [(moved, _Move(name, "raise")) for moved in goal.raises]
    moves += [(moved, _Move(name, "lower")) for moved in goal.lowers]
    return moves + [(moved, _Move(name, "set", target)) for moved, target in goal.set.items()]


def _contradict(space: Space, parameter: Parameter, one: _Move, other: _Move, defaults: Values) -> bool:
    """Whether no value of the parameter is what both ask for; of a formula nothing is known beforehand."""
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
    kept = tuple(c for c in parameter.choices if (c >= default if move.verb == "raise" else c <= default))  # type: ignore[operator]
    return replace(parameter, choices=kept)


def _check_not_empty(space: Space, parameter: Parameter, cause: str) -> None:
    try:
        low, high = extremes(space, parameter) if parameter.is_range else (0, 0)
    except ExpressionError as error:
        raise ValueError(f"{cause}: {parameter.name}: {error}") from None
    if low > high or not (parameter.is_range or parameter.choices or parameter.derived):
        raise ValueError(f"{cause} leaves nothing of {parameter.name}")


def not_in(space: Space, parameter: Parameter, value: Value) -> str | None:
    """Why `value` is not one that the parameter can have in any configuration, or None."""
    if not parameter.is_range:
        return None if value in parameter.choices else f"{given_value(value)} is none of {listed(parameter.choices)}"
    low, high = extremes(space, parameter)
    return replace(parameter, low=low, high=high).fault_of(value, {})


def _with_assignments(space: Space, assignments: tuple[str, ...]) -> Space:
    """Each named parameter fixed: a searched one inside its range, a fixed or derived one to any value of its type."""
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
        raise ValueError(f"--set {text}: {unknown_name('parameter', name, space.parameters)}")
    kind = space.parameters[name].type
    number = parse_number(raw)
    value: Any = raw if number is None or kind is str else number
    if kind is bool:
        value = {"true": True, "false": False}.get(raw.lower(), raw)
    if (checked := checked_value(value, kind)) is None or abs(number or 0) == float("inf"):
        raise ValueError(f"--set {text}: {name} is {kind_name(kind)}, not {raw!r}")
    return name, checked


def _check_condition(space: Space, assignment: str, defaults: Values) -> None:
    """Refuse to set what is never there, its condition reading only what is not searched and not holding."""
    name = assignment.partition("=")[0].strip()
    name = space.aliases.get(name, name)
    when = space.parameters[name].when
    if when is not None and name not in defaults and not any(space.parameters[n].is_searched for n in when.names):
        raise ValueError(f"--set {assignment}: {name} is only there where {when}, and that does not hold")
