"""What may be launched, and what Optuna gets of a space."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search.space.document import SpaceError
from search.space.drawing import random_values
from search.space.loading import parse_space
from search.space.space import extremes, rungs_of
from search.space.spec import LimitSpec
from search.strategy.correction import MARGIN
from search.strategy.feasibility import Feasibility, assess, beyond, overrun
from search.strategy.sampling import distributions
from trainer.estimate import estimate

SPACE = """
family: hybrid
budget: {min_tokens: 1K, max_tokens: 20K, eta: 3}
budgets: {small: {min_tokens: 1K, max_tokens: 9K, limits: {num_params: {max: 30K}}}}
limits: {num_params: {max: 50K}}
parameters:
  d_model: {values: [16, 32, 48, 64], default: 32}
  n_layers: {min: 2, max: 8, default: 4}
  n_heads: {values: [1, 2, 3, 4], default: 2}
  attn_layer_idx: {min: 0, max: 'min(n_layers - 1, n_layers * (9 - n_layers) // 4)', default: 1}
  seq_len: {min: 8, max: 60, step: 4, default: 16}
  learning_rate: {min: 1e-4, max: 1e-2, log: true, default: 1e-3}
rules:
  - {require: d_model % n_heads == 0, source: row n_heads, why: heads split evenly}
