"""What is said before a search: of presets, budgets and vocabularies."""

from __future__ import annotations

from search.space.parameter import shown
from search.space.spec import BudgetSpec
from trainer.reading import size_text
from trainer.text.units import TextUnits


def equal_text_line(units: TextUnits, tokens: int) -> str:
    """That trials of different vocabularies get the same text."""
    text = size_text(units.bytes_in(tokens))
    return (
        f"tokens are counted in the vocabulary of {units.reference:,}: {tokens:,} hold {text} of text, and trials with "
        "other vocabularies are given as much text"
    )


def fixed_line(budget: BudgetSpec) -> str:
    """What the budget sets, in a sentence."""
    fixed = ", ".join(f"{name} {shown(value)}" for name, value in budget.set.items())
    return f"in this budget every configuration, presets too, has {fixed}"


def same_line(preset: str, other: str, whose: str) -> str:
    """That two presets are one configuration here, in a sentence."""
    return f"{whose} {preset!r} is the same configuration as {other!r} here: it is trained once, as {other!r}"


def few_line(num_launchable: int | None, num_trials: float) -> str:
    """That fewer configurations can be trained than were asked for; empty where there are enough."""
    if num_launchable is None or num_launchable >= num_trials:
        return ""
    if num_launchable == 1:
        return "only one configuration may be launched, and none is trained twice: one trial is all there will be"
    number = f"{num_launchable:,}"
    return f"only {number} configurations may be launched, and none is trained twice: {number} trials at most"
