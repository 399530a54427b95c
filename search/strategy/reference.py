"""The configuration that a search is compared with: the first preset, or its replacement if that does not fit.

A limit, a goal or `--set` may exclude the first preset, or every preset. Then the next launchable one is the reference.
If there is none, the first one is moved as little as possible until it may be launched, under another name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from search.space.drawing import random_values
from search.space.expression import ExpressionError
from search.space.parameter import Parameter, Value, Values, shown
from search.space.space import SHRUNK, Preset, Space, extremes
from search.space.spec import BudgetSpec
from search.strategy.feasibility import Feasibility
from search.strategy.sampling import Candidates
from trainer.estimate import estimate

NUM_STEPS = 40  # from the reference down to the smallest sizes
NUM_NEAR = 40  # configurations around each of these
NEAR = 0.05  # of an axis
NUM_DRAWS = 2000  # of the whole space, if nothing on that way may be launched
MAX_NAMED = 6  # changes of a configuration that a message names


def referenced(space: Space, budget: BudgetSpec, run: Mapping[str, Any] | None = None) -> tuple[Space, str]:
    """The space with its reference first, and a sentence if the reference is not the first preset; usually empty."""
    feasibility = Feasibility.of(space, budget, run or {})
    if space.reference is None:
        return space, ""
    whose = space.whose
    missed = space.reference.name
    for preset in space.presets.values():
        if not left_out(feasibility, preset):
            if preset.name == missed:
                return space, ""
            note = f"{whose} {missed!r} may not be launched; {preset.name!r} takes its place as the reference"
            return space.led_by(preset), note
    base = _within(space, space.reference)
    values = None if base is None else nearest(space, feasibility, base)
    nothing = f"{whose} {missed!r} may not be launched"
    if len(space.presets) > 1:
        nothing = f"none of {whose} {len(space.presets)} presets may be launched"
    if values is None:
        return space, f"{nothing}, so there is no reference to compare with"
    chosen = {name: value for name, value in values.items() if space.parameters[name].derived is None}
    changes = changes_of(space.complete(space.reference.values), values, space)
    note = f"{nothing}, so {whose} reference is missing; {missed!r} shrunk to fit takes its place, with {changes}"
    return space.led_by(Preset(name=SHRUNK, values=chosen)), note


def left_out(feasibility: Feasibility, preset: Preset) -> str:
    """Why a preset may not be launched, in full; empty if it may."""
    try:
        return "; ".join(feasibility.all_reasons(feasibility.space.complete(preset.values)).values())
    except ExpressionError as error:
        return str(error)


def changes_of(before: Values, now: Values, space: Space) -> str:
    """`d_model 64 instead of 128, n_layers 2 instead of 4`; of many, the first and their number."""
    changes = [
        f"{name} {shown(value)}" + (f" instead of {shown(before[name])}" if name in before else "")
        for name, value in now.items()
        if before.get(name) != value and space.parameters[name].derived is None
    ]
    more = f" and {len(changes) - MAX_NAMED} more" if len(changes) > MAX_NAMED else ""
    return ", ".join(changes[:MAX_NAMED]) + more


def nearest(space: Space, feasibility: Feasibility, base: Values) -> dict[str, Value] | None:
    """A launchable configuration that differs little from `base`; None if none was found.

    The sizes are lowered together until something nearby may be launched. Then each parameter is restored as far as
    possible.
    """
    if not feasibility.reasons_against(base):
        return dict(base)
    candidates = Candidates(space, feasibility.reasons_against, seed=0)
    start = candidates.point(base)
    rng = np.random.default_rng(0)
    found = _on_the_way_down(space, feasibility, base, rng) or _anywhere(space, feasibility, candidates, start, rng)
    return None if found is None else _restored(space, feasibility, base, found)


def _within(space: Space, preset: Preset) -> dict[str, Value] | None:
    """The preset's configuration with each searched parameter moved into its current range."""

    def value_for(parameter: Parameter, values: Values) -> Value:
        value = preset.values.get(parameter.name)
        if value is None:
            value = parameter.default_for(values)
        return _moved_into(parameter, value, values)

    with contextlib.suppress(ExpressionError):
        return space.filled(value_for)
    return None


def _moved_into(parameter: Parameter, value: Value, values: Values) -> Value:
    """The value, or the nearest one that the parameter can have here."""
    if parameter.fault_of(value, values) is None:
        return value
    if not parameter.is_range:
        return min(parameter.choices, key=lambda choice: _distance(choice, value))
    low, high = parameter.bounds(values)
    if isinstance(value, str) or low > high:
        return low
    if parameter.step:
        value = low + round((value - low) / parameter.step) * parameter.step
        high = parameter.on_grid(low, high)
    return type(low)(max(low, min(high, value)))


