"""The memory estimates against real steps of configurations nobody chose; `python -m benchmarks.memory` takes more."""

from __future__ import annotations

import json

import pytest

from benchmarks import memory
from benchmarks.memory import KINDS, Row, drawn_configurations, estimate_us, largest_under, measured, summary


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [measured(kind, config) for kind, config in drawn_configurations(len(KINDS), 7, device="cpu")]


@pytest.mark.slow  # a training of two steps for each kind
def test_estimates_are_near_what_a_step_of_any_family_takes(rows):
    errors = summary(rows)
    assert errors.keys() == {*KINDS, "all"}
    assert errors["all"]["median"] < 0.05 and errors["all"]["p95"] < 0.25


def test_the_same_seed_draws_the_same_configurations_and_every_kind_of_run():
    drawn = list(drawn_configurations(20, 3, device="cpu"))
    assert drawn == list(drawn_configurations(20, 3, device="cpu"))
    assert drawn != list(drawn_configurations(20, 4, device="cpu"))
    configs = [config for _, config in drawn]
    for name in ("precision", "fused_loss", "accumulate_grad_batches"):
        assert len({getattr(config, name) for config in configs}) > 1, name


def test_an_estimate_takes_less_than_a_millisecond(rows):
    assert estimate_us(rows) < 1000


def test_errors_are_relative_to_what_was_measured():
    rows = [Row("a", 110, 100, {}), Row("b", 90, 100, {}), Row("b", 100, 100, {}, 200)]
    found = summary(rows)
    assert found["a"]["median"] == pytest.approx(0.1) and found["a"]["highest"] == pytest.approx(1.1)
    assert found["all"]["median"] == pytest.approx(0.1) and found["all"]["lowest"] == pytest.approx(0.9)
    assert found["b"]["of_limit"] == 0.5 and "of_limit" not in found["a"]


def test_what_a_search_may_launch_stays_under_its_limit():
    limit = 512 * 2**20
    row = next(largest_under(limit, 4, 0))
    assert row.estimated <= limit and 0.5 * limit < row.measured < 1.05 * limit


def test_the_command_prints_a_table_or_json(capsys, monkeypatch):
    monkeypatch.setattr(memory, "measured", lambda kind, config: Row(kind, 90, 100, config.to_dict()))
    memory.main(["--configurations", "5", "--device", "cpu"])
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:7]] == [*KINDS, "all"] and "10.0%" in table[6]
    memory.main(["--configurations", "5", "--device", "cpu", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["errors"]["all"]["configurations"] == len(document["rows"]) == 5
