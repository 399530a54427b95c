"""Sentences about a search: before it starts, while it runs, and at its end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from search.report.faults import faults_line
from search.report.overview import Overview
from search.report.texts import is_number, metric_text, tokens_text
from search.space.parameter import shown
from search.space.spec import BudgetSpec
from search.strategy.sampling import MAX_RANDOM_DRAWS
from search.study.record import TrialRecord
from search.worker.messages import FAILED, FINISHED, OUTCOMES, WASTED
from trainer.checks import counted
from trainer.reading import size_text
from trainer.text.units import TextUnits


def equal_text_line(units: TextUnits, tokens: int) -> str:
    """Says that trials with different vocabularies get the same text."""
    text = size_text(units.bytes_in(tokens))
    return (
        f"tokens are counted in the vocabulary of {units.reference:,}: {tokens:,} hold {text} of text, and trials with "
        "other vocabularies are given as much text"
    )


def fixed_line(budget: BudgetSpec) -> str:
    """Says what the budget fixes."""
    fixed = ", ".join(f"{name} {shown(value)}" for name, value in budget.set.items())
    return f"in this budget every configuration, presets too, has {fixed}"


def same_line(preset: str, other: str, whose: str) -> str:
    """Says that two presets are the same configuration here."""
    return f"{whose} {preset!r} is the same configuration as {other!r} here: it is trained once, as {other!r}"


def few_line(num_launchable: int | None, num_trials: float) -> str:
    """Says that fewer configurations can be trained than were asked for; empty if there are enough."""
    if num_launchable is None or num_launchable >= num_trials:
        return ""
    if num_launchable == 1:
        return "only one configuration may be launched, and none is trained twice: one trial is all there will be"
    number = f"{num_launchable:,}"
    return f"only {number} configurations may be launched, and none is trained twice: {number} trials at most"


def summary(overview: Overview) -> list[str]:
    """The closing sentences of a search."""
    return [counts_line(overview.counts, overview.num_trials), comparison_line(overview), *side_lines(overview)]


def counts_line(counts: Mapping[str, int], num_trials: float) -> str:
    """`7 of 24 trials: 2 finished, 3 stopped, 2 running`; without the `of 24` if no number was asked for."""
    parts = [f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts.get(outcome)]
    num_started = sum(counts.values())
    if num_started <= num_trials < math.inf:
        text = f"{num_started} of {counted(num_trials, 'trial')}"
    else:
        text = counted(num_started, "trial")
    return text + (f": {', '.join(parts)}" if parts else "")


def wasted_line(records: Iterable[TrialRecord]) -> str:
    """`wasted: 4 of 24 trials (17 %): 3 diverged, 1 out of memory; 3 in the first half, 1 in the second`.

    Empty if nothing was wasted. The halves follow the order in which trials were launched.
    """
    outcomes = [record.outcome for record in sorted(records, key=lambda record: record.number)]
    first, second = (
        sum(outcome in WASTED for outcome in half)
        for half in (outcomes[: len(outcomes) // 2], outcomes[len(outcomes) // 2 :])
    )
    if not first + second:
        return ""
    parts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in WASTED if outcome in outcomes)
    total = f"{first + second} of {counted(len(outcomes), 'trial')} ({(first + second) / len(outcomes) * 100:.0f} %)"
    return f"wasted: {total}: {parts}; {first} in the first half, {second} in the second"


def side_lines(overview: Overview) -> list[str]:
    """Everything besides counts and comparison: which trial is ahead, what was wasted, faults, why the search ended."""
    lines = (
        leading_line(overview),
        wasted_line(overview.records),
        faults_line(overview.records, overview.faults),
        proposals_line(overview.records),
        exhausted_line(overview),
    )
    return [line for line in lines if line]


def proposals_line(records: Iterable[TrialRecord]) -> str:
    """`9 of 38 proposals were moved to values that may be launched, and tpe was asked again 4 times`; or empty."""
    asked = [record for record in records if record.proposed_by not in ("", "preset", "random", "curves", "grid")]
    num_moved, num_again = sum(bool(record.moved) for record in asked), sum(record.asks - 1 for record in asked)
    parts = []
    if num_moved:
        was = "was" if num_moved == 1 else "were"
        parts.append(f"{num_moved:,} of {counted(len(asked), 'proposal')} {was} moved to what may be launched")
    if num_again:
        parts.append(f"{asked[0].proposed_by} was asked again {counted(num_again, 'time')}")
    return ", and ".join(parts)


def exhausted_line(overview: Overview) -> str:
    """Says that the space has no other configuration, and what to do then; empty if it has."""
    if overview.exhausted is None:
        return ""
    number = overview.exhausted.configurations
    done = "started"
    if overview.is_complete:
        done = "tried" if any(overview.counts[outcome] for outcome in (*WASTED, FAILED)) else "trained"
    what = "points of the grid" if overview.sampler == "grid" else "configurations"
    known = f"all {number:,} {what} that may be launched have been {done}"
    if number == 1:
        known = f"the only configuration that may be launched has been {done}"
    if not overview.exhausted.is_exact:
        known = f"{number:,} configurations have been {done}, and {MAX_RANDOM_DRAWS:,} random draws gave no other"
    return f"{known}: widen the space for others, or train the best with other seeds: tinysearch confirm"


def leading_line(overview: Overview) -> str:
    """The unfinished trial that is ahead of the best finished one and may overtake it; empty if there is none."""
    leading = overview.leading
    if leading is None:
        return ""
    value, end = metric_text(overview.metric, leading.measured(overview.metric)), tokens_text(overview.rungs[-1])
    where = f"after {tokens_text(leading.rung)} of {end} tokens"
    trial = f"trial {leading.number}{_preset(overview, leading)}"
    return f"ahead, but {leading.outcome}: {trial}, {overview.metric} {value} {where}"


def comparison_line(overview: Overview) -> str:
    """The best finished trial beside the reference, at the same number of training tokens."""
    best, reference = overview.best, overview.reference
    if best is None:
        return "no trial has finished its budget yet"
    if len(overview.metrics) > 1:
        return _front_line(overview)
    value = best.measured(overview.metric)
    assert value is not None  # otherwise it would not be the best
    trial = f"trial {best.number}{_preset(overview, best)}"
    line = f"best: {trial}, {overview.metric} {value:.4g} after {tokens_text(best.rung)} tokens"
    if reference is None:
        return line
    theirs = reference.measured(overview.metric, best.rung)
    if not is_number(theirs):
        there = "did not get there" if reference.has_ended else "is not there yet"
        return f"{line}; {overview.named(reference.preset)} {there} ({reference.outcome})"
    if best is reference:
        if not overview.num_others_finished:
            return f"{line}; no other trial has finished{'' if overview.is_complete else ' yet'}"
        return (
            f"{line}; nothing found beats {overview.whose} {'own configuration' if overview.has_guide else 'reference'}"
        )
    change = (value - theirs) / abs(theirs) if theirs else 0.0
    return f"{line}; {overview.named(reference.preset)} has {theirs:.4g} ({change:+.1%})"


def _front_line(overview: Overview) -> str:
    """The size of the front, the best trial by each metric, and how many of the front beat the reference."""
    front, reference = overview.front, overview.reference
    names = " and ".join(metric.name for metric in overview.metrics)
    line = f"front of {names}: {len(front)} of {counted(overview.counts[FINISHED], 'finished trial')}"
    for metric in overview.metrics:
        end = min(front, key=lambda record: record.signed([metric]), default=None)
        if end is not None:
            value = metric_text(metric.name, end.measured(metric.name))
            line += f"; best {metric.name}: trial {end.number}{_preset(overview, end)}, {value}"
    if reference is None or reference.outcome != FINISHED or not overview.num_others_finished:
        return line
    if reference in front:
        return f"{line}; {overview.named(reference.preset)} is on it"
    theirs = reference.signed(overview.metrics)
    num_better = sum(
        all(a <= b for a, b in zip(record.signed(overview.metrics), theirs, strict=True)) for record in front
    )
    beat = "beats" if num_better == 1 else "beat"
    return f"{line}; {num_better} of it {beat} {overview.named(reference.preset)} in all"


def _preset(overview: Overview, record: TrialRecord) -> str:
    return f" ({overview.named(record.preset)})" if record.preset else ""
