"""A space: the parameters of one guide with their ranges and relations (loading.py reads it from YAML).

A space knows how to complete a configuration (fixed and derived values, conditions), whether one lies inside it, and
how to turn a configuration into what the trainer takes; narrowing.py makes a smaller one of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from search.space.document import Document, Path_
from search.space.expression import Expression, ExpressionError
from search.space.interval import interval
from search.space.parameter import Parameter, Value, Values, given_value, listed, typed
from search.space.spec import BudgetSpec, LimitSpec, SpaceSpec
from trainer.checks import unknown_name
from trainer.config import TrainConfig
from trainer.families.family import Source

SHRUNK = "reference shrunk to fit"
"""The name of a reference that is none of the presets, see search/strategy/reference.py."""


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
    family: str  # as the trainer takes it: the file of a user's own family as an absolute path
    parameters: dict[str, Parameter]
    rules: tuple[Rule, ...]
    presets: dict[str, Preset]
    family_source: Source | None = None  # where the family comes from, if it is not the trainer's
    changes: tuple[str, ...] = ()  # what the command line narrowed, as the user wrote it

    @property
    def searched(self) -> dict[str, Parameter]:
        return {name: p for name, p in self.parameters.items() if p.is_searched}

    @property
    def aliases(self) -> dict[str, str]:
        """The parameter behind each other name that presets and `--set` may use."""
        return {alias: name for name, p in self.parameters.items() for alias in p.spec.aliases}

    @property
    def has_guide(self) -> bool:
        """Whether it writes down a guide, and its presets are a guide's; a space of one's own names none."""
        return bool(self.spec.guide or self.spec.source)

    @property
    def whose(self) -> str:
        """Whose presets these are, in words."""
        return "the guide's" if self.has_guide else "your"

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
        merged: dict[str, LimitSpec] = dict(self.spec.limits.items())
        for name, limit in budget.limits.items():
            merged[name] = tighter(limit, merged.get(name, LimitSpec()))
        return merged

    def led_by(self, preset: Preset) -> Space:
        """The space with that preset first, so that it is the reference; in place of one of its name."""
        others = {name: other for name, other in self.presets.items() if name != preset.name}
        return replace(self, presets={preset.name: preset, **others})

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


def tighter(one: LimitSpec, other: LimitSpec) -> LimitSpec:
    """The limit that two on one measurement make together."""
    lows = [limit.min for limit in (one, other) if limit.min is not None]
    highs = [limit.max for limit in (one, other) if limit.max is not None]
    return LimitSpec(min=max(lows, default=None), max=min(highs, default=None))


def rungs_of(budget: BudgetSpec) -> tuple[int, ...]:
    """The token counts at which trials are compared: min_tokens, eta times apart, and max_tokens at the end."""
    rungs, tokens = [], budget.min_tokens
    while tokens < budget.max_tokens:
        rungs.append(tokens)
        tokens *= budget.eta
    return (*rungs, budget.max_tokens)


def next_rung(tokens: int, rungs: tuple[int, ...]) -> int | None:
    """The first rung above `tokens`, or None when the budget is spent."""
    return next((rung for rung in rungs if rung > tokens), None)


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
    return parameter.clipped(_widest(space, parameter.low)[0], _widest(space, parameter.high)[1])


def _widest(space: Space, end: Expression | float | None) -> tuple[float, float]:
    """What an end of a range can be."""
    assert end is not None
    if isinstance(end, Expression):
        return interval(end, lambda name: extremes(space, space.parameters[name]))
    return end, end


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
    if not waiting:
        return []
    walked: list[str] = []
    name = next(iter(waiting))
    while name not in walked:
        walked.append(name)
        name = next(n for n in waiting if n in waiting[name].reads)
    return walked[walked.index(name) :]


def _circle(parameters: dict[str, Parameter]) -> str:
    circle = circle_in(parameters)
    if len(circle) == 1:
        return f"{circle[0]} is defined by itself"
    return f"these parameters are defined by each other: {' reads '.join([*circle, circle[0]])}"


def not_in(space: Space, parameter: Parameter, value: Value) -> str | None:
    """Why `value` is not one that the parameter can have in any configuration, or None."""
    if not parameter.is_range:
        return None if value in parameter.choices else f"{given_value(value)} is none of {listed(parameter.choices)}"
    low, high = extremes(space, parameter)
    return replace(parameter, low=low, high=high).fault_of(value, {})
