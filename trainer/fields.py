"""Dataclasses from plain values: every value is checked against the type of its field."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any

from trainer.checks import ConfigError


def from_values(cls: type, values: Mapping[str, Any]) -> Any:
    """`cls(**values)`. Raises ConfigError, naming every value that is missing or has the wrong type."""
    hints = field_types(cls)
    checked, faults = {}, []
    for name, value in values.items():
        try:
            checked[name] = _coerce(value, hints[name])
        except TypeError as error:
            faults.append(f"{name}: {error}")
    faults += [f"{name} is missing" for name in _required(cls) if name not in values]
    if faults:
        raise ConfigError("; ".join(faults))
    return cls(**checked)


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
    """The types of a config's fields; cached, because `typing` compiles annotations again at each call."""
    return typing.get_type_hints(cls)


@functools.cache
def _required(cls: type) -> tuple[str, ...]:
    """The fields without a default."""
    fields = dataclasses.fields(cls)
    return tuple(f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING)


def _coerce(value: Any, hint: Any) -> Any:
    """`value` as `hint`; an int may stand for a float, and a whole float for an int. Raises TypeError."""
    if type(value) is hint:
        return value
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin is tuple:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise TypeError(f"expected a list, got {value!r}")
        return tuple(_coerce(item, typing.get_args(hint)[0]) for item in value)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _coerce(value, next(arg for arg in typing.get_args(hint) if arg is not type(None)))
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and float(value).is_integer():
        return int(value)
    if hint in (str, bool) and isinstance(value, hint):
        return value
    raise TypeError(f"expected {hint.__name__}, got {value!r}")