guide: Reference
"""
DIVIDED = "d_model % n_heads == 0 (Reference, row n_heads: heads split evenly)"


def test_reasons_against_agree_with_the_definition():
    space = parse_space(SPACE)
    feasibility = Feasibility.of(space, space.budget())
    rng = np.random.default_rng(0)
    verdicts = set()
    for _ in range(300):
        values = random_values(space, rng)
        is_divided = values["d_model"] % values["n_heads"] == 0 and values["d_model"] // values["n_heads"] % 2 == 0
        expected = is_divided
        if is_divided:
            config = space.train_config(values, rungs=feasibility.rungs)
            expected = estimate(config).num_params <= 50_000
        verdicts.add((is_divided, expected))
        assert (feasibility.reasons_against(values) == []) == expected
    assert verdicts == {(True, True), (True, False), (False, False)}


def test_reasons_are_words_that_can_be_counted():
    space = parse_space(SPACE)
    feasibility = Feasibility.of(space, space.budget())
    default = space.complete({})
    assert feasibility.reasons_against(default) == []
    assert feasibility.reasons_against({**default, "n_heads": 3}) == [DIVIDED]
    assert space.faults_of({**default, "n_heads": 3}) == [f"breaks the rule {DIVIDED}"]
    assert feasibility.reasons_against({**default, "seq_len": 17}) == ["seq_len out of its range"]
    large = {**default, "d_model": 64, "n_layers": 8, "d_state": 200}
    assert feasibility.reasons_against(large) == ["num_params above 50000"]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("", "n_layers < 8"),
        (", why: slow", "n_layers < 8 (slow)"),
        (", source: row n_layers", "n_layers < 8 (Reference, row n_layers)"),
        (", source: row n_layers, why: slow", "n_layers < 8 (Reference, row n_layers: slow)"),
    ],
)
def test_a_broken_rule_is_reported_with_the_guides_section_and_reason(entry: str, reason: str):
    space = parse_space(SPACE.replace("guide:", f"  - {{require: n_layers < 8{entry}}}\nguide:"))
    broken = {**space.complete({}), "n_layers": 8}
    assert Feasibility.of(space, space.budget()).reasons_against(broken) == [reason]
    assert parse_space(SPACE.replace("guide: Reference", "")).rules[0].source == "row n_heads"


def test_a_step_that_the_budget_holds_too_few_of_is_not_launched():
    space = parse_space(SPACE.replace("eta: 3}", "eta: 3, min_steps: 20}", 1))
    feasibility = Feasibility.of(space, space.budget())
    default = space.complete({})
    assert feasibility.reasons_against(default) == []  # 20,000 tokens are 39 steps of 32 x 16
    assert feasibility.reasons_against({**default, "seq_len": 28}) == []
    assert feasibility.reasons_against({**default, "seq_len": 32}) == ["fewer than 20 optimizer steps in 20,000 tokens"]


MEMORY = SPACE.replace("num_params: {max: 50K}", "peak_vram_bytes: {max: 60 MiB}").replace("30K", "1M")


def test_a_measured_peak_above_its_estimate_rejects_what_would_have_passed():
    space = parse_space(MEMORY)
    feasibility = Feasibility.of(space, space.budget())
    small, large = space.complete({}), space.complete({"d_model": 64, "seq_len": 48})
    estimated = estimate(space.train_config(small, rungs=feasibility.rungs)).peak_vram_bytes
    assert feasibility.reasons_against(large) == []
    feasibility.learn(small, {"peak_vram_bytes": 3 * estimated, "estimated": True})
    feasibility.learn(small, {"loss": 1.0})
    assert feasibility.correction == 1.0 and feasibility.reasons_against(large) == []
    feasibility.learn(small, {"peak_vram_bytes": 3 * estimated, "estimated": False})
    assert feasibility.correction == pytest.approx(3 / (1 + MARGIN))
    assert feasibility.reasons_against(large) == ["peak_vram_bytes above 62914560"]


def test_memory_is_that_of_the_run_which_the_search_makes():
    space = parse_space(MEMORY)
    half = Feasibility.of(space, space.budget(), {"precision": "bf16"})
    half.learn(space.complete({}), {"peak_vram_bytes": 10**9, "estimated": False})
    config = space.train_config(space.complete({}), rungs=half.rungs, precision="bf16")
    assert half.peaks == [(estimate(config).peak_vram_bytes, 10**9)]


def test_little_that_may_be_launched_is_a_warning_that_names_what_rejects_the_most():
    space = parse_space(SPACE)
    assert assess(space, space.budget(), num_samples=300).warning == ""
    tight = parse_space(SPACE.replace("50K", "11500"))
    found = assess(tight, tight.budget(), num_samples=300)
    assert 0 < found.share < 0.05
    assert "narrow the ranges or loosen the limits: most are rejected for num_params above 11500 (" in found.warning


def test_assess_counts_what_may_be_launched_and_why_not():
    space = parse_space(SPACE)
    found = assess(space, space.budget(), num_samples=500)
    assert 0.2 < found.share < 0.9
    assert found.reasons[DIVIDED] > 50
    small = assess(space, space.budget("small"), num_samples=500)
    assert small.share < found.share
    assert "num_params above 30000" in small.reasons


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("n_layers > 8 or d_model == 32 and seq_len == 16 and n_heads == 2 and n_layers == 4 and learning_rate == 1e-3",
         "s:14: rules.1.require: no configuration satisfies n_layers > 8 or d_model == 32 and "
         "seq_len == 16 and n_heads == 2 and n_layers == 4 and learning_rate == 1e-3; 200 were drawn"),
    ],
)  # fmt: skip
def test_a_rule_that_nothing_drawn_satisfies_is_a_fault_of_the_rule(rule: str, message: str):
    space = parse_space(SPACE.lstrip().replace("guide:", f"  - {{require: {rule}}}\nguide:"), "s")
    with pytest.raises(SpaceError) as error:
        assess(space, space.budget(), num_samples=200)
    assert str(error.value) == message


def test_limits_that_nothing_keeps_are_a_fault_that_names_the_most_frequent_reasons():
    space = parse_space(SPACE.replace("50K", "1K"), "s")
    with pytest.raises(SpaceError) as error:
        assess(space, space.budget(), num_samples=100)
    assert str(error.value).startswith("s:2: none of 100 configurations drawn can be launched: num_params above 1000 (")


def test_defaults_beyond_a_limit_load_and_are_rejected_before_launch():
    space = parse_space(SPACE.replace("50K", "15K"))
    feasibility = Feasibility.of(space, space.budget())
    assert feasibility.reasons_against(space.complete({})) == ["num_params above 15000"]
    assert assess(space, space.budget(), num_samples=300).share > 0


def test_a_formula_without_a_value_is_a_reason_not_a_crash():
    text = SPACE.replace("rules:", "  max_seq: {derive: 512 / (n_layers - 3)}\nrules:")
    space = parse_space(text)
    found = assess(space, space.budget(), num_samples=300)
    assert found.reasons["512 / (n_layers - 3): division by zero"] > 10
    assert found.reasons["max_seq is a whole number, but 512 / (n_layers - 3) is not always"] > 10
    assert found.share > 0


def test_every_drawn_value_is_one_that_optuna_knows():
    space = parse_space(SPACE)
    known = distributions(space)
    assert known["d_model"] == CategoricalDistribution((16, 32, 48, 64))
    assert known["seq_len"] == IntDistribution(8, 60, step=4)
    assert known["learning_rate"] == FloatDistribution(1e-4, 1e-2, log=True)
    rng = np.random.default_rng(1)
    for _ in range(500):
        for name, value in random_values(space, rng).items():
            if name in known:
                assert known[name]._contains(known[name].to_internal_repr(value)), (name, value)


def test_extremes_hold_the_middle_of_a_bound_that_does_not_only_rise():
    space = parse_space(SPACE)
    assert extremes(space, space.parameters["attn_layer_idx"])[1] >= max(
        min(n - 1, n * (9 - n) // 4) for n in range(2, 9)
    )


@pytest.mark.parametrize("num", [5, 22])
def test_extremes_take_no_longer_with_many_parameters_in_one_bound(num: int):
    names = ["d_state", "batch_size", "seq_len", "vocab_size", "d_model", "accumulate_grad_batches"][: num // 2 + 2]
    lines = "".join(f"  {name}: {{min: 8, max: 64, default: 32}}\n" for name in names)
    bound = " + ".join(names * (num // 5))
    space = parse_space(f"family: hybrid\nparameters:\n{lines}  max_seq: {{min: 1, max: {bound}, default: 32}}\n")
    assert extremes(space, space.parameters["max_seq"]) == (1, 64 * len(names) * (num // 5))


@pytest.mark.parametrize(
    ("low", "high", "eta", "expected"),
    [(1, 27, 3, (1, 3, 9, 27)), (10, 100, 3, (10, 30, 90, 100)), (5, 5, 3, (5,)), (4, 20, 2, (4, 8, 16, 20))],
)
def test_rungs_start_at_min_tokens_and_end_at_max_tokens(low: int, high: int, eta: int, expected: tuple[int, ...]):
    space = parse_space(f"family: hybrid\nbudget: {{min_tokens: {low}, max_tokens: {high}, eta: {eta}}}\n"
                        "parameters: {d_model: {value: 32}}")  # fmt: skip
    assert rungs_of(space.budget()) == expected


def test_of_two_limits_the_tighter_holds():
    space = parse_space(SPACE)
    assert space.limits(space.budget("small"))["num_params"].max == 30_000
    assert space.limits(space.budget())["num_params"].max == 50_000
    with pytest.raises(ValueError, match="unknown budget 'smal'. Known: small. Did you mean 'small'?"):
        space.budget("smal")


@pytest.mark.parametrize(
    ("value", "limit", "words", "excess"),
    [
        (5, LimitSpec(max=10), None, -0.5),
        (15, LimitSpec(max=10), "m above 10", 0.5),
        (5, LimitSpec(min=10), "m below 10", 0.5),
        (10, LimitSpec(min=10, max=10), None, 0.0),
        (12, LimitSpec(min=1, max=10), "m above 10", 0.2),
        (5, LimitSpec(), None, -1.0),
    ],
)
def test_a_limit_is_broken_exactly_where_its_overrun_is_above_zero(
    value: float, limit: LimitSpec, words: str | None, excess: float
):
    assert beyond("m", value, limit) == words
    assert overrun(value, limit) == pytest.approx(excess)
    assert (words is not None) == (excess > 0)
