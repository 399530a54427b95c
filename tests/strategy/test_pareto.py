"""Several metrics: the front against brute force, and what a decision by one of many scalarizations keeps alive."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.search.contest import Terms
from benchmarks.search.pareto import Front, measure, play
from benchmarks.search.pareto_policies import POLICIES
from benchmarks.search.table import Axis, Table
from search.space.spec import MetricSpec
from search.strategy.pareto import favourable_scalarizations, hypervolume, random_scalarization, undominated
from search.strategy.strategy import Curve
from search.study.record import TrialRecord, pareto_front
from search.worker.messages import OUTCOMES

LOSS, SPEED = MetricSpec.of("loss"), MetricSpec.of("tokens_per_second")
VALUES = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan, math.inf])  # few, so that ties are common


def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


@given(st.integers(1, 4).flatmap(lambda m: st.lists(st.tuples(*[VALUES] * m), max_size=12)))
def test_undominated_is_what_no_other_beats(rows: list[tuple[float, ...]]):
    expected = [all(map(math.isfinite, row)) and not any(beats(other, row) for other in rows) for row in rows]
    assert undominated(np.array(rows)).tolist() == expected


@given(st.integers(1, 3).flatmap(lambda m: st.lists(st.tuples(*[st.integers(0, 5)] * m), min_size=1, max_size=8)))
def test_hypervolume_counts_the_cells_that_are_beaten(rows: list[tuple[int, ...]]):
    cells = itertools.product(range(4), repeat=len(rows[0]))
    beaten = sum(any(all(a <= b for a, b in zip(row, cell, strict=True)) for row in rows) for cell in cells)
    assert hypervolume(np.array(rows), np.full(len(rows[0]), 4)) == pytest.approx(beaten)


def test_hypervolume_of_nothing_is_nothing_and_what_is_beaten_adds_none():
    reference = np.ones(2)
    assert hypervolume(np.zeros((0, 2)), reference) == 0.0
    assert hypervolume(np.array([[math.nan, 0.0], [2.0, 0.0]]), reference) == 0.0
    front = np.array([[0.0, 0.5], [0.5, 0.0]])
    assert hypervolume(np.vstack([front, [[0.6, 0.6]]]), reference) == hypervolume(front, reference) == 0.75


def record(number: int, loss: float, speed: float | None, outcome: str = "finished") -> TrialRecord:
    measured = {"loss": loss} if speed is None else {"loss": loss, "tokens_per_second": speed}
    return TrialRecord(number=number, values={}, outcome=outcome, measurements={9: measured})


def test_the_front_goes_from_the_best_first_metric_to_the_best_second():
    records = [record(0, 3.0, 30.0), record(1, 1.0, 10.0), record(2, 2.0, 20.0), record(3, 2.5, 20.0)]
    assert [r.number for r in pareto_front(records, (LOSS, SPEED))] == [1, 2, 0]
    assert [r.number for r in pareto_front(records, (SPEED, LOSS))] == [0, 2, 1]
    assert [r.number for r in pareto_front(records, (LOSS,))] == [1]
    assert pareto_front([], (LOSS, SPEED)) == []


@given(
    st.lists(
        st.tuples(VALUES, st.one_of(st.none(), VALUES), st.sampled_from(["finished", "finished", *OUTCOMES])),
        max_size=12,
    )
)
def test_only_finished_trials_with_finite_values_are_on_the_front_and_keep_no_other_from_it(drawn):
    records = [record(number, *one) for number, one in enumerate(drawn)]
    front = pareto_front(records, (LOSS, SPEED))
    complete = [r for r in records if r.outcome == "finished" and all(map(math.isfinite, r.signed((LOSS, SPEED))))]
    signed = {r.number: r.signed((LOSS, SPEED)) for r in complete}
    expected = {n for n, mine in signed.items() if not any(beats(other, mine) for other in signed.values())}
    assert {r.number for r in front} == expected


def trade_off(num_trials: int) -> tuple[list[Curve], dict[int, dict[int, tuple[float, float]]]]:
    """Trials from slow and good to fast and bad, all at their first of three rungs, and none beats another."""
    curves = [Curve(i, np.array([i / num_trials]), {0: float(i)}, is_paused=True) for i in range(num_trials)]
    return curves, {i: {0: (float(i), float(-i))} for i in range(num_trials)}


def test_each_end_of_a_trade_off_is_the_best_in_some_view_and_what_is_beaten_is_so_in_none():
    curves, vectors = trade_off(8)
    curves.append(Curve(8, np.array([0.5]), {0: 9.0}, is_paused=True))
    vectors[8] = {0: (8.0, 1.0)}
    drawn = [random_scalarization(curves, vectors, seed=seed) for seed in range(200)]
    best = {min(scalarized, key=lambda curve: curve.values[0]).number for scalarized in drawn}
    assert {0, 7} <= best and len(best) >= 4  # 7 has the worst loss of all but the last
    assert 8 not in best


def test_every_paused_trial_that_nothing_beats_is_the_best_in_its_favourable_view():
    curves, vectors = trade_off(8)
    for number in (0, 3, 7):
        paused = [replace(curve, is_paused=curve.number == number) for curve in curves]
        (scalarized,) = favourable_scalarizations(paused, vectors)
        assert abs(min(scalarized, key=lambda curve: curve.values[0]).number - number) <= 1
    assert list(favourable_scalarizations([replace(curve, is_paused=False) for curve in curves], vectors)) == []


def test_views_keep_failures_rungs_and_what_else_a_curve_says():
    curves = [Curve(0, np.zeros(1), {0: 1.0, 1: 0.5}), Curve(1, np.ones(1), {0: 2.0, 2: math.nan}, is_running=True)]
    vectors = {0: {0: (1.0, 5.0), 1: (0.5, 5.0)}, 1: {0: (2.0, 3.0), 2: (math.nan, math.nan)}}
    scalarized = random_scalarization(curves, vectors, seed=0)
    assert [sorted(curve.values) for curve in scalarized] == [[0, 1], [0, 2]]
    assert math.isnan(scalarized[1].values[2])
    assert all(math.isfinite(v) for v in [*scalarized[0].values.values(), scalarized[1].values[0]])
    assert [(c.number, c.is_running, c.point.tolist()) for c in scalarized] == [(0, False, [0.0]), (1, True, [1.0])]
    assert curves[0].values == {0: 1.0, 1: 0.5}


def test_the_same_curves_and_seed_give_the_same_view_and_what_was_learned_since_gives_another():
    curves, vectors = trade_off(5)

    def shown(seed: int) -> list[float]:
        return [curve.values[0] for curve in random_scalarization(curves, vectors, seed=seed)]

    first = shown(1)
    assert first == shown(1) != shown(2)
    vectors[0][1] = (0.1, 0.0)
    assert first != shown(1)


def test_before_anything_is_seen_views_are_empty():
    assert [curve.values for curve in random_scalarization([Curve(0, np.zeros(1), is_paused=True)], {}, seed=0)] == [{}]
    assert list(favourable_scalarizations([Curve(0, np.zeros(1), is_paused=True)], {})) == []
    assert random_scalarization([], {}, seed=0) == []


# The benchmark.


def by_hand(losses: list[float], seconds: list[float]) -> Table:
    """A table of three rungs, each of a third of a unit, whose configurations are evenly spaced on one axis."""
    values = np.array(losses)[:, None] + np.array([2.0, 1.0, 0.0])
    return Table(
        name="by:hand",
        axes=(Axis("x"),),
        points=np.linspace(0, 1, len(losses))[:, None],
        values=values,
        costs=np.tile([1 / 3, 2 / 3, 1.0], (len(losses), 1)),
        lengths=np.full(len(losses), 3),
        restart=False,
        best=min(losses),
        median=float(np.median(losses)),
        seconds=np.array(seconds),
    )


def test_the_share_of_a_front_is_that_of_its_hypervolume():
    """Two squares of the box from (0, 0) to (1.1, 1.1) that overlap; what is beyond the median loss does not count."""
    front = Front.of(by_hand([0.0, 0.5, 1.0, 3.0, 3.0, 4.0, 5.0], [math.e, math.exp(0.5), 1, 1, 2, 0.5, 3]))
    assert front.rows.tolist() == [0, 1, 2]
    whole = 1.1 * 0.1 + 0.6 * 0.5 + 0.1 * 0.5  # a slice for each of the three, from the slowest
    assert front.share([0, 1, 2]) == pytest.approx(1)
    assert front.share([0]) == pytest.approx(1.1 * 0.1 / whole)
    assert front.share([1]) == pytest.approx(0.6 * 0.6 / whole)
    assert front.share([]) == front.share([3, 4, 5, 6]) == 0


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_runs_and_has_no_unfinished_trial_on_its_front(policy: str):
    rng = np.random.default_rng(0)
    losses = rng.permutation(40) / 10
    table = by_hand(losses.tolist(), np.exp(-losses + rng.normal(0, 0.3, 40)).tolist())
    first, again = (play(table, policy, 0, Terms.of(4, 12.0)) for _ in range(2))
    assert first == again
    assert first.num_finished > 0 and first.num_unfinished_on_front == 0
    assert list(first.shares) == sorted(first.shares) and 0 < first.shares[-1] <= 1


def test_figures_are_means_of_seeds_and_tables_without_a_front_are_left_out():
    good = by_hand([0.0, 0.5, 1.0, 3.0, 3.0, 4.0, 5.0], [math.e, math.exp(0.5), 1, 1, 2, 0.5, 3])
    flat = replace(by_hand([0.0, 1.0, 2.0], [1, 1, 1]), name="flat:one")
    terms = Terms.of(2, 3.0)
    measured = measure([good, flat], ["random", "tpe"], range(3), terms)
    shares = [play(good, "random", seed, terms).shares[-1] for seed in range(3)]
    assert measured["left_out"] == ["flat:one"]
    assert measured["tables"]["by:hand"]["random"]["3"] == pytest.approx(np.mean(shares))
    assert measured["policies"]["random"]["3"] == pytest.approx(np.mean(shares))
