"""What a search costs, in tokens and in time, before and while it runs: arithmetic on rungs and speeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from search.space.space import rungs_of
from search.space.spec import BudgetSpec

PASS_SHARE = 0.7  # of the trials at a rung go on to the next: of simulated and real searches, about
EVALUATION = 1 / 3  # of a training token's time: the forward pass alone
STARTUP_SECONDS = 15.0  # until workers train, where it was not measured
FEWEST = 8  # trials below which a search is none
SPARE = 0.1  # of the time, for what a plan cannot know


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Tokens per second of one trial, beside as many others as train at once."""

    num_slots: int
    reference: float
    typical: float  # the harmonic mean over configurations of the space: time adds up, speed does not
    slowest: float
    num_measured: int = 1
    startup_seconds: float = STARTUP_SECONDS  # until workers train
    is_reference_preset: bool = True


@dataclass(frozen=True)
class Proposal:
    """A search that fits a time."""

    trials: int
    rungs: tuple[int, ...]
    seconds: float  # that it takes, about

    @property
    def max_tokens(self) -> int:
        return self.rungs[-1]


def expected_tokens(
    rungs: tuple[int, ...], eval_tokens: int, *, tokens: int = 0, pass_share: float = PASS_SHARE
) -> float:
    """What a trial that has trained `tokens` is expected to train yet, its evaluations counted as training tokens.

    At each rung but the last, `pass_share` of the trials go on; so also at the one where the trial waits, if it does.
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
    """The time of a search; its reference is never stopped."""
    full = expected_tokens(rungs, eval_tokens, pass_share=1.0) / pace.reference
    each = expected_tokens(rungs, eval_tokens) / pace.typical
    return pace.startup_seconds + max(full, (full + (num_trials - 1) * each) / pace.num_slots)


def seconds_needed(proposal: Proposal) -> float:
    """The time to give a search, so that a plan finds that it fits."""
    return proposal.seconds / (1 - SPARE)


def num_fitting(seconds: float, rungs: tuple[int, ...], eval_tokens: int, pace: Pace) -> int:
    """How many trials fit in a time, about; 0 where not even the reference reaches the last rung."""
    full = expected_tokens(rungs, eval_tokens, pass_share=1.0) / pace.reference
    each = expected_tokens(rungs, eval_tokens) / pace.typical
    left = seconds * (1 - SPARE) - pace.startup_seconds
    return 0 if left < full else 1 + int((left * pace.num_slots - full) / each + 1e-9)


def with_max_tokens(budget: BudgetSpec, max_tokens: int) -> BudgetSpec:
    return budget.model_copy(update={"max_tokens": max_tokens})


def lengths(budget: BudgetSpec) -> list[int]:
    """The last rungs that a budget may be given, from its first rung on to its own last one."""
    return list(rungs_of(budget))


def proposals(seconds: float, budget: BudgetSpec, pace: Pace) -> Iterator[Proposal]:
    """Searches that fit a time, the one of most tokens first: at least FEWEST trials up to the budget's own last rung,
    and beyond it as many as the budget has.
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
    """The time until a search ends, from what its trials that may go on have trained, and how many are yet to start."""
    tokens = sum(expected_tokens(rungs, 0, tokens=trained) for trained in tokens_of_trials)
    return (tokens + num_to_start * expected_tokens(rungs, 0)) / tokens_per_second
