"""Checks the options of samplers and of early stopping against the signature of what takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from search.space.document import given
from trainer.checks import unknown_name

Fault = tuple[tuple[str, ...], str]
"""Where in `search` of a space (such as sampler, eta), and what is wrong."""

_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "text"),
    "dict[str, Any]": ((dict,), "a mapping"),
}
SEED = "the seed is the study's: give --seed N and leave it out"


def taken_by(call: Callable[..., Any], *, apart: tuple[str, ...] = ()) -> dict[str, inspect.Parameter]:
    """The options that a space file can give to a call: of plain types, or of no stated type."""
    parameters = inspect.signature(call).parameters
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = {n: p for n, p in parameters.items() if p.kind in kinds and n not in ("self", "seed", *apart)}
    return {n: p for n, p in known.items() if p.annotation is inspect.Parameter.empty or _kinds_of(p)}


def option_faults(
    part: str, name: str, options: Mapping[str, Any], call: Callable[..., Any], *, apart: tuple[str, ...] = ()
) -> Iterator[Fault]:
    """What is wrong with the options of `part`, such as the sampler `name`, if `call` takes them.

    `apart` are parameters of the call that are not options.
    """
    known = taken_by(call, apart=apart)
    for option, value in options.items():
        if option == "seed":
            yield (part, option), SEED
        elif option in known:
            if (words := _wrong_kind(known[option], value)) is not None:
                yield (part, option), f"expected {words}, got {given(value)}"
        elif option in inspect.signature(call).parameters and option not in apart:
            yield (part, option), f"{name} takes it from Python code alone; leave it out"
        elif not known:
            yield (part, option), f"{name} takes no options; leave it out"
        else:
            yield (part, option), unknown_name(f"option of {name}", option[:60], known)


def _kinds_of(parameter: inspect.Parameter) -> list[tuple[tuple[type, ...], str]]:
    """The plain types of a parameter's annotation, with words for each."""
    annotation = parameter.annotation
    text = annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
    return [_KINDS[part] for part in map(str.strip, text.split("|")) if part in _KINDS]


def _wrong_kind(parameter: inspect.Parameter, value: Any) -> str | None:
    """What was expected, if the value is something else."""
    kinds = _kinds_of(parameter)
    for types, _ in kinds:
        if isinstance(value, types) and (not isinstance(value, bool) or bool in types):
            return None
    return " or ".join(words for _, words in kinds) if kinds else None
