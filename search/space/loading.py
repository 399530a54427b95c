"""Loads space files: YAML into a checked Space, with all faults of the file reported at once, each with its line.

First each entry is checked by itself (here). If all are valid, the whole is checked: defaults, goals and presets
(checking.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args

from search.space.advice import check_advice
from search.space.checking import (
    check_budgets,
    check_build,
    check_claims,
    check_defaults,
    check_goals,
    check_ranges,
    checked_presets,
)
from search.space.diagnostics import read_spec
from search.space.document import Document, Faults, Path_, given, parse_entries, read_text
from search.space.expression import Expression, ExpressionError, parse_expression
from search.space.parameter import Parameter, checked_value, given_value, kind_name, listed, shown
from search.space.space import Rule, Space, circle_in, in_order
from search.space.spec import BudgetSpec, Limits, MetricSpec, ParameterSpec, SpaceSpec
from search.space.sweeps import parameters_of
from search.space.synonyms import advice_for, note_of, synonym, unknown_parameter
from trainer.config import parameter_types
from trainer.families.own import FamilyError, is_own, located
from trainer.families.registry import family_of, load

RESERVED = {
    *("data", "token_dtype", "text_key", "skip_bad", "cache_dir"),
    *("eval_tokens", "eval_bytes", "seed", "device", "num_threads"),
}
"""Fields of a training run that only the command line or the budget sets."""


def load_space(path: str | Path) -> Space:
    """Load and check a space file. Raises SpaceError with every fault found, each with its line."""
    return _build(parse_entries(read_text(path), str(path)))


def parse_space(text: str, source: str = "<space>", own_family: str | None = None) -> Space:
    """As `load_space`, for a text: a study stores its space's text.

    `own_family` is the user's own family of the space, already loaded; with "" only the trainer's families are allowed.
    If left out, the space's family is loaded as it is now.
    """
    return _build(parse_entries(text, source), own_family)


def _build(faults: Faults, own_family: str | None = None) -> Space:
    """The space of a document; `faults` has its faults so far."""
    document = faults.document
    family = own_family or _family(document, faults, may_load=own_family is None)
    spec = read_spec(document, faults, family)
    declared = set(document.value["parameters"]) if isinstance(document.value["parameters"], dict) else set()
    if not declared:
        faults.add("is empty", "parameters")
        faults.check()
    parameters = _parameters(spec, family, declared, faults)
    if family:
        _check_aliases(spec, family, faults)
    rules = tuple(_rules(spec, declared, faults))
    _check_goal_names(spec, declared, faults)
    _check_measurements(spec, faults)
    for name in spec.not_searched:
        if name in declared:
            faults.add("is under parameters as well; keep one", "not_searched", name)
    try:
        parameters = in_order(parameters)
    except ValueError as error:
        faults.add(str(error), "parameters", circle_in(parameters)[0])
    faults.check()

    space = Space(
        spec=spec,
        document=document,
        family=family,
        family_source=family_of(family).source,
        parameters=parameters,
        rules=rules,
        presets={},
    )
    check_defaults(space, faults)
    check_ranges(space, faults)
    faults.check()
    check_build(space, faults)
    faults.check()
    check_budgets(space, faults)
    check_goals(space, faults)
    space = replace(space, presets=dict(checked_presets(space, faults)))
    check_advice(space, faults)
    check_claims(space, faults)
    faults.check()
    return space


def _family(document: Document, faults: Faults, *, may_load: bool) -> str:
    """The space's family as the trainer takes it; empty, with a fault, if its name is unknown.

    Raises SpaceError if the user's own family cannot be used: without it no parameter can be checked.
    """
    word = document.value.get("family")
    if not isinstance(word, str) or faults.within("family"):
        return ""
    location = located(" ".join(word.split()), Path(document.source).parent)
    try:
        if is_own(location):
            if not may_load:
                raise FamilyError("nothing says which text of this family it is about")
            load(location)  # as it is now, even if this process has loaded it before
        parameter_types(location)
    except FamilyError as error:
        faults.add(str(error), "family")
        if is_own(location):
            faults.check()
        return ""
    return location


def _parameters(spec: SpaceSpec, family: str, declared: set[str], faults: Faults) -> dict[str, Parameter]:
    """The valid parameters; if the family is unknown, a name of any family is accepted."""
    types = {name: _plain(kind) for name, kind in parameters_of(family).items() if name not in RESERVED}
    parameters: dict[str, Parameter] = {}
    for name, entry in spec.parameters.items():
        if name in RESERVED:
            faults.add(f"is not for a space to set: {advice_for(name)}", "parameters", name)
        elif name not in types and not family:
            if ours := synonym(name, types):
                faults.add(f"here it is called {ours}{note_of(ours)}", "parameters", name)
        elif name not in types:
            faults.add(unknown_parameter(name, types), "parameters", name)
        elif types[name] not in (int, float, str, bool):
            faults.add("is not for a space to set", "parameters", name)
        else:
            parameter = _Reader(name, types[name], entry, faults).parameter()
            if parameter is not None:
                parameters[name] = parameter
                for key, part in parameter.expressions.items():
                    _check_names(part, declared, faults, "parameters", name, key)
    return parameters


def _plain(kind: Any) -> Any:
    """`int | None` as int: None means that the parameter is left out."""
    return next(k for k in get_args(kind) if k is not NoneType) if isinstance(kind, UnionType) else kind


def _check_aliases(spec: SpaceSpec, family: str, faults: Faults) -> None:
    taken = {**dict.fromkeys(parameter_types(family), ""), **dict.fromkeys(spec.parameters, "")}
    for name, entry in spec.parameters.items():
        for i, alias in enumerate(entry.aliases):
            path = ("parameters", name, "aliases", i)
            if not alias.isidentifier():
                faults.add(f"{given(alias)} is not a valid name; use letters, digits and _", *path)
            elif taken.setdefault(alias, name) != name:
                of = f"an alias of {taken[alias]}" if taken[alias] else "a parameter itself"
                faults.add(f"{alias} is {of}", *path)


def _check_names(expression: Expression, declared: set[str], faults: Faults, *path: str | int) -> None:
    for name in sorted(expression.names - declared):
        faults.add(f"{expression}: {unknown_parameter(name, declared)}", *path)


class _Reader:
    """Reads one entry of `parameters` into a Parameter, and reports its faults."""

    def __init__(self, name: str, kind: type, entry: ParameterSpec, faults: Faults):
        self.name, self.kind, self.entry, self.faults = name, kind, entry, faults

    def parameter(self) -> Parameter | None:
        entry, is_ranged = self.entry, self.entry.min is not None or self.entry.max is not None
        forms = [form for form in ("values", "value", "derive") if getattr(entry, form) is not None]
        forms += ["min and max"] * is_ranged
        if len(forms) != 1:
            both = " and ".join(["min or max" if f == "min and max" else f for f in forms])
            self._wrong(f"has both {both}; give one" if forms else "needs min and max, values, value or derive")
            return None
        form = forms[0]
        if form != "min and max" and (entry.log or entry.step is not None):
            self._wrong("belongs to a range with min and max", "log" if entry.log else "step")
        if form in ("value", "derive") and entry.default is not None:
            self._wrong(f"a parameter with {form} has no default", "default")
        if form in ("values", "min and max") and entry.default is None:
            self._wrong("has no default; give the guide's own value")
        read = {"values": self._choices, "value": self._fixed, "derive": self._derived, "min and max": self._range}
        found = {"when": self._expression("when"), **read[form]()}
        if self.faults.within("parameters", self.name):
            return None
        return Parameter(name=self.name, type=self.kind, spec=entry, **found)

    def _derived(self) -> dict[str, Any]:
        return {"derived": self._expression("derive")}

    def _fixed(self) -> dict[str, Any]:
        value = self._checked(self.entry.value, "value")
        return {"choices": (value,), "default": value}

    def _choices(self) -> dict[str, Any]:
        values = self.entry.values or []
        choices = tuple(self._checked(value, "values", i) for i, value in enumerate(values))
        if not choices:
            self._wrong("is an empty list; nothing to choose from", "values")
        twice = [value for i, value in enumerate(choices) if value is not None and value in choices[:i]]
        if twice:
            self._wrong(f"lists {listed(dict.fromkeys(twice))} twice", "values")
        default = None if self.entry.default is None else self._checked(self.entry.default, "default")
        if default is not None and None not in choices and choices and default not in choices:
            self._wrong(f"{given_value(default)} is not one of the values {listed(choices)}", "default")
        return {"choices": choices, "default": default}

    def _range(self) -> dict[str, Any]:
        entry, kind = self.entry, self.kind
        if kind not in (int, float):
            self._wrong(
                f"is {kind_name(kind)} and has no range; give values", "min" if entry.min is not None else "max"
            )
            return {}
        if entry.min is None or entry.max is None:
            self._wrong(f"has no {'min' if entry.min is None else 'max'}")
            return {}
        ends = {key: self._number_or_expression(getattr(entry, key), key) for key in ("min", "max", "default")}
        low, high = ends["min"], ends["max"]
        if _are_numbers(low, high) and low > high:
            self._wrong(f"the range is empty: min {shown(low)} is above max {shown(high)}", "min")
        elif _are_numbers(low, high) and low == high:
            self._wrong(f"the range is the one value {shown(low)}; write value: {shown(low)}", "min")
        if entry.log and _are_numbers(low) and low <= 0:
            self._wrong(f"a logarithmic range must start above 0, not at {shown(low)}", "min")
        if entry.step is not None:
            self._check_step(entry.step, low, high)
        return {"low": low, "high": high, "log": entry.log, "step": entry.step, "default": ends["default"]}

    def _check_step(self, step: float, low: Any, high: Any) -> None:
        if self.entry.log:
            self._wrong("a logarithmic range has no step; leave step out, or list the values", "step")
        elif step <= 0:
            self._wrong(f"{shown(step)} is not positive", "step")
        elif self.kind is int and not float(step).is_integer():
            self._wrong(f"is a whole number, but step is {shown(step)}", "step")
        elif isinstance(low, Expression):
            self._wrong("steps are counted from min, so min must be a number", "step")
        elif _are_numbers(low, high) and low < high:
            exact = [Decimal(str(part)) for part in (low, high, step)]
            num_steps = (exact[1] - exact[0]) // exact[2]
            if exact[0] + num_steps * exact[2] != exact[1]:
                last = exact[0] + max(num_steps, Decimal(1)) * exact[2]
                self._wrong(f"{shown(step)} does not lead from {shown(low)} to {shown(high)}; end at {last}", "step")
            elif num_steps > 10**9:
                self._wrong(f"{shown(step)} is too small for this range; leave it out", "step")

    def _number_or_expression(self, value: Any, key: str) -> Any:
        if isinstance(value, str):
            return self._expression(key)
        return None if value is None else self._checked(value, key)

    def _expression(self, key: str) -> Expression | None:
        text = getattr(self.entry, key)
        try:
            return None if text is None else parse_expression(text)
        except ExpressionError as error:
            self._wrong(str(error), key)
            return None

    def _checked(self, value: Any, *path: str | int) -> Any:
        checked = checked_value(value, self.kind)
        if checked is None:
            self._wrong(f"expected {kind_name(self.kind)}, got {given(value)}", *path)
        return checked

    def _wrong(self, message: str, *path: str | int) -> None:
        self.faults.add(message, "parameters", self.name, *path)


def _are_numbers(*values: Any) -> bool:
    return all(isinstance(value, (int, float)) for value in values)


def _rules(spec: SpaceSpec, declared: set[str], faults: Faults) -> Iterable[Rule]:
    for i, entry in enumerate(spec.rules):
        path = ("rules", i, "require")
        if faults.within("rules", i):
            continue
        try:
            require = parse_expression(entry.require)
        except ExpressionError as error:
            faults.add(str(error), *path)
            continue
        if not require.names:
            faults.add(f"{require} names no parameter", *path)
        _check_names(require, declared, faults, *path)
        yield Rule(require=require, why=entry.why, source=spec.cited(entry.source), path=path)


def _check_goal_names(spec: SpaceSpec, declared: set[str], faults: Faults) -> None:
    for name, goal in spec.goals.items():
        moves = {"raise": goal.raises, "lower": goal.lowers, "set": list(goal.set)}
        for key, parameters in moves.items():
            for i, parameter in enumerate(parameters):
                path = ("goals", name, key, parameter if key == "set" else i)
                if parameter not in declared:
                    faults.add(unknown_parameter(parameter, declared), *path)
                elif parameter in parameters[:i]:
                    faults.add(f"{parameter} is listed twice", *path)
                elif others := [k for k, named in moves.items() if k != key and parameter in named and k < key]:
                    faults.add(f"{parameter} is under {others[0]} as well; a goal moves it one way", *path)
        if not any(moves.values()):
            faults.add("changes nothing; give raise, lower or set", "goals", name)


def _check_measurements(spec: SpaceSpec, faults: Faults) -> None:
    best = MetricSpec.of(spec.metric.name).goal
    if spec.metric.goal != best:
        better = "higher" if best == "maximize" else "lower"
        faults.add(f"{spec.metric.name} is better {better}; write goal: {best}", "metric")
    if "metrics" in spec.model_fields_set:
        if "metric" in spec.model_fields_set:
            faults.add("is given together with metric; keep one", "metrics")
        if len(spec.metrics) < 2:
            faults.add("names fewer than two measurements; for one write metric", "metrics")
        for i, name in enumerate(spec.metrics):
            if name in spec.metrics[:i]:
                faults.add(f"{name} is listed twice", "metrics", i)
    budgets: dict[Path_, BudgetSpec] = {("budget",): spec.budget}
    budgets |= {("budgets", name): budget for name, budget in spec.budgets.items()}
    for path, budget in budgets.items():
        if budget.min_tokens > budget.max_tokens:
            implied = "" if "min_tokens" in budget.model_fields_set else " (its default)"
            faults.add(
                f"min_tokens {budget.min_tokens:,}{implied} is above max_tokens {budget.max_tokens:,}",
                *path,
                "min_tokens",
            )
    all_limits: dict[Path_, Limits] = {(): spec.limits, **{path: budget.limits for path, budget in budgets.items()}}
    for path, limits in all_limits.items():
        for name, limit in limits.items():
            if limit.min is None and limit.max is None:
                faults.add("needs min or max", *path, "limits", name)
            elif limit.min is not None and limit.max is not None and limit.min > limit.max:
                both = f"at least {shown(limit.min)} and at most {shown(limit.max)}"
                faults.add(f"no value is {both}", *path, "limits", name)
