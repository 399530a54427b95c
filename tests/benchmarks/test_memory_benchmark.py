"""The memory estimates against real steps of configurations nobody chose; `python -m benchmarks.memory` takes more."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from benchmarks import memory
from benchmarks.live_bytes import peak_live_bytes
from benchmarks.memory import (
    GUIDES,
    KINDS,
    Row,
    drawn_configurations,
    estimate_us,
    measured,
    measured_under,
    summary,
)
from search.strategy.correction import MARGIN


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of what is drawn takes tenths of a second, not seconds."""
    monkeypatch.setattr(memory, "CPU_BYTES", (4 * 2**20, 24 * 2**20))
    monkeypatch.setattr(memory, "MAX_CPU_FLOPS", 3e9)


@pytest.mark.usefixtures("small")
@pytest.mark.benchmark  # a training of two steps for each kind
def test_estimates_are_near_what_a_step_of_any_family_takes():
    errors = summary([measured(kind, config) for kind, config in drawn_configurations(len(KINDS), 7, device="cpu")])
    assert errors.keys() == {*KINDS, "all"}
    assert errors["all"]["median"] < 0.05 and errors["all"]["p95"] < 0.25


def test_the_same_seed_draws_the_same_configurations_and_every_kind_of_run():
    drawn = list(drawn_configurations(20, 3, device="cpu"))
    assert drawn == list(drawn_configurations(20, 3, device="cpu"))
    assert drawn != list(drawn_configurations(20, 4, device="cpu"))
    configs = [config for _, config in drawn]
    for name in ("precision", "fused_loss", "accumulate_grad_batches"):
        assert len({getattr(config, name) for config in configs}) > 1, name


def test_the_time_of_an_estimate_is_the_mean_of_all_rounds(monkeypatch: pytest.MonkeyPatch):
    configs = [config for _, config in drawn_configurations(5, 7, device="cuda")]
    rows = [Row("a", 1, 1, config.to_dict()) for config in configs]
    made, clock = [], iter([10.0, 10.5])
    monkeypatch.setattr(memory, "estimate", made.append)
    monkeypatch.setattr(memory, "time", SimpleNamespace(perf_counter=clock.__next__))
    assert estimate_us(rows, rounds=2) == pytest.approx(50_000)
    assert made == configs * 2


def test_errors_are_relative_to_what_was_measured():
    rows = [Row("a", 110, 100, {}), Row("b", 90, 100, {}), Row("b", 100, 100, {}, 200)]
    found = summary(rows)
    assert found["a"]["median"] == pytest.approx(0.1) and found["a"]["highest"] == pytest.approx(1.1)
    assert found["all"]["median"] == pytest.approx(0.1) and found["all"]["lowest"] == pytest.approx(0.9)
    assert "over_limit" not in found["a"]


def test_what_takes_more_than_its_limit_is_counted_and_what_takes_more_than_the_margin_too():
    limit = 1000
    beyond = round(limit * (1 + MARGIN)) + 1
    found = summary([Row("a", 900, took, {}, limit) for took in (500, limit, limit + 1, beyond)])["a"]
    assert (found["over_limit"], found["over_margin"]) == (2, 1)
    assert (found["lowest_of_limit"], found["highest_of_limit"]) == (0.5, beyond / limit)


@pytest.mark.benchmark  # a search and two steps for each guide
def test_what_a_search_launches_near_its_limit_takes_no_more_than_that_and_the_margin():
    limit = 128 * 2**20
    rows = list(measured_under(limit, len(GUIDES), 0, device="cpu", trials=12))
    assert tuple(row.kind for row in rows) == GUIDES
    assert all(row.estimated <= limit for row in rows)
    found = summary(rows)["all"]
    assert found["over_margin"] == 0 and found["max"] < 0.05
    assert found["lowest_of_limit"] > 0.5 and found["highest_of_limit"] > 0.9  # else nothing was near it


@pytest.mark.usefixtures("small")
@pytest.mark.benchmark  # two steps for each kind, twice
def test_a_step_on_fake_tensors_holds_what_a_real_one_does():
    for kind, config in drawn_configurations(len(KINDS), 5, device="cpu"):
        if kind != "ghost":
            assert peak_live_bytes(config) == peak_live_bytes(config, is_fake=False), kind


def test_the_command_prints_a_table_or_json(capsys, monkeypatch):
    monkeypatch.setattr(memory, "measured", lambda kind, config: Row(kind, 90, 100, config.to_dict()))
    memory.main(["--configurations", "5", "--device", "cpu"])
    table = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in table[1:7]] == [*KINDS, "all"] and "10.0%" in table[6]
    memory.main(["--configurations", "5", "--device", "cpu", "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["errors"]["all"]["configurations"] == len(document["rows"]) == 5


def test_a_limit_that_is_no_number_of_bytes_is_refused(capsys):
    with pytest.raises(SystemExit) as caught:
        memory.main(["--limit", "two GiB"])
    assert caught.value.code == 2
    assert "two GiB is no number of bytes; give one such as '2 GiB'" in capsys.readouterr().err
