"""What is trained next: the model of curves, its acquisition values, and the decision between new and paused trials."""

from __future__ import annotations

import math

import numpy as np
import pytest

from search.strategy.curves import Curve, Curves
from search.strategy.strategy import NUM_FIRST, Continue, Start, Strategy, expected_improvement, standardised
from search.strategy.success import SuccessModel
from search.strategy.surrogate import CurveModel, Observations

RUNGS = (1, 3, 9, 27)
LAST = len(RUNGS) - 1


def curves(seed: int, num_trials: int, early_says: float, num_dims: int = 2) -> list[Curve]:
    """Trials trained to the end on a smooth landscape; the share `early_says` of rungs before the last is not noise."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(num_trials):
        point = rng.random(num_dims)
        end = float(((point - 0.3) ** 2).sum() * 5)
        early = [early_says * end + (1 - early_says) * 2 * float(rng.random()) for _ in RUNGS[:-1]]
        found.append(Curve(number, point, dict(enumerate([*early, end]))))
    return found


def observations(found: list[Curve]) -> Observations:
    rows = [(c.point, rung, c.number, value) for c in found for rung, value in c.values.items()]
    points, rungs, trials, values = (np.array(part) for part in zip(*rows, strict=True))
    scores = standardised(values)
    return Observations(points, rungs, trials, scores - scores.mean())


class Anywhere:
    """Candidates of the unit square that may all be launched, but for those that `refuses`."""

    def __init__(self, refuses=lambda values: False):
        self.refuses = refuses

    def random(self, rng: np.random.Generator) -> dict:
        while True:
            values = dict(zip("xy", rng.random(2).tolist(), strict=True))
            if not self.refuses(values):
                return values

    def spread(self, leaders: np.ndarray, rng: np.random.Generator) -> tuple[list[dict], np.ndarray]:
        points = np.vstack(
            [rng.random((100, 2)), *(np.clip(x + 0.1 * rng.normal(size=(20, 2)), 0, 1) for x in leaders)]
        )
        return [dict(zip("xy", point.tolist(), strict=True)) for point in points], points

    def may_launch(self, values: dict) -> bool:
        return not self.refuses(values)

    def left(self, rng: np.random.Generator) -> list[dict]:
        return []

    def point(self, values: dict) -> np.ndarray:
        return np.array([values["x"], values["y"]])


def new_strategy(candidates: Anywhere | None = None, seed: int = 0) -> Strategy:
    return Strategy(2, RUNGS, candidates or Anywhere(), seed=seed)


def test_the_gradient_of_the_fit_is_that_of_its_loss():
    rng = np.random.default_rng(0)
    seen = observations(curves(1, 12, 0.7, num_dims=3))
    model = CurveModel(3, RUNGS)
    theta = model.theta + 0.2 * rng.normal(size=len(model.theta))
    step = 1e-5 * np.eye(len(theta))
    numeric = [(model.loss(theta + e, seen)[0] - model.loss(theta - e, seen)[0]) / 2e-5 for e in step]
    assert model.loss(theta, seen)[1] == pytest.approx(numeric, abs=1e-3)


def test_a_fit_makes_the_hyperparameters_more_probable():
    seen = observations(curves(1, 20, 0.7))
    model = CurveModel(2, RUNGS)
    before = model.loss(model.theta, seen)[0]
    model.fit(seen)
    assert model.loss(model.theta, seen)[0] < before


def test_prediction_is_that_of_the_textbook():
    """Mean and variance by the joint covariance of seen and asked, from the loss's own covariance of both."""
    found = curves(2, 8, 0.7)
    seen = observations(found)
    model = CurveModel(2, RUNGS)
    mean, sd = model.given(seen).at_last_rung(seen.points[:5], seen.trials[:5])
    across, own, level = model.rung_kernels(model.theta)
    scales = np.exp(model.theta[:2])

    def covariance(a: Observations, b: Observations) -> np.ndarray:
        r = np.sqrt(5) * np.linalg.norm((a.points[:, None] - b.points[None]) / scales, axis=2)
        at = np.ix_(a.rungs, b.rungs)
        return (1 + r + r * r / 3) * np.exp(-r) * across[at] + (a.trials[:, None] == b.trials) * own[at] + level[at]

    asked = Observations(seen.points[:5], np.full(5, LAST), seen.trials[:5], np.zeros(5))
    noisy = covariance(seen, seen) + (np.exp(2 * model.theta[-1]) + 1e-5) * np.eye(len(seen.values))
    cross = covariance(asked, seen)
    assert mean == pytest.approx(cross @ np.linalg.solve(noisy, seen.values), abs=1e-3)
    variance = np.diag(covariance(asked, asked) - cross @ np.linalg.solve(noisy, cross.T))
    assert sd**2 == pytest.approx(variance, abs=2e-3)


