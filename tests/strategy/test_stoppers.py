"""Early stopping by name: each rule against its definition, on curves written by hand or drawn at random."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.strategy.choice import Continue, GoOn, Stop, Wait
from search.strategy.curves import Curve
from search.strategy.stoppers import GOLDEN, Brackets, Cutting, Median, Never, Promoting

RUNGS = (1000, 3000, 9000)


def curve(number: int, *values: float, **state: bool) -> Curve:
    return Curve(number, np.zeros(1), dict(enumerate(values)), **state)


def paused(number: int, *values: float) -> Curve:
    return curve(number, *values, is_paused=True)


# ASHA that promotes.


def test_asha_promotes_as_in_an_example_computed_by_hand():
    asha = Promoting(RUNGS, 3, 1)
    trials = [paused(0, 0.5), paused(1, 0.3)]
    assert asha.resume(trials, can_start=True) is None  # 2 // 3 = 0
    trials.append(paused(2, 0.4))
    assert asha.resume(trials, can_start=True) == Continue(1)  # the best of 3
    trials[1] = curve(1, 0.3, is_running=True)
    assert asha.resume(trials, can_start=True) == Wait()  # 1 of 3 has been promoted
    trials += [paused(3, 0.2), paused(4, 0.6), paused(5, 0.7)]
    assert asha.resume(trials, can_start=True) == Continue(3)  # the best 2 of 6 are 3 and 1; 1 is promoted already
    trials[1], trials[3] = paused(1, 0.3, 0.25), paused(3, 0.2, 0.15)
    trials += [paused(6, 0.1), paused(7, 0.35), paused(8, 0.8)]
    assert asha.resume(trials, can_start=True) == Continue(6)  # the best 3 of 9
    trials[6] = paused(6, 0.1, 0.3)
    assert asha.resume(trials, can_start=True) == Continue(3)  # at the second rung the best of 3


def test_asha_looks_at_the_deepest_rung_first():
    deep = [paused(0, 0.1, 0.5), paused(1, 0.2, 0.4), paused(2, 0.3, 0.6)]
    shallow = [paused(i, 0.05) for i in range(3, 9)]
    assert Promoting(RUNGS, 3, 1).resume([*deep, *shallow], can_start=True) == Continue(1)


def test_a_trial_that_failed_later_is_not_in_the_way_of_a_promotion():
    failed = [curve(i, 0.1, math.nan, math.nan) for i in range(2)]
    trials = [*failed, paused(2, 0.5), paused(3, 0.6), paused(4, 0.7), paused(5, 0.8)]
    assert Promoting(RUNGS, 3, 1).resume(trials, can_start=True) == Continue(2)


def test_once_nothing_can_start_the_best_of_few_is_promoted_so_that_something_finishes():
    asha = Promoting(RUNGS, 3, 1)
    trials = [paused(0, 0.5), paused(1, 0.3)]
    assert asha.resume(trials, can_start=False) == Continue(1)
    assert asha.resume([*trials, curve(2, is_running=True)], can_start=False) == Wait()  # it may still get there
    trials[1] = paused(1, 0.3, 0.2)
    assert asha.resume(trials, can_start=False) == Continue(1)
    trials[1] = curve(1, 0.3, 0.2, 0.1)
    assert asha.resume(trials, can_start=False) is None


def test_a_paused_trial_says_its_place():
    trials = [paused(i, i / 10) for i in range(12)]
    asha = Promoting(RUNGS, 3, 1)
    assert asha.why(trials, 6) == "7th of 12 at 1,000 tokens; the best third is promoted"
    assert asha.why(trials, 10).startswith("11th") and asha.why(trials, 1).startswith("2nd")
    assert Promoting(RUNGS, 2.5, 1).why(trials, 0) == "1st of 12 at 1,000 tokens; the best 40 % is promoted"


def published_get_job(rungs: list[list[tuple[float, int]]], promoted: set[tuple[int, int]], eta: int) -> int | None:
    """Algorithm 2 of Li et al., its function get_job, as it is printed: the trial to promote."""
    for k in reversed(range(len(rungs) - 1)):
        candidates = sorted(rungs[k])[: len(rungs[k]) // eta]
        promotable = [t for _, t in candidates if (k, t) not in promoted]
        if promotable:
            promoted.add((k, promotable[0]))
            return promotable[0]
    return None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([2, 3, 4]), st.integers(2, 5))
def test_asha_promotes_whom_the_published_algorithm_promotes(seed: int, eta: int, num_rungs: int):
    rng = np.random.default_rng(seed)
    asha = Promoting([eta**k for k in range(num_rungs)], eta, 1)
    rungs: list[list[tuple[float, int]]] = [[] for _ in range(num_rungs)]
    promoted: set[tuple[int, int]] = set()
    trials: list[Curve] = []
    for _ in range(60):
        expected = published_get_job(rungs, promoted, eta)
        choice = asha.resume(trials, can_start=True)
        assert choice == (None if expected is None else Continue(expected))
        if expected is None:
            trials.append(paused(len(trials)))
            expected = len(trials) - 1
        trial = trials[expected]
        rung = trial.deepest + 1
        trial.values[rung] = float(rng.integers(10))
        trial.is_paused = rung < num_rungs - 1
        rungs[rung].append((trial.values[rung], expected))


# ASHA that stops, as Ray's.


def test_asha_that_stops_cuts_where_rays_does():
    from ray.tune.schedulers.async_hyperband import _Bracket

    rng = np.random.default_rng(0)
    bracket = _Bracket(min_t=1, max_t=9, reduction_factor=3, s=0, stop_last_trials=True)
    ours, trials = Cutting((1, 3, 9), 3, 1), []
    for number in range(40):
        trial = curve(number, is_running=True)
        trials.append(trial)
        for rung, tokens in enumerate((1, 3)):
            trial.values[rung] = float(rng.normal())
            action = bracket.on_result(_Trial(number), tokens, -trial.values[rung])  # Ray maximises
            verdict = ours.judge(trials, number)
            assert isinstance(verdict, Stop) == (action == "STOP")
            if isinstance(verdict, Stop):
                break


class _Trial:
    def __init__(self, number: int):
        self.trial_id = str(number)


def test_a_trial_that_asha_stops_says_why():
    trials = [curve(i, i / 10) for i in range(9)]
    verdict = Cutting(RUNGS, 3, 1).judge(trials, 6)
    assert verdict == Stop("7th of 9 at 1,000 tokens; the best third trains on")
    assert Cutting(RUNGS, 3, 1).judge(trials[:1], 0) == GoOn()


# Brackets.


@pytest.mark.parametrize(("number", "shares"), [(1, [1]), (3, [9 / 15, 3 / 15, 3 / 15])])
def test_brackets_have_hyperbands_shares(number: int, shares: list[float]):
    brackets = Brackets(RUNGS, 3, number)
    found = np.bincount([brackets.of(i) for i in range(3000)], minlength=number) / 3000
    sizes = [math.ceil(3 / (3 - b) * 3 ** (2 - b)) for b in range(number)]  # n_s of the paper, s = 2 - b
    assert np.allclose(found, np.array(sizes) / sum(sizes), atol=0.01)
    assert GOLDEN < 1


def test_a_bracket_compares_nobody_before_its_rung():
    for made in (Promoting(RUNGS, 3, 3), Cutting(RUNGS, 3, 3)):
        brackets = Brackets(RUNGS, 3, 3)
        trials = [curve(i, float(i), is_running=True) for i in range(50)]
        for trial in trials:
            if brackets.of(trial.number) > 0:
                assert made.judge(trials, trial.number) == GoOn()


# The median rule, and none.


def test_the_median_rule_compares_the_best_so_far_with_the_others():
    trials = [curve(i, float(i)) for i in range(6)]
    rule = Median(RUNGS, 5, 0)
    assert rule.judge(trials, 5) == Stop("worse than the median of 5 others at 1,000 tokens")
    assert rule.judge(trials, 0) == GoOn()
    assert rule.judge(trials[1:], 5) == GoOn()  # four others
    assert Median(RUNGS, 5, 3000).judge(trials, 5) == GoOn()
    trials[5] = curve(5, 0.5, 9.0)
    assert Median(RUNGS, 1, 0).judge([*trials[:5], curve(6, 1.0, 1.0), trials[5]], 5) == GoOn()


def test_none_stops_nobody_and_continues_what_an_extended_study_has():
    trials = [paused(0, 0.5, 0.4), paused(1, 0.3, 0.2), curve(2, 0.1, is_running=True)]
    assert Never().judge(trials, 2) == GoOn()
    assert Never().resume(trials, can_start=True) == Continue(1)
    assert Never().resume(trials[2:], can_start=False) is None
