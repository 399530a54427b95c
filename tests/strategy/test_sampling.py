"""Configurations as points of the unit cube, and candidates for new trials."""

from __future__ import annotations

import numpy as np
import pytest

from search.space.loading import load_space, parse_space
from search.space.narrowing import narrow
from search.strategy.feasibility import Feasibility
from search.strategy.sampling import NUM_NEAR, POOL_SIZE, Candidates, NothingFeasible, distributions

SPACE = """
family: hybrid
budget: {trials: 12, min_tokens: 1000, max_tokens: 9000, eta: 3}
parameters:
  d_model: {values: [16, 32, 64], default: 32}
  n_layers: {min: 2, max: 6, default: 3}
  attn_layer_idx: {min: 0, max: n_layers - 1, default: 1}
  n_heads: {values: [1, 2, 4, 8], default: 2}
  learning_rate: {min: 1e-4, max: 1e-1, log: true, default: 1e-3}
rules:
  - {require: d_model // n_heads >= 8, why: heads of at least eight channels}
"""


def candidates_of(text: str = SPACE, seed: int = 0) -> Candidates:
    space = parse_space(text)
    return Candidates(space, Feasibility.of(space, space.budget()).reasons_against, seed)


def test_a_point_has_levels_log_axes_and_the_widest_ranges():
    candidates = candidates_of()
    values = {"d_model": 32, "n_layers": 4, "attn_layer_idx": 1, "n_heads": 8, "learning_rate": 1e-2}
    names = list(parse_space(SPACE).searched)
    point = dict(zip(names, candidates.point(values), strict=True))
    assert point == pytest.approx(
        {"d_model": 0.5, "n_layers": 0.5, "attn_layer_idx": 0.2, "n_heads": 1.0, "learning_rate": 2 / 3}
    )


@pytest.mark.parametrize("name", ["hybrid", "ghost", "robo", "bdh"])
def test_a_configuration_comes_back_from_its_point(name: str):
    space = load_space(f"spaces/{name}.yaml")
    candidates = Candidates(space, lambda values: [], 0)
    rng = np.random.default_rng(0)
    for _ in range(30):
        values = candidates.random(rng)
        again = candidates._at(candidates.point(values))
        assert again is not None and again.keys() == values.keys()
        for key, value in values.items():
            assert again[key] == (pytest.approx(value) if isinstance(value, float) else value), key


@pytest.mark.parametrize("name", ["hybrid", "ghost", "robo", "bdh"])
def test_candidates_are_complete_configurations_in_their_ranges(name: str):
    space = load_space(f"spaces/{name}.yaml")
    candidates = Candidates(space, lambda values: [], 0)
    rng = np.random.default_rng(0)
    leaders = np.array([candidates.point(candidates.random(rng)) for _ in range(3)])
    found, points = candidates.spread(leaders, rng)
    assert len(found) == len(points) > POOL_SIZE
    assert len(found) <= POOL_SIZE + 3 * NUM_NEAR
    assert points.min() >= 0 and points.max() <= 1
    dimensions = distributions(space)
    for values, point in zip(found, points, strict=True):
        assert candidates.point(values).tolist() == point.tolist()
        for key in dimensions.keys() & values.keys():
            assert dimensions[key]._contains(dimensions[key].to_internal_repr(values[key])), key


def test_what_may_not_be_launched_is_counted_and_asked_once():
    candidates = candidates_of()
    found, _ = candidates.spread(np.zeros((0, 5)), np.random.default_rng(0))
    refused = [values for values in found if not candidates.may_launch(values)]
    assert refused and sum(candidates.rejections.values()) >= len(refused)
    assert all("d_model // n_heads >= 8" in reason for reason in candidates.rejections)
    again, points = candidates.spread(np.zeros((0, 5)), np.random.default_rng(0))
    assert len(again) == len(points) == len(found) - len(refused)


def test_a_space_of_which_nothing_may_be_launched_says_why():
    space = parse_space(SPACE)
    candidates = Candidates(space, lambda values: ["too large for this machine"], 0)
    with pytest.raises(NothingFeasible, match="too large for this machine"):
        candidates.random(np.random.default_rng(0))


def test_a_range_that_has_only_one_value_is_there_in_candidates_near_others():
    space = narrow(parse_space(ONE_VALUE), assignments=["n_layers=1"])
    candidates = Candidates(space, lambda values: [], seed=0)
    rng = np.random.default_rng(0)
    found = candidates.around(space.complete({}), 0.2, rng)
    assert found is not None and found["attn_layer_idx"] == 0
    assert candidates.nearest({"attn_layer_idx": 3, "learning_rate": 1.0})["learning_rate"] == 0.1


ONE_VALUE = """
family: hybrid
parameters:
  d_model: {values: [16, 32], default: 16}
  n_layers: {min: 1, max: 4, default: 1}
  attn_layer_idx: {min: 0, max: n_layers - 1, default: 0}
  learning_rate: {min: 1e-4, max: 1e-1, log: true, default: 1e-3}
"""
