"""Where much of a space diverges or does not fit, the search wastes ever less on it and finds the best beside it."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest

from benchmarks.search import waste
from benchmarks.search.problems import NEVER, NUM_RUNGS, PROBLEMS
from benchmarks.search.waste import PLAYERS, measure, play, simulate
from search.worker.messages import DIVERGED, OUT_OF_MEMORY

SEEDS, NUM_WORKERS, NUM_TRIALS = range(2), 8, 80


@cache
def mean_of(problem: str, player: str) -> dict:
    return measure([problem], [player], SEEDS, NUM_WORKERS, NUM_TRIALS)["problems"][problem][player]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_half_of_a_space_or_more_cannot_be_had_and_the_best_lie_next_to_it(problem: str):
    for seed in range(4):
        land = PROBLEMS[problem](seed)
        points = land.sample(4000, 1)
        curves = land.curves(points)
        is_had = curves.end == NEVER
        assert 0.75 < (~is_had).mean() < 0.85 if problem == "diverging" else 0.4 < (~is_had).mean() < 0.6
        more = points[is_had] + np.eye(points.shape[1])[0] * 0.1  # of the learning rate or the width
        is_lost = land.curves(more).end != NEVER
        best = np.argsort(curves.floor[is_had])[:20]
        assert is_lost[best].mean() > 1.3 * is_lost.mean()


def test_a_few_diverge_late():
    land = PROBLEMS["diverging"](0)
    ends = land.curves(land.sample(4000, 1)).end
    late = (ends[ends < NEVER] > 1 / 3).mean()
    assert 0.02 < late < 0.2
    assert (ends[ends < NEVER] < 1 / NUM_RUNGS).mean() > 0.5


@pytest.mark.benchmark
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_share_of_wasted_slots_falls_and_is_below_that_of_random_search(problem: str):
    first, second = np.array(mean_of(problem, "tinysearch")["wasted_slots"]).reshape(2, 2).mean(1)
    at_random = np.mean(mean_of(problem, "random")["wasted_slots"][2:])
    assert second < first
    assert second < 0.6 * at_random


@pytest.mark.benchmark
@pytest.mark.parametrize("problem", ["out of memory", "limit"])
def test_what_is_handed_over_is_in_the_best_region(problem: str):
    assert mean_of(problem, "tinysearch")["in_best_region"][-1] == 1.0


@pytest.mark.benchmark
def test_at_an_edge_of_divergence_what_is_handed_over_is_better_than_random_search_finds():
    found, at_random = mean_of("diverging", "tinysearch"), mean_of("diverging", "random")
    assert found["regret"][-1] < at_random["regret"][-1]
    assert found["regret"][-1] < 0.3


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_run_counts_every_launched_trial_and_all_of_its_cost(problem: str):
    land = PROBLEMS[problem](0)
    run = simulate(land, PLAYERS["random_asha"](land, 30, 0), num_workers=3, seed=0)
    assert len(run.is_wasted) == 30
    assert sum(cost for _, cost, _ in run.spent) == pytest.approx(run.total)
    lost = {key for _, _, key in run.spent if run.is_wasted[key]}
    assert lost and max(run.is_wasted) <= 1
    if problem == "out of memory":
        assert all(cost == waste.LAUNCH_COST for _, cost, key in run.spent if key in lost)


def test_the_controller_gets_each_loss_as_a_search_reports_it():
    for problem, outcome in (("diverging", DIVERGED), ("out of memory", OUT_OF_MEMORY), ("limit", "infeasible")):
        land = PROBLEMS[problem](1)
        controller = PLAYERS["tinysearch"](land, 16, 1)
        run = simulate(land, controller, num_workers=4, seed=1)
        outcomes = [record.outcome for record in controller.study.records.values()]
        assert [found == outcome for found in outcomes] == run.is_wasted
        assert set(outcomes) <= {outcome, "finished", "stopped"}


def test_the_command_prints_a_table_or_one_object(capsys: pytest.CaptureFixture):
    small = ["--seeds", "1", "--trials", "8", "--workers", "2", "--policies", "random", "--processes", "1"]
    waste.main(small)
    assert "of the space cannot be had" in capsys.readouterr().out
    waste.main([*small, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["problems"].keys() == PROBLEMS.keys()
    assert len(found["problems"]["limit"]["random"]["wasted_slots"]) == 4


def test_the_same_seed_gives_the_same_run():
    assert play("diverging", "tinysearch", 2, 3, 16) == play("diverging", "tinysearch", 2, 3, 16)