def test_the_model_learns_how_far_early_rungs_can_be_trusted():
    def trust(model: CurveModel) -> float:
        """The correlation of what configurations explain at the first rung with the same at the last."""
        across, _, _ = model.rung_kernels(model.theta)
        return across[0, -1] / across[-1, -1]

    before = trust(CurveModel(2, RUNGS))
    after = []
    for early_says in (0.0, 1.0):
        model = CurveModel(2, RUNGS)
        for _ in range(4):
            model.fit(observations(curves(3, 30, early_says)))
        after.append(trust(model))
    assert after[0] < before < after[1]


def test_standardised_values_keep_order_and_know_no_unit():
    values = np.array([3.0, 1.0, 2.0, 1e18, 2.5])
    scores = standardised(values)
    assert np.argsort(scores).tolist() == np.argsort(values).tolist()
    assert standardised(values * 1000 + 7).tolist() == scores.tolist()
    assert standardised(values[:1]).tolist() == [0.0]


def test_expected_improvement_is_the_mean_of_the_improvement():
    rng = np.random.default_rng(0)
    mean, sd = np.array([0.0, 1.0, -1.0]), np.array([1.0, 0.5, 0.1])
    drawn = mean + sd * rng.normal(size=(400_000, 3))
    assert expected_improvement(mean, sd, 0.5) == pytest.approx(np.maximum(0.5 - drawn, 0).mean(0), abs=4e-3)


def test_the_same_curves_and_seed_give_the_same_decision_also_from_a_kept_state():
    found = curves(4, 14, 0.8)
    first, second, other = new_strategy(), new_strategy(), new_strategy(seed=1)
    decision = first.next(found, can_start=True)
    assert decision == second.next(found, can_start=True) != other.next(found, can_start=True)
    more = curves(4, 15, 0.8)
    kept = new_strategy()
    kept.restore(first.state)
    assert kept.next(more, can_start=True) == first.next(more, can_start=True)


def test_new_configurations_close_in_on_what_is_good_and_may_be_launched():
    strategy = new_strategy(Anywhere(refuses=lambda values: values["x"] < 0.3))
    found = curves(5, 30, 0.8)
    distances = []
    for _ in range(12):
        choice = strategy.next(found, can_start=True)
        assert isinstance(choice, Start) and choice.values["x"] >= 0.3
        point = np.array([choice.values["x"], choice.values["y"]])
        distances.append(math.dist(point, (0.3, 0.3)))
        end = float(((point - 0.3) ** 2).sum() * 5)
        found = [*found, Curve(len(found), point, {rung: end for rung in range(LAST + 1)})]
    assert np.median(distances) < 0.25  # 0.46 for points at random


def test_a_paused_trial_that_looks_best_resumes_and_a_hopeless_one_does_not():
    found = curves(6, 30, 1.0)
    promising = Curve(30, np.array([0.3, 0.31]), {0: 0.0005, 1: 0.0005}, is_paused=True)
    hopeless = Curve(31, np.array([0.95, 0.95]), {0: 4.2, 1: 4.2}, is_paused=True)
    strategy = new_strategy()
    assert strategy.next([*found, promising, hopeless], can_start=False) == Continue(30)
    assert strategy.next([*found, hopeless], can_start=False) is None


def test_a_few_failures_show_where_the_edge_lies_and_none_is_feared_without_them():
    rng = np.random.default_rng(0)
    points, asked = rng.random((40, 3)), rng.random((500, 3))
    model = SuccessModel(points, points @ [2, 1, 0] > 1.2, np.ones(40))
    is_beyond = asked @ [2, 1, 0] > 1.2
    assert ((model.chances(asked) < 0.5) == is_beyond).mean() > 0.9
    none = SuccessModel(points, np.zeros(40, dtype=bool), np.ones(40))
    assert none.chances(asked).tolist() == [1.0] * 500


