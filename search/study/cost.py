"""What a search costs, in tokens and time, before and while it runs: arithmetic on rungs and speeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from search.space.space import rungs_of
from search.space.spec import BudgetSpec

PASS_SHARE = 0.7  # share of the trials at a rung that continue to the next, in simulated and real searches
EVALUATION = 1 / 3  # of a training token's time: the forward pass alone
STARTUP_SECONDS = 15.0  # until workers train, if it was not measured
FEWEST = 8  # trials; fewer make no search
SPARE = 0.1  # share of the time kept for what a plan cannot know


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Tokens per second of one trial, beside as many others as train at once."""

    num_slots: int
    reference: float
    typical: float  # the harmonic mean over configurations of the space: times add up, speeds do not
    slowest: float
    num_measured: int = 1
    startup_seconds: float = STARTUP_SECONDS  # until workers train
    is_reference_preset: bool = True


@dataclass(frozen=True)
class Proposal:
    """A search that fits into a time."""

    trials: int
    rungs: tuple[int, ...]
    seconds: float  # how long it takes, about

    @property
    def max_tokens(self) -> int:
        return self.rungs[-1]


def expected_tokens(
    rungs: tuple[int, ...], eval_tokens: int, *, tokens: int = 0, pass_share: float = PASS_SHARE
) -> float:
    """The tokens that a trial with `tokens` is still expected to train; evaluations count as training tokens.

    At each rung but the last, `pass_share` of the trials continue. That includes the rung at which the trial waits.
    """
    total, chance, before = 0.0, 1.0, 0
    for rung in rungs:
        if rung > tokens:
            total += chance * (rung - max(before, tokens) + EVALUATION * eval_tokens)
            chance *= pass_share
        elif rung == tokens:
            chance = pass_share
        before = rung
    return total


def search_seconds(num_trials: int, rungs: tuple[int, ...], eval_tokens: int, pace: Pace) -> float:
    """The duration of a search, whose reference is never stopped."""
    full = expected_tokens(rungs, eval_tokens, pass_share=1.0) / pace.reference
    each = expected_tokens(rungs, eval_tokens) / pace.typical
    return pace.startup_seconds + max(full, (full + (num_trials - 1) * each) / pace.num_slots)


def seconds_needed(proposal: Proposal) -> float:
    """The time that a plan needs to accept this search."""
    return proposal.seconds / (1 - SPARE)


def num_fitting(seconds: float, rungs: tuple[int, ...], eval_tokens: int, pace: Pace) -> int:
    """About how many trials fit into a time; 0 if not even the reference reaches the last rung."""
    full = expected_tokens(rungs, eval_tokens, pass_share=1.0) / pace.reference
    each = expected_tokens(rungs, eval_tokens) / pace.typical
    left = seconds * (1 - SPARE) - pace.startup_seconds
    return 0 if left < full else 1 + int((left * pace.num_slots - full) / each + 1e-9)


def with_max_tokens(budget: BudgetSpec, max_tokens: int) -> BudgetSpec:
    return budget.model_copy(update={"max_tokens": max_tokens})


def lengths(budget: BudgetSpec) -> list[int]:
    """The last rungs that a budget can have: from its first rung to its own last one."""
    return list(rungs_of(budget))


def proposals(seconds: float, budget: BudgetSpec, pace: Pace) -> Iterator[Proposal]:
    """Searches that fit into a time, the one with the most tokens first: at least FEWEST trials up to the budget's own
    last rung, and beyond that as many trials as the budget has.
    """
    beyond, longest = [], budget.max_tokens * budget.eta
    while num_fitting(seconds, rungs_of(with_max_tokens(budget, longest)), budget.eval_tokens, pace) >= budget.trials:
        beyond.append(longest)
        longest *= budget.eta
    for max_tokens in reversed([*lengths(budget), *beyond]):
        rungs = rungs_of(with_max_tokens(budget, max_tokens))
        num_trials = num_fitting(seconds, rungs, budget.eval_tokens, pace)
        if num_trials >= FEWEST:
            yield Proposal(num_trials, rungs, search_seconds(num_trials, rungs, budget.eval_tokens, pace))


def seconds_left(
    tokens_of_trials: Iterable[int], num_to_start: float, rungs: tuple[int, ...], tokens_per_second: float
) -> float:
    """The time until a search ends, given what its unfinished trials have trained and how many have yet to start."""
    tokens = sum(expected_tokens(rungs, 0, tokens=trained) for trained in tokens_of_trials)
    return (tokens + num_to_start * expected_tokens(rungs, 0)) / tokens_per_second
