"""A space: the parameters of a guide with their ranges and relations (loading.py reads it from YAML).

A space completes a configuration (fixed and derived values, conditions), says whether one lies inside it, and turns one
into the trainer's configuration; narrowing.py makes a smaller space of it.
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
"""The name of a reference that is not one of the presets, see search/strategy/reference.py."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A relation that every configuration must satisfy."""

    require: Expression
    why: str
    source: str  # including the guide's name
    path: Path_

    def __str__(self) -> str:
        """The relation, with its source and purpose: `a % b == 0 (Guide, section 1: heads split evenly)`."""
        notes = ": ".join(filter(None, [self.source, self.why]))
        return f"{self.require} ({notes})" if notes else str(self.require)

    def holds(self, values: Values) -> bool:
        """Whether the rule holds; False if it has no value (a division by zero, say)."""
        try:
            return bool(self.require.evaluate(values))
        except ExpressionError:
            return False


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A configuration that the guide recommends; `Space.complete(preset.values)` adds the space's defaults."""

    name: str
    values: dict[str, Value]
    why: str = ""
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class Space:
    """A checked space; `parameters` are in an order in which their values can be computed."""

    spec: SpaceSpec
    document: Document
    family: str  # as the trainer takes it: the user's own family by the absolute path of its file
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
        """Other names that presets and `--set` may use -> the parameter's name."""
        return {alias: name for name, p in self.parameters.items() for alias in p.spec.aliases}

    @property
    def has_guide(self) -> bool:
        """Whether the space names a guide, so that its presets are the guide's; a user's own space names none."""
        return bool(self.spec.guide or self.spec.source)

    @property
    def whose(self) -> str:
        """Whose presets they are, in words."""
        return "the guide's" if self.has_guide else "your"

    @property
    def reference(self) -> Preset | None:
        """The configuration that every search is compared with: the first preset."""
        return next(iter(self.presets.values()), None)

    def budget(self, name: str | None = None) -> BudgetSpec:
        """The budget with that name, or the default one. Raises ValueError if the space has no such budget."""
        if name is None:
            return self.spec.budget
        if name not in self.spec.budgets:
            raise ValueError(f"{self.document.source}: {unknown_name('budget', name, self.spec.budgets)}")
        return self.spec.budgets[name]

    def limits(self, budget: BudgetSpec) -> dict[str, LimitSpec]:
        """The limits of the space and of the budget; if both limit a measurement, the tighter bounds."""
        merged: dict[str, LimitSpec] = dict(self.spec.limits.items())
        for name, limit in budget.limits.items():
            merged[name] = tighter(limit, merged.get(name, LimitSpec()))
        return merged

    def led_by(self, preset: Preset) -> Space:
        """The space with that preset first, so that it is the reference; it replaces one with its name."""
        others = {name: other for name, other in self.presets.items() if name != preset.name}
        return replace(self, presets={preset.name: preset, **others})

    def complete(self, chosen: Values) -> dict[str, Value]:
        """Every active parameter's value: `chosen` if given, else its fixed, derived or default value.

        A parameter whose condition does not hold is left out, even if `chosen` has it. Raises ExpressionError if an
        expression has no value for this configuration.
        """
        return self.filled(
            lambda p, values: typed(chosen[p.name], p.type) if p.name in chosen else p.default_for(values)
        )

    def filled(self, value_for: Callable[[Parameter, Values], Value]) -> dict[str, Value]:
        """As `complete`, but `value_for` gives the value of each parameter that is not derived."""
        values: dict[str, Value] = {}
        for name, parameter in self.parameters.items():
            if parameter.is_active(values):
                derived = parameter.derived
                values[name] = parameter.computed(derived, values) if derived else value_for(parameter, values)
        return values

    def broken_rules(self, values: Values) -> list[Rule]:
        """The rules that a complete configuration breaks; rules over inactive parameters hold."""
        return [rule for rule in self.rules if rule.require.names <= values.keys() and not rule.holds(values)]

    def outside(self, values: Values) -> dict[str, str]:
        """The parameters of a complete configuration whose values are not valid, and why."""
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
        """Why a complete configuration is not in this space: out of range, or breaking a rule."""
        faults = [f"{name}: {fault}" for name, fault in self.outside(values).items()]
        return faults + [f"breaks the rule {rule}" for rule in self.broken_rules(values)]

    def train_config(self, values: Values, *, rungs: Iterable[int], **run: Any) -> TrainConfig:
        """The trainer's configuration for a complete configuration. Raises ConfigError if it cannot be trained."""
        return TrainConfig.from_flat(self.family, {**values, "rungs": tuple(rungs), **run})


def tighter(one: LimitSpec, other: LimitSpec) -> LimitSpec:
    """The limit that combines two limits on one measurement."""
    lows = [limit.min for limit in (one, other) if limit.min is not None]
    highs = [limit.max for limit in (one, other) if limit.max is not None]
    return LimitSpec(min=max(lows, default=None), max=min(highs, default=None))


def rungs_of(budget: BudgetSpec) -> tuple[int, ...]:
    """The token counts at which trials are compared: min_tokens times powers of eta, and max_tokens at the end."""
    rungs, tokens = [], budget.min_tokens
    while tokens < budget.max_tokens:
        rungs.append(tokens)
        tokens *= budget.eta
    return (*rungs, budget.max_tokens)


def next_rung(tokens: int, rungs: tuple[int, ...]) -> int | None:
    """The first rung above `tokens`, or None if the budget is spent."""
    return next((rung for rung in rungs if rung > tokens), None)


def extremes(space: Space, parameter: Parameter) -> tuple[float, float]:
    """The widest range of a parameter's values, over all values of the parameters that its bounds read.

    Raises ExpressionError if the bounds are not bounded themselves.
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
    """The range of one end of a range."""
    assert end is not None
    if isinstance(end, Expression):
        return interval(end, lambda name: extremes(space, space.parameters[name]))
    return end, end


def in_order(parameters: dict[str, Parameter]) -> dict[str, Parameter]:
    """The parameters in an order in which each comes after those it reads. Raises ValueError for a cycle."""
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
    """The parameters of one cycle of references, each reading the next; empty if there is none."""
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
    """Why the parameter can have this `value` in no configuration, or None."""
    if not parameter.is_range:
        return None if value in parameter.choices else f"{given_value(value)} is not one of {listed(parameter.choices)}"
    low, high = extremes(space, parameter)
    return replace(parameter, low=low, high=high).fault_of(value, {})
