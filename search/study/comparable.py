"""Checks that a search's metrics and limits will be measured, and mean the same in all of its trials.

The check comes before anything is written: otherwise trials would train for nothing, or the best one would be chosen
by numbers that do not compare.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from search.space.drawing import random_values
from search.space.expression import ExpressionError
from search.space.measurement import MEASURED, Kind
from search.space.parameter import Parameter, Value, Values
from search.space.space import Space, extremes, in_order
from search.space.spec import BudgetSpec
from search.strategy.feasibility import Feasibility
from trainer.text.sources import find_sources

VOCABULARY = "vocab_size"
NUM_DRAWS = 400  # from the whole space, and at most this many for each value that may change the vocabulary
MAX_VALUES = 40  # of one parameter that are checked one by one
MAX_LISTED = 4


def unmeasurable(
    space: Space, budget: BudgetSpec, paths: Sequence[Path], *, budget_name: str = "", metrics: Sequence[str] = ()
) -> list[str]:
    """A sentence for each metric and limit that cannot be measured on this text.

    `metrics` are those from the command line, `budget_name` is the budget's; sentences say where the fault is.
    """
    if has_text(paths):
        return []
    text = ", ".join(map(str, paths))
    return list(
        _objections(
            *(space, budget, budget_name, metrics),
            is_wrong=lambda kind: kind.needs_text,
            because=f"needs text, and {text} has tokens alone, whose bytes nobody knows",
            instead="loss",
        )
    )


def incomparable(
    space: Space,
    budget: BudgetSpec,
    paths: Sequence[Path] | None = None,
    *,
    budget_name: str = "",
    metrics: Sequence[str] = (),
) -> list[str]:
    """As `unmeasurable`, for what does not compare because trials may read the text in different vocabularies.

    Without `paths` the tokens are assumed to come from a text; tokens of .bin files are the same for all trials.
    """
    if paths is not None and not has_text(paths):
        return []
    if not any(MEASURED[name].is_per_token for name in _used(space, budget)):
        return []
    sizes = vocabularies(space, budget)
    if len(sizes) < 2:
        return []
    *most, last = map(str, sizes)
    listed = f"{most[0]} to {last}" if len(sizes) > MAX_LISTED else f"{', '.join(most)} or {last}"
    return list(
        _objections(
            *(space, budget, budget_name, metrics),
            is_wrong=lambda kind: kind.is_per_token,
            because=f"is counted in nats per token, and {VOCABULARY} may be {listed} here: a token of a larger "
            "vocabulary stands for more text",
            instead="bits_per_byte",
        )
    )


def has_text(paths: Sequence[Path]) -> bool:
    """Whether the data is text, not tokens; judged by names alone if it is not on this machine."""
    if paths and all(path.exists() for path in paths):
        return not find_sources(tuple(map(str, paths))).are_tokens
    return not any(path.suffix.lower() == ".bin" for path in paths)


def vocabularies(space: Space, budget: BudgetSpec) -> list[int]:
    """The vocabularies that trials of the search may have, ascending: those of its presets and of launchable draws.

    Configurations are drawn from the space, and for each value that decides the vocabulary.
    """
    feasibility = Feasibility.of(space, budget)
    deciding = [space.parameters[name] for name in _decides(space, VOCABULARY)]
    if not any(parameter.is_searched for parameter in deciding):
        return [feasibility.train_config(space.complete({})).model.vocab_size]
    found: set[int] = set()
    for values in _presets(space):
        _note(found, feasibility, values)
    rng = np.random.default_rng(0)
    for values in _draws(space, rng, NUM_DRAWS):
        _note(found, feasibility, values)
    for parameter in filter(lambda p: p.is_searched, deciding):
        for value in _ends(space, parameter):
            fixed = {**space.parameters, parameter.name: parameter.fixed_to(value)}
            for values in _draws(replace(space, parameters=in_order(fixed)), rng, NUM_DRAWS):
                if _note(found, feasibility, values):
                    break
    return sorted(found)


def _note(found: set[int], feasibility: Feasibility, values: Values) -> bool:
    """Add a configuration's vocabulary if it may be launched; returns whether it may."""
    may_be = not feasibility.reasons_against(values)
    if may_be:
        found.add(feasibility.train_config(values).model.vocab_size)
    return may_be


def _decides(space: Space, name: str) -> set[str]:
    """A parameter and everything that its value or its condition depends on."""
    found, waiting = set(), [name] if name in space.parameters else []
    while waiting:
        found.add(one := waiting.pop())
        waiting += space.parameters[one].reads - found
    return found


def _presets(space: Space) -> Iterator[Values]:
    for preset in space.presets.values():
        with contextlib.suppress(ExpressionError):
            yield space.complete(preset.values)


def _draws(space: Space, rng: np.random.Generator, number: int) -> Iterator[Values]:
    for _ in range(number):
        with contextlib.suppress(ExpressionError):
            yield random_values(space, rng)


def _ends(space: Space, parameter: Parameter) -> Iterable[Value]:
    """The values of a list, the ends of a range."""
    return extremes(space, parameter) if parameter.is_range else parameter.choices[:MAX_VALUES]


def _used(space: Space, budget: BudgetSpec) -> list[str]:
    return [*(metric.name for metric in space.spec.objectives), *space.limits(budget)]


def _objections(
    space: Space,
    budget: BudgetSpec,
    budget_name: str,
    metrics: Sequence[str],
    *,
    is_wrong: Callable[[Kind], bool],
    because: str,
    instead: str,
) -> Iterator[str]:
    """A sentence for the wrong metrics together, and one for each wrong limit: where, why, and what to write."""
    document = space.document
    names = [metric.name for metric in space.spec.objectives]
    if wrong := [name for name in names if is_wrong(MEASURED[name])]:
        better = list(dict.fromkeys(instead if name in wrong else name for name in names))
        option, why = f"--metrics {','.join(better)}", f"{' and '.join(wrong)} {because}"
        if metrics:
            yield f"--metrics {','.join(metrics)}: {why}; give {option}"
        else:
            key = "metrics" if space.spec.metrics else "metric"
            ours = (
                f"metrics: [{', '.join(better)}]" if len(better) > 1 else f"metric: {{name: {instead}, goal: minimize}}"
            )
            yield document.fault((key,), f"{why}. Write {ours}, or give {option}").render(document.source)
    for name in space.limits(budget):
        if is_wrong(MEASURED[name]):
            of_budget = ("budgets", budget_name) if budget_name else ("budget",)
            places = (("limits", name), (*of_budget, "limits", name))
            place = next((place for place in places if place in document.lines), None)
            why = f"{name} {because}"
            if place is None:
                yield f"--limit {name}: {why}; limit {instead} instead"
            else:
                yield document.fault(place, f"{why}. Limit {instead} instead").render(document.source)
