"""Turns a document into a SpaceSpec, and reports every entry with a wrong shape in plain words, with its line."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from search.space.document import Document, Faults, Path_, given
from search.space.names import unknown, unknown_key
from search.space.spec import SpaceSpec
from search.space.sweeps import without_foreign

PLACEHOLDERS: dict[str, dict[str, str]] = {
    "rules": {"require": "0 == 0"},
    "advice": {"when": "0 == 0", "say": ""},
    "claims": {"id": "", "measurement": "loss"},
}
"""Replaces a list entry with a wrong shape until the faults are reported."""


def read_spec(document: Document, faults: Faults, family: str) -> SpaceSpec:
    """The document as a SpaceSpec, without the entries whose shape is wrong; these are added to `faults`.

    So the other entries can still be checked. `family` is the space's, empty if it is unknown. Raises SpaceError if
    nothing is left to check.
    """
    value = document.value
    for path in faults.unread:
        value = _without(value, path)
    value = without_foreign(value, faults, family)
    try:
        return SpaceSpec.model_validate(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            path = _existing(document.value, detail["loc"])
            _note(faults, detail, path)
            value = _without(value, path)
    try:
        return SpaceSpec.model_validate({"family": "", **value})
    except ValidationError:  # all parameters are missing now
        faults.check()
        raise


def _note(faults: Faults, detail: Any, path: Path_) -> None:
    """Report a pydantic error in this project's words, at the entry's line."""
    given_there, loc = detail["input"], detail["loc"]
    match detail["type"]:
        case "extra_forbidden":
            faults.add(unknown_key(str(loc[-1]), _type_at(loc[:-1]).model_fields), *path)
        case "missing" if faults.is_unread(*path, loc[-1]):
            pass
        case "missing":
            faults.add(f"{loc[-1]} is missing", *path)
        case "literal_error" if loc[-1] == "[key]":
            kind = "measurement" if "limits" in loc else "effect"
            faults.add(unknown(kind, str(given_there), get_args(get_args(_type_at(loc[:-2]))[0])), *path)
        case "literal_error" if isinstance(given_there, str):
            kind = "measurement" if loc[0] == "metrics" or loc[-1] in ("name", "measurement") else "direction"
            faults.add(unknown(kind, given_there, get_args(_type_at(loc))), *path)
        case "literal_error":
            faults.add(f"expected one of {', '.join(get_args(_type_at(loc)))}, got {given(given_there)}", *path)
        case "model_type":
            faults.add(f"expected a mapping such as {_type_at(loc).example}, got {given(given_there)}", *path)
        case "dict_type":
            faults.add(f"expected a mapping, got {given(given_there)}", *path)
        case "list_type":
            faults.add(f"expected a list, got {given(given_there)}", *path)
        case "too_long" if path[-1] == "values":
            most = f"has {detail['ctx']['actual_length']:,} entries; at most {detail['ctx']['max_length']}"
            faults.add(f"{most}; {_as_range(given_there)}", *path)
        case "too_long":
            faults.add(f"has {detail['ctx']['actual_length']:,} entries; at most {detail['ctx']['max_length']}", *path)
        case _:
            faults.add(detail["msg"].removeprefix("Value error, "), *path)


def _as_range(values: list[Any]) -> str:
    """How to write a long list of numbers instead: as a range if they are equally spaced."""
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return "leave some out"
    step = values[1] - values[0]
    if step <= 0 or any(abs(b - a - step) > 1e-9 * max(1, abs(b)) for a, b in itertools.pairwise(values)):
        return f"write a range: min: {min(values)}, max: {max(values)}"
    every = "" if step == 1 else f", step: {step:g}"
    return f"write min: {values[0]}, max: {values[-1]}{every}"


def _existing(value: Any, loc: Iterable[int | str]) -> Path_:
    """The part of an error's path that is in the document; pydantic appends what it tried ("[key]")."""
    path: list[int | str] = []
    for part in loc:
        if isinstance(value, dict) and part in value or isinstance(value, list) and isinstance(part, int):
            value = value[part]  # type: ignore[index]  # of a mapping or a list, as looked up above
            path.append(part)
    return tuple(path)


def _without(value: dict[str, Any], path: Path_) -> dict[str, Any]:
    """The document's values without the entry, or the section, that a fault is in."""
    top = path[0] if path else None
    if top not in value:
        return value
    section = value[top]
    if len(path) > 1 and top in PLACEHOLDERS and isinstance(section, list):
        kept = [PLACEHOLDERS.get(str(top)) if i == path[1] else item for i, item in enumerate(section)]
        return {**value, top: kept}  # removing it would shift the others
    if len(path) > 1 and isinstance(section, dict) and top not in ("metric", "budget", "search"):
        return {**value, top: {key: item for key, item in section.items() if key != path[1]}}
    return {key: item for key, item in value.items() if key != top}


def _type_at(loc: Iterable[int | str]) -> Any:
    """The type that the grammar has at a path: a model, or what its dicts and lists contain."""
    kind: Any = SpaceSpec
    for part in loc:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields = {field.alias or name: field for name, field in kind.model_fields.items()}
            kind = fields[str(part)].annotation
        else:
            kind = get_args(kind)[-1]
    return kind
