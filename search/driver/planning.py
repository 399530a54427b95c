"""How many trials of how many tokens make sense in a given time: measured, proposed, and put in words."""

from __future__ import annotations

import contextlib
import math
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from rich.console import Console

from search.driver import hardware
from search.driver.deadline import seconds_until
from search.driver.options import RunOptions
from search.driver.pace import MAX_SECONDS, NoPace, measured_pace, reference_of
from search.driver.preparing import prepare_space, read_for, settings_for, slots_for
from search.report.texts import seconds_text
from search.space.loading import load_space
from search.space.space import rungs_of
from search.space.spec import BudgetSpec
from search.strategy.feasibility import Feasibility
from search.study.cost import (
    FEWEST,
    Pace,
    Proposal,
    expected_tokens,
    lengths,
    num_fitting,
    proposals,
    search_seconds,
    seconds_needed,
    with_max_tokens,
)
from search.study.settings import StudySettings

ASSUMPTION = "if three in ten trials stop at each rung"
SHORTEST_MEASURED = 120.0  # seconds of a search; in a shorter one, measuring would take too much of the time


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What fits in a time: a proposal, or the smallest search that makes sense, which takes longer."""

    seconds: float
    budget_name: str
    reference: str  # the name of a preset; empty for the space's defaults
    pace: Pace
    proposal: Proposal | None
    smallest: Proposal | None
    too_long: Proposal | None = None  # the smallest search of the space's own budget, if it does not fit

    def options(self) -> list[str]:
        """The options of `tinysearch run` for the proposal."""
        assert self.proposal is not None
        named = ["--budget", self.budget_name] if self.budget_name else []
        return [*named, "--trials", str(self.proposal.trials), "--max-tokens", amount(self.proposal.max_tokens)]

    def lines(self, run: str) -> Iterator[str]:
        """The plan for people; `run` is the command that the options are added to."""
        yield pace_line(self.pace, self.reference)
        if self.proposal is not None:
            rungs = ", ".join(map(amount, self.proposal.rungs))
            if self.too_long is not None:
                yield (
                    f"the space's own budget is too long: {self.too_long.trials} trials of up to "
                    f"{amount(self.too_long.max_tokens)} tokens take about {seconds_text(self.too_long.seconds)}"
                )
            yield (
                f"about {self.proposal.trials} trials of up to {amount(self.proposal.max_tokens)} tokens "
                f"(rungs at {rungs}) fit in {seconds_text(self.seconds)}, {ASSUMPTION}:"
            )
            yield f"  {run} {shlex.join(self.options())}"
        elif self.smallest is not None:
            yield (
                f"{seconds_text(self.seconds)} is too short for a search here: {self.smallest.trials} trials of up to "
                f"{amount(self.smallest.max_tokens)} tokens take about {seconds_text(self.smallest.seconds)}; "
                f"give --time {_minutes(seconds_needed(self.smallest))} or more"
            )
        else:
            yield "nothing of the space may be launched with so few tokens as fit; give more time"

    def document(self) -> dict[str, Any]:
        found = {}
        for name, proposal in (("proposal", self.proposal), ("smallest", self.smallest)):
            found[name] = None if proposal is None else {**asdict(proposal), "max_tokens": proposal.max_tokens}
        options = self.options() if self.proposal is not None else None
        about = {"seconds": self.seconds, "budget": self.budget_name or None, "reference": self.reference or None}
        return {**about, "pace": asdict(self.pace), **found, "options": options, "assumption": ASSUMPTION}


def plan(settings: StudySettings, pace: Pace, seconds: float) -> Plan:
    """The longest search that fits in the time, among those whose reference may be launched."""
    budget = settings.budget
    fitting = (p for p in proposals(seconds, budget, pace) if _may_launch(settings, p.max_tokens))
    return Plan(
        seconds=seconds,
        budget_name=settings.budget_name,
        reference=reference_of(settings)[0],
        pace=pace,
        proposal=next(fitting, None),
        smallest=_smallest(budget, pace, lambda max_tokens: _may_launch(settings, max_tokens)),
    )


def _smallest(budget: BudgetSpec, pace: Pace, may_launch: Callable[[int], bool]) -> Proposal | None:
    for max_tokens in filter(may_launch, lengths(budget)):
        rungs = rungs_of(with_max_tokens(budget, max_tokens))
        return Proposal(FEWEST, rungs, search_seconds(FEWEST, rungs, budget.eval_tokens, pace))
    return None


def _may_launch(settings: StudySettings, max_tokens: int) -> bool:
    budget = with_max_tokens(settings.budget, max_tokens)
    feasibility = Feasibility.of(settings.space, budget, settings.run)
    return not feasibility.reasons_against(reference_of(settings)[1])


def until_lines(settings: StudySettings, pace: Pace, seconds: float) -> Iterator[str]:
    """What `run --until` will do in this time, before it starts, and how to use the time better if that is possible."""
    budget = settings.budget
    rungs = settings.rungs
    fitting = num_fitting(seconds, rungs, budget.eval_tokens, pace)
    yield pace_line(pace, reference_of(settings)[0])
    if fitting:
        yield (
            f"about {fitting} trial{'' if fitting == 1 else 's'} of up to {amount(rungs[-1])} tokens fit in "
            f"{seconds_text(seconds)}, {ASSUMPTION}"
        )
    else:
        full = expected_tokens(rungs, budget.eval_tokens, pass_share=1.0) / pace.reference
        yield (
            f"not one trial will reach {amount(rungs[-1])} tokens in {seconds_text(seconds)}: "
            f"that takes about {seconds_text(full)}"
        )
    if fitting < FEWEST:
        found = plan(settings, pace, seconds)
        if found.proposal is not None and found.proposal.max_tokens < rungs[-1]:
            asked = f"--max-tokens {amount(found.proposal.max_tokens)}"
            yield f"with {asked} about {found.proposal.trials} trials would fit"
        elif found.smallest is not None and not fitting:
            smallest = found.smallest
            yield (
                f"the smallest search that makes sense, --max-tokens {amount(smallest.max_tokens)} for "
                f"{smallest.trials} trials, takes about {seconds_text(smallest.seconds)}"
            )
            budgets = settings.space.spec.budgets.items()
            if shorter := [name for name, other in budgets if other.min_tokens < budget.min_tokens]:
                yield f"a budget of the space that begins with fewer tokens: --budget {' or '.join(shorter)}"


def pace_line(pace: Pace, reference: str) -> str:
    """The measured speeds, in a sentence."""
    who = f"the guide's {reference!r}" if reference and pace.is_reference_preset else "the default configuration"
    at_once = f"{pace.num_slots} trials at a time" if pace.num_slots > 1 else "one trial at a time"
    return (
        f"measured here, tokens/s of one trial: {who} {pace.reference:,.0f}, a typical one {pace.typical:,.0f}, "
        f"the slowest of {pace.num_measured} {pace.slowest:,.0f}; {at_once}"
    )


def amount(tokens: int) -> str:
    """A token count as `--max-tokens` takes it, exact: 432K, 27M, 1500."""
    for suffix, size in (("M", 10**6), ("K", 10**3)):
        if tokens >= size and tokens * 1000 % size == 0:
            return f"{tokens / size:.3f}".rstrip("0").rstrip(".") + suffix
    return str(tokens)


def seconds_of(time: str) -> float:
    """The seconds of `--time`, in the format of `--until`. Raises ValueError."""
    try:
        return seconds_until(time, datetime.now())
    except ValueError as error:
        raise ValueError(str(error).replace("--until", "--time", 1)) from None


def _minutes(seconds: float) -> str:
    """A time as `--time` takes it, rounded up."""
    minutes = math.ceil(seconds / 60)
    return f"{minutes}m" if minutes < 120 else f"{math.ceil(minutes / 60)}h"


def plan_search(options: RunOptions, seconds: float, console: Console) -> Plan:
    """A search of the options' space that makes sense in this many seconds; the speed is measured on this machine.

    If no budget is named, it uses the space's own one, or, if that one's first rung is too far, the first named one
    that fits. Raises SpaceError, or ValueError (also the trainer's) for mistakes that the user can fix.
    """
    assert options.space is not None
    names = [options.budget] if options.budget else [None, *load_space(options.space).spec.budgets]
    plans: list[Plan] = []
    for name in names:
        named = replace(options, budget=name)
        space, budget, _ = prepare_space(named)
        with contextlib.ExitStack() as stack:
            slots = slots_for(named, stack, space, budget)
        settings = settings_for(named, space, budget, slots, read_for(named, space, None if plans else console))
        plans.append(plan(settings, measured_pace(settings, slots), seconds))
        if plans[-1].proposal is not None:
            return replace(plans[-1], too_long=plans[0].smallest if len(plans) > 1 else None)
    return min(plans, key=lambda found: found.smallest.seconds if found.smallest else math.inf)


def say_what_fits(settings: StudySettings, slots: hardware.Slots, ends: float, console: Console) -> None:
    """Measure for seconds, and print what a search that ends at this time will do. Does not measure for short times."""
    if (left := ends - time.monotonic()) < SHORTEST_MEASURED:
        return
    try:
        pace = measured_pace(settings, slots, max_seconds=min(MAX_SECONDS, left / 6))
    except NoPace as error:
        console.print(str(error), style="dim")
        return
    for line in until_lines(settings, pace, ends - time.monotonic()):
        console.print(line)