def test_a_trial_that_counts_little_hardly_changes_a_chance():
    points, has_failed = np.array([[0.2, 0.2], [0.8, 0.8], [0.7, 0.7]]), np.array([False, True, False])
    there = np.array([[0.75, 0.75]])
    little, much = (SuccessModel(points, has_failed, np.array([1, 1, w])).chances(there)[0] for w in (0.05, 1.0))
    without = SuccessModel(points[:2], has_failed[:2], np.ones(2)).chances(there)[0]
    assert without < little < much
    assert little - without < 0.3 * (much - without)


def test_the_best_next_to_what_cannot_be_had_is_still_sought_and_little_is_wasted():
    """Beyond x = 0.35 everything diverges, at once; values fall towards there. Proposals end up before the edge."""
    strategy, found = new_strategy(), []
    while len(found) < 45:
        choice = strategy.next(found, can_start=True)
        point = np.array([choice.values["x"], choice.values["y"]])
        end = float(1 - point[0] + (point[1] - 0.5) ** 2)
        values = {0: math.nan} if point[0] > 0.35 else dict.fromkeys(range(LAST + 1), end)
        found.append(Curve(len(found), point, values))
    late = Curves.of(found[25:])
    assert late.has_failed.sum() <= 8  # 13 at random
    assert late.points[~late.has_failed, 0].max() > 0.33


def test_if_all_have_failed_so_far_the_search_continues_at_random():
    failed = [Curve(i, np.full(2, 0.9), {LAST: math.nan}) for i in range(12)]
    assert isinstance(new_strategy().next(failed, can_start=True), Start)
    assert new_strategy().next(failed, can_start=False) is None


def test_the_first_configurations_are_random():
    seen = [Curve(i, np.full(2, i / 10), {0: float(i)}, is_paused=True) for i in range(NUM_FIRST - 1)]
    strategy = new_strategy()
    assert isinstance(strategy.next(seen, can_start=True), Start)
    assert strategy.state == new_strategy().state  # no model was asked


def test_curves_as_arrays_say_what_each_says_alone():
    point = np.array([0.1, 0.2])
    seen = Curves.of([Curve(3, point), Curve(5, point + 0.5, {1: 7.0, 0: math.nan}, is_paused=True), Curve(9, point)])
    assert seen.numbers.tolist() == [3, 5, 9] and seen.points.tolist() == [[0.1, 0.2], [0.6, 0.7], [0.1, 0.2]]
    assert (seen.owners.tolist(), seen.rungs.tolist(), seen.values[0]) == ([1, 1], [1, 0], 7.0)
    assert seen.deepest.tolist() == [-1, 1, -1] and seen.has_failed.tolist() == seen.is_paused.tolist()
    assert seen.has_failed.tolist() == [False, True, False]
    nothing_searched = Curves.of([Curve(0, np.zeros(0), {0: 1.0}), Curve(1, np.zeros(0))])
    assert nothing_searched.points.shape == (2, 0) and len(Curves.of([])) == 0


def test_what_is_running_is_to_be_beaten():
    strategy, found = new_strategy(), curves(8, 30, 1.0)
    leading = Curve(30, np.array([0.3, 0.3]), {0: 0.0, 1: 0.0}, is_running=True)
    seen = Curves.of([*found, leading])
    posterior, best = strategy._posterior(seen, np.random.default_rng(0))
    mean, _ = posterior.at_last_rung(seen.points, seen.numbers)
    assert strategy._incumbent(seen, mean, best) < best
    assert strategy._incumbent(Curves.of(found), mean[:-1], best) == best


def test_without_anything_seen_configurations_are_random_and_nothing_else_can_be_done():
    assert isinstance(new_strategy().next([], can_start=True), Start)
    assert new_strategy().next([], can_start=False) is None
    running = [Curve(i, np.full(2, 0.5), is_running=True) for i in range(12)]
    assert isinstance(new_strategy().next(running, can_start=True), Start)
    assert new_strategy().next(running, can_start=False) is None
