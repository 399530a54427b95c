"""Space files: YAML into a checked Space, with every fault of the file reported at once and at its line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from search.document import Document, Fault, SpaceError, parse_document, read_document
from search.expression import Expression, ExpressionError, parse_expression
from search.grammar import MEASUREMENTS, ParameterSpec, SpaceSpec, read_spec
from search.space import Parameter, Preset, Rule, Space, Values, checked_value, in_order, kind_name, listed, shown
from trainer.config import MODEL_CONFIGS, ConfigError, parameter_types, unknown_name

RESERVED = {"data", "cache_dir", "eval_tokens", "seed", "device", "num_threads", "token_dtype"}
"""Fields of a training run that the command line or the budget sets, never a space."""


def load_space(path: str | Path) -> Space:
    """Load and check a space file. Raises SpaceError with every fault found, each with its line."""
    return _build(read_document(path))


def parse_space(text: str, source: str = "<space>") -> Space:
    """As `load_space`, for text that is already here (a study keeps its space's text)."""
    return _build(parse_document(text, source))


def _build(document: Document) -> Space:
    spec = read_spec(document)
    faults: list[Fault] = []

    def fault(message: str, *path: str | int) -> None:
        faults.append(document.fault(path, message))

    if spec.family not in MODEL_CONFIGS:
        fault(unknown_name("family", spec.family, MODEL_CONFIGS), "family")
        raise SpaceError(document.source, faults)
    types = {n: t for n, t in parameter_types(spec.family).items() if n not in RESERVED}

    parameters: dict[str, Parameter] = {}
    for name, entry in spec.parameters.items():
        if name not in types:
            why = (
                "is set by the command line or the budget, not by a space"
                if name in RESERVED
                else unknown_name("parameter", name, types)
            )
            fault(why, "parameters", name)
            continue
        parameter = _parameter(name, types[name], entry, fault)
        if parameter is not None:
            parameters[name] = parameter
    _check_names(parameters, set(spec.parameters), fault)
    rules = tuple(_rules(spec, set(spec.parameters), fault))
    _check_limits(spec, fault)
    if faults:
        raise SpaceError(document.source, faults)
    try:
        parameters = in_order(parameters)
    except ValueError as error:
        raise SpaceError(document.source, [document.fault(("parameters",), str(error))]) from None

    space = Space(spec=spec, document=document, parameters=parameters, rules=rules, presets={})
    _check_defaults(space, fault)
    _check_goals(space, fault)
    if not faults:
        space = replace(space, presets=dict(_presets(space, fault)))
    if faults:
        raise SpaceError(document.source, faults)
    return space


def _parameter(name: str, kind: type, entry: ParameterSpec, fault: Any) -> Parameter | None:
    """One entry as a Parameter, or None after reporting what is wrong with it."""
    at = ("parameters", name)
    before: list[int] = []

    def wrong(message: str, *path: str) -> None:
        before.append(1)
        fault(message, *at, *path)

    def expression(text: Any, key: str) -> Any:
        if not isinstance(text, str):
            return text
        try:
            return parse_expression(text)
        except ExpressionError as error:
            wrong(str(error), key)
            return None

    forms = [form for form in ("values", "value", "derive") if getattr(entry, form) is not None]
    if entry.min is not None or entry.max is not None:
        forms.append("min and max")
    if len(forms) != 1:
        wrong(
            "needs min and max, values, value or derive" if not forms else f"has both {' and '.join(forms)}; give one"
        )
        return None
    form = forms[0]
    if form != "min and max" and (entry.log or entry.step is not None):
        wrong("log and step belong to a range with min and max")
    if form in ("value", "derive") and entry.default is not None:
        wrong(f"a parameter with {form} has no default", "default")
    if form in ("values", "min and max") and entry.default is None:
        wrong("has no default; give the guide's own value")
    when = expression(entry.when, "when")
    common = {"name": name, "type": kind, "when": when, "spec": entry}

    if form == "derive":
        derived = expression(entry.derive, "derive")
        return None if before else Parameter(**common, derived=derived)
    if form == "value":
        if (value := checked_value(entry.value, kind)) is None:
            wrong(f"expected {kind_name(kind)}, got {entry.value!r}", "value")
        return None if before else Parameter(**common, choices=(value,), default=value)
    if form == "values":
        choices = [checked_value(value, kind) for value in entry.values or []]
        for i, (value, given) in enumerate(zip(choices, entry.values or [], strict=True)):
            if value is None:
                wrong(f"expected {kind_name(kind)}, got {given!r}", "values", i)  # type: ignore[arg-type]
        if not choices:
            wrong("is an empty list; nothing to choose from", "values")
        if len(set(map(repr, choices))) < len(choices):
            wrong("lists a value twice", "values")
        default = checked_value(entry.default, kind)
        if default is None and entry.default is not None:
            wrong(f"expected {kind_name(kind)}, got {entry.default!r}", "default")
        elif entry.default is not None and default not in choices:
            wrong(f"{default!r} is none of the values {listed(choices)}", "default")
        return None if before else Parameter(**common, choices=tuple(choices), default=default)

    if kind not in (int, float):
        wrong(f"is {kind_name(kind)} and has no range; give values", "min")
        return None
    if entry.min is None or entry.max is None:
        wrong(f"has no {'min' if entry.min is None else 'max'}")
        return None
    low, high = expression(entry.min, "min"), expression(entry.max, "max")
    default = expression(entry.default, "default")
    numbers = not isinstance(low, Expression) and not isinstance(high, Expression)
    if numbers and low is not None and high is not None:
        if low > high:
            wrong(f"the range is empty: min {shown(low)} is above max {shown(high)}", "min")
        elif low == high:
            wrong(f"the range is the one value {shown(low)}; write value: {shown(low)}", "min")
    for key, part in (("min", low), ("max", high), ("default", default)):
        if kind is int and isinstance(part, float) and not part.is_integer():
            wrong(f"is a whole number, but {key} is {part!r}", key)
    if entry.log and isinstance(low, (int, float)) and low <= 0:
        wrong(f"a logarithmic range must start above 0, not at {shown(low)}", "min")
    if entry.log and entry.step is not None:
        wrong("a logarithmic range has no step", "step")
    if entry.step is not None and entry.step <= 0:
        wrong(f"step {shown(entry.step)} is not positive", "step")
    if before:
        return None
    return Parameter(**common, low=low, high=high, log=entry.log, step=entry.step, default=default)


def _check_names(parameters: dict[str, Parameter], declared: set[str], fault: Any) -> None:
    for parameter in parameters.values():
        for key in ("low", "high", "default", "derived", "when"):
            part = getattr(parameter, key)
            if isinstance(part, Expression):
                for name in sorted(part.names - declared):
                    entry = {"low": "min", "high": "max", "derived": "derive"}.get(key, key)
                    fault(f"{part}: {unknown_name('parameter', name, declared)}", "parameters", parameter.name, entry)


def _rules(spec: SpaceSpec, declared: set[str], fault: Any) -> Iterable[Rule]:
    for i, entry in enumerate(spec.rules):
        path = ("rules", i, "require")
        try:
            require = parse_expression(entry.require)
        except ExpressionError as error:
            fault(str(error), *path)
            continue
        if not require.names:
            fault(f"{require} names no parameter", *path)
        for name in sorted(require.names - declared):
            fault(f"{require}: {unknown_name('parameter', name, declared)}", *path)
        yield Rule(require=require, why=entry.why, source=entry.source, path=path)


def _check_limits(spec: SpaceSpec, fault: Any) -> None:
    budgets = {("budget",): spec.budget, **{("budgets", name): b for name, b in spec.budgets.items()}}
    for path, budget in budgets.items():
        if budget.trials < 1:
            fault(f"{budget.trials} trials is no search; give at least 1", *path, "trials")
        if budget.min_tokens > budget.max_tokens:
            fault(f"min_tokens {budget.min_tokens:,} is above max_tokens {budget.max_tokens:,}", *path, "min_tokens")
    for path, limits in {(): spec.limits, **{p: b.limits for p, b in budgets.items()}}.items():
        for name, limit in limits.items():
            if name not in MEASUREMENTS:
                fault(unknown_name("measurement", name, MEASUREMENTS), *path, "limits", name)
            if limit.min is None and limit.max is None:
                fault("needs min or max", *path, "limits", name)
            elif limit.min is not None and limit.max is not None and limit.min > limit.max:
                fault(f"no value is at least {shown(limit.min)} and at most {shown(limit.max)}", *path, "limits", name)


def _check_defaults(space: Space, fault: Any) -> None:
    """The defaults are the guide's own configuration: they must lie in the ranges, keep the rules, and build."""
    try:
        values = space.complete({})
    except ExpressionError as error:
        fault(f"the defaults have no value: {error}", "parameters")
        return
    sound = True
    for name, parameter in space.searched.items():
        if name in values and (wrong := _attempt(parameter.fault_of, values[name], values)):
            sound = False
            fault(f"the default {wrong}", "parameters", name, "default")
    for rule in space.broken_rules(values):
        sound = False
        fault(f"the defaults break it: {_described(rule.require, values)}", *rule.path)
    if sound:
        try:
            space.train_config(values, rungs=(1,))
        except ConfigError as error:
            fault(f"the defaults cannot be trained: {error}", "parameters")


def _check_goals(space: Space, fault: Any) -> None:
    for name, goal in space.spec.goals.items():
        for key, names in (("raise", goal.raises), ("lower", goal.lowers), ("set", list(goal.set))):
            for i, parameter in enumerate(names):
                path = ("goals", name, key, parameter if key == "set" else i)
                if parameter not in space.parameters:
                    fault(unknown_name("parameter", parameter, space.parameters), *path)
                elif not space.parameters[parameter].is_searched:
                    fault(f"{parameter} is not searched, so a goal cannot move it", *path)
        if both := sorted(set(goal.raises) & set(goal.lowers)):
            fault(f"both raises and lowers {', '.join(both)}", "goals", name)
        if not (goal.raises or goal.lowers or goal.set):
            fault("changes nothing; give raise, lower or set", "goals", name)


def _presets(space: Space, fault: Any) -> Iterable[tuple[str, Preset]]:
    for name, entry in space.spec.presets.items():
        before = 0
        for key, value in entry.values.items():
            if key not in space.parameters:
                before += 1
                fault(unknown_name("parameter", key, space.parameters), "presets", name, key)
            elif checked_value(value, space.parameters[key].type) is None:
                before += 1
                fault(f"expected {kind_name(space.parameters[key].type)}, got {value!r}", "presets", name, key)
        if before:
            continue
        values = space.complete(entry.values)
        if wrong := space.faults_of(values):
            fault("; ".join(wrong), "presets", name)
        for key, value in entry.values.items():
            if key in values and not space.parameters[key].is_searched and values[key] != value:
                fault(f"{value!r} given, but this parameter is {values[key]!r} and not searched", "presets", name, key)
        try:
            space.train_config(values, rungs=(1,))
        except ConfigError as error:
            if not wrong:
                fault(f"cannot be trained: {error}", "presets", name)
        yield name, Preset(name=name, values=values, why=entry.why, source=entry.source)


def _attempt(function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except ExpressionError as error:
        return str(error)


def _described(expression: Expression, values: Values) -> str:
    named = ", ".join(f"{name} is {shown(values[name])}" for name in sorted(expression.names) if name in values)
    return f"{expression} where {named}"