def _distance(choice: Value, value: Value) -> float:
    if isinstance(choice, str) or isinstance(value, str):
        return 0.0 if choice == value else 1.0
    return abs(choice - value)


def _on_the_way_down(
    space: Space, feasibility: Feasibility, base: Values, rng: np.random.Generator
) -> dict[str, Value] | None:
    """The first launchable configuration while all sizes are lowered together, each with a little randomness."""
    ways: dict[str, tuple[float, float]] = {}
    for name, parameter in space.searched.items():
        start = base.get(name)
        if parameter.type in (int, float) and isinstance(start, (int, float)) and not isinstance(start, bool):
            with contextlib.suppress(ExpressionError):
                ways[name] = start, extremes(space, parameter)[0]
    sizes = [name for name, (_, end) in ways.items() if _is_size(space, feasibility, base, name, end)]
    for step in range(1, NUM_STEPS + 1):
        for attempt in range(NUM_NEAR):
            share = {
                name: np.clip(step / NUM_STEPS + (rng.normal() * NEAR if attempt else 0.0), 0, 1) for name in sizes
            }

            def value_for(parameter: Parameter, values: Values, share: dict[str, float] = share) -> Value:
                name = parameter.name
                value = base[name] if name in base else parameter.default_for(values)
                if name in share:
                    start, end = ways[name]
                    number = start + float(share[name]) * (end - start)
                    value = round(number) if parameter.type is int else number
                return _moved_into(parameter, value, values)

            with contextlib.suppress(ExpressionError):
                values = space.filled(value_for)
                if not feasibility.reasons_against(values):
                    return values
    return None


def _is_size(space: Space, feasibility: Feasibility, base: Values, name: str, low: float) -> bool:
    """Whether a lower value of the parameter makes the model or its step smaller."""
    parameter = space.parameters[name]
    with contextlib.suppress(ExpressionError, ValueError):
        smaller = space.complete({**base, name: _moved_into(parameter, low, base)})
        config, before = feasibility.train_config(smaller), feasibility.train_config(base)
        now, then = estimate(config), estimate(before)
        fewer_tokens = config.tokens_per_step < before.tokens_per_step
        less_memory = (now.peak_vram_bytes or 0) < (then.peak_vram_bytes or 0)
        return now.num_params < then.num_params or less_memory or fewer_tokens
    return True  # unknown: only the rules that it is part of decide


def _anywhere(
    space: Space, feasibility: Feasibility, candidates: Candidates, start: np.ndarray, rng: np.random.Generator
) -> dict[str, Value] | None:
    """The nearest of many random launchable configurations."""
    drawn = []
    for _ in range(NUM_DRAWS):
        with contextlib.suppress(ExpressionError):
            drawn.append(random_values(space, rng))
    drawn.sort(key=lambda values: float(np.square(candidates.point(values) - start).sum()))
    return next((values for values in drawn if not feasibility.reasons_against(values)), None)


def _restored(space: Space, feasibility: Feasibility, base: Values, found: dict[str, Value]) -> dict[str, Value]:
    """`found` with as many parameters as possible restored to `base`, and the others as near to it as possible."""
    chosen = {name: value for name, value in found.items() if space.parameters[name].derived is None}

    def tried(name: str, value: Value) -> dict[str, Value] | None:
        with contextlib.suppress(ExpressionError):
            values = space.complete({**chosen, name: value})
            if not feasibility.reasons_against(values):
                return values
        return None

    for name in [*chosen, *chosen]:  # restoring one parameter may allow restoring an earlier one
        if name not in base or chosen.get(name) == base[name] or not space.parameters[name].is_searched:
            continue
        for value in _towards(space.parameters[name], base[name], chosen[name], found):
            if (values := tried(name, value)) is not None:
                found = values
                chosen = {key: kept for key, kept in values.items() if space.parameters[key].derived is None}
                break
    return found


def _towards(parameter: Parameter, base: Value, now: Value, values: Values) -> list[Value]:
    """The values from `base` to `now`, including `base` but not `now`; of a range, some of them."""
    if not parameter.is_range:
        ordered = sorted(parameter.choices, key=lambda choice: _distance(choice, base))
        return [choice for choice in ordered if _distance(choice, base) < _distance(now, base)]
    if isinstance(base, str) or isinstance(now, str):
        return [base]
    found: list[Value] = []
    for i in range(NUM_STEPS):
        between = base + i / NUM_STEPS * (now - base)
        value: Value = round(between) if parameter.type is int else float(f"{between:.4g}")
        with contextlib.suppress(ExpressionError):
            value = _moved_into(parameter, value, values)
            if value not in found and value != now:
                found.append(value)
    return found
