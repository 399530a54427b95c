"""Recording a table: what is written is what the search benchmark reads, axis by axis."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from benchmarks import record
from benchmarks.record import columns_of
from benchmarks.scale import SCALES
from benchmarks.search.table import read_table
from benchmarks.trainings import Curve, Job


@pytest.fixture
def trained(monkeypatch) -> list[Job]:
    """The jobs that are trained; instead of training, every fifth diverges after the third rung."""
    jobs = []

    def of(job: Job) -> Curve:
        rungs = job.config.rungs
        losses = [3 + job.config.learning_rate * 100 + 1 / part for part in range(1, len(rungs) + 1)]
        diverged = rungs[2] + 1 if len(jobs) % 5 == 4 else None
        if diverged:
            losses[3:] = [math.inf] * (len(rungs) - 3)
        jobs.append(job)
        return Curve(job.name, job.values, rungs, tuple(losses), diverged, 0.5)

    monkeypatch.setattr(Curve, "of", of)
    return jobs


@pytest.mark.parametrize("family", SCALES)
def test_a_recorded_table_is_one_that_the_search_benchmark_reads(family, trained, tmp_path):
    arguments = [str(tmp_path), "--family", family, "--configurations"]
    record.main([*arguments, "5"])
    record.main([*arguments, "10"])
    assert len(trained) == 10  # the first five were kept
    table = read_table(tmp_path / f"{family}.npz")
    assert (table.num_configurations, table.num_rungs, table.name) == (10, 27, f"tinysearch:{family}")
    assert [axis.name for axis in table.axes] == list(SCALES[family].space.searched)
    assert np.isnan(table.values[4, 3:]).all() and np.isfinite(table.values[4, :3]).all()
    np.testing.assert_allclose(table.values[0], trained[0].config.learning_rate * 100 + 3 + 1 / np.arange(1, 28), 1e-6)
    grid = np.array(SCALES[family].grid) / SCALES[family].budget_tokens
    np.testing.assert_allclose(table.costs[0], grid)
    np.testing.assert_allclose(table.costs[4], np.minimum(grid, (SCALES[family].grid[2] + 1) / grid_end(family)))
    assert table.best == pytest.approx(np.nanmin(table.full_values))


def grid_end(family: str) -> int:
    return SCALES[family].grid[-1]


def test_points_are_configurations_on_their_axes(trained, tmp_path):
    record.main([str(tmp_path), "--family", "transformer", "--configurations", "30"])
    with np.load(tmp_path / "transformer.npz") as file:
        points, hps = file["U"], json.loads(str(file["meta"]))["hps"]
    column = {hp["name"]: points[:, i] for i, hp in enumerate(hps)}
    for i, job in enumerate(trained):
        rate = math.log(job.values["learning_rate"] / 1e-5) / math.log(1e-2 / 1e-5)
        assert column["learning_rate"][i] == pytest.approx(rate, abs=1e-6)
        assert column["d_ff"][i] == pytest.approx((job.values["d_ff"] - 128) / 256)
        assert column["arch"][i] == ["gpt2", "llama"].index(job.values["arch"])
        assert column["n_kv_heads"][i] == [1, 2].index(job.values.get("n_kv_heads", 2))  # 2 is its default
    assert {job.values["arch"] for job in trained} == {"gpt2", "llama"}
    kinds = {hp["name"]: hp["type"] for hp in hps}
    assert (kinds["arch"], kinds["n_layers"], kinds["learning_rate"]) == ("categorical", "ordinal", "float")


@pytest.mark.parametrize("family", SCALES)
def test_every_configuration_lies_in_the_unit_cube(family):
    scale = SCALES[family]
    columns = columns_of(scale.space)
    points = np.array([[column.place(values) for column in columns] for values in scale.draw(20, seed=1)])
    assert points.min() >= 0 and points.max() <= 1
    assert (points.max(axis=0) > points.min(axis=0)).all()  # no axis is dead


def test_the_command_refuses_trainings_of_another_scale(trained, tmp_path, monkeypatch, capsys):
    arguments = [str(tmp_path), "--family", "hybrid", "--configurations", "2"]
    record.main(arguments)
    monkeypatch.setitem(SCALES, "hybrid", dataclasses.replace(SCALES["hybrid"], budget_tokens=2700))
    with pytest.raises(SystemExit) as caught:
        record.main(arguments)
    assert caught.value.code == 2 and "give another file" in capsys.readouterr().err
