"""What a guide recommends for this data, hardware and model size: the space's `advice`, evaluated.

A search does not use it. It helps a person to choose a budget, a goal or a preset, and to read a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search.space.document import Faults, given
from search.space.expression import Expression, ExpressionError, parse_expression
from search.space.parameter import Parameter, Value, Values, checked_value, kind_name
from search.space.space import Space, not_in
from search.space.spec import CONTEXT, AdviceSpec
from search.space.synonyms import unknown_parameter
from trainer.checks import unknown_name


@dataclass(frozen=True, kw_only=True)
class Advice:
    """A recommendation that applies; `suggest` has values for the parameters that it names."""

    say: str
    when: str
    suggest: dict[str, Value]
    preset: str = ""
    source: str = ""


def advise(space: Space, context: Mapping[str, Value]) -> list[Advice]:
    """The advice that applies, in the space's order.

    `context` has the known values of CONTEXT, and parameters that differ from their defaults, by any of their names.
    Advice that reads unknown values does not apply; `unknown_to` names these. Raises ValueError for a name that is
    neither, and for a value of the wrong type.
    """
    values = _known(space, context)
    found = []
    for entry in space.spec.advice:
        if _applies(entry, values):
            suggested = {
                name: _suggested(space.parameters[name], value, values) for name, value in _named(space, entry)
            }
            found.append(
                Advice(
                    say=entry.say,
                    when=entry.when,
                    suggest={name: value for name, value in suggested.items() if value is not None},
                    preset=entry.preset,
                    source=space.spec.cited(entry.source),
                )
            )
    return found


def unknown_to(space: Space, context: Mapping[str, Value]) -> list[str]:
    """The names of CONTEXT that some advice reads and `context` does not give."""
    read = {name for entry in space.spec.advice for name in parse_expression(entry.when).names}
    return [name for name in CONTEXT if name in read and name not in context]


def check_advice(space: Space, faults: Faults) -> None:
    """Each entry reads known names and suggests valid values."""
    for i, entry in enumerate(space.spec.advice):
        if _parsed(entry.when, space, faults, "advice", i, "when") and not entry.suggest and not entry.preset:
            continue  # advice may be text alone
        if entry.preset and entry.preset not in space.spec.presets:
            faults.add(unknown_name("preset", entry.preset[:60], space.spec.presets), "advice", i, "preset")
        for key, value in entry.suggest.items():
            path = ("advice", i, "suggest", key)
            parameter = space.parameters.get(space.aliases.get(key, key))
            if parameter is None:
                faults.add(unknown_parameter(key, space.parameters), *path)
            elif isinstance(value, str) and parameter.type is not str:
                _parsed(value, space, faults, *path)
            elif (checked := checked_value(value, parameter.type)) is None:
                faults.add(f"expected {kind_name(parameter.type)}, got {given(value)}", *path)
            elif parameter.is_searched and (wrong := not_in(space, parameter, checked)):
                faults.add(wrong, *path)


def _parsed(text: str, space: Space, faults: Faults, *path: str | int) -> Expression | None:
    try:
        expression = parse_expression(text)
    except ExpressionError as error:
        faults.add(str(error), *path)
        return None
    known = [*space.parameters, *CONTEXT]
    for name in sorted(expression.names - set(known)):
        faults.add(f"{expression}: {unknown_name('name', name, known)}", *path)
    return expression


def _known(space: Space, context: Mapping[str, Value]) -> Values:
    """The configuration with its defaults, and the known values of CONTEXT."""
    chosen = {space.aliases.get(name, name): value for name, value in context.items() if name not in CONTEXT}
    for name, value in chosen.items():
        if name not in space.parameters:
            raise ValueError(unknown_name("name", name, [*space.parameters, *CONTEXT]))
        if checked_value(value, space.parameters[name].type) is None:
            raise ValueError(f"{name} is {kind_name(space.parameters[name].type)}, not {given(value)}")
    return {**space.complete(chosen), **{name: value for name, value in context.items() if name in CONTEXT}}


def _applies(entry: AdviceSpec, values: Values) -> bool:
    when = parse_expression(entry.when)
    try:
        return when.names <= values.keys() and bool(when.evaluate(values))
    except ExpressionError:
        return False


def _named(space: Space, entry: AdviceSpec) -> list[tuple[str, Value]]:
    return [(space.aliases.get(key, key), value) for key, value in entry.suggest.items()]


def _suggested(parameter: Parameter, value: Value, values: Values) -> Value | None:
    """The value itself, or the expression's; None if the expression has no value here."""
    if not isinstance(value, str) or parameter.type is str:
        return checked_value(value, parameter.type)
    try:
        return parameter.computed(parse_expression(value), values)
    except ExpressionError:
        return None
