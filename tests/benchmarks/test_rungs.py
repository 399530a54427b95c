"""The rung experiment: its statistics by hand, the scale that it uses, and that it resumes where it stopped."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from benchmarks import rungs as command
from benchmarks.rungs import CONTENDERS, COSINE, compare, overlap, spearman
from benchmarks.scale import SCALES, Scale
from benchmarks.trainings import Curve, Job, curves_of
from trainer.config import TrainConfig
from trainer.estimate import estimate


def test_rank_correlation_by_hand():
    a = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert spearman(a, a**3) == pytest.approx(1) and spearman(a, -a) == pytest.approx(-1)
    assert spearman(a, np.array([2.0, 1.0, 4.0, 3.0, 5.0])) == pytest.approx(1 - 6 * 4 / (5 * 24))
    tied = np.array([1.0, math.inf, math.inf, 2.0, 3.0])  # ranks 1, 4.5, 4.5, 2, 3
    expected = np.corrcoef([1, 2, 3, 4, 5], [1, 4.5, 4.5, 2, 3])[0, 1]
    assert spearman(a, tied) == pytest.approx(expected)
    assert math.isnan(spearman(a, np.ones(5)))


def test_overlap_of_the_best_thirds_by_hand():
    a = np.arange(6.0)
    assert overlap(a, a) == 1 and overlap(a, -a) == 0
    assert overlap(a, np.array([0, 5, 1, 4, 3, 2.0])) == 0.5


def made_up(noise: dict[str, float], worse: dict[str, float], num: int = 40) -> dict:
    """Losses of two families at four rungs: before the last one, the final loss and some noise."""
    rng = np.random.default_rng(0)
    families = {}
    for family in ("one", "two"):
        final = rng.normal(3, 0.3, num)
        families[family] = {}
        for name in CONTENDERS:
            own = final + worse.get(name, 0.0)
            early = own[:, None] + 1 + rng.normal(0, 1, (num, 3)) * noise.get(name, 0.5)
            families[family][name] = np.hstack([early, own[:, None]])
    return families


@pytest.fixture
def few_resamples(monkeypatch) -> None:
    monkeypatch.setattr(command, "NUM_RESAMPLES", 40)


def test_a_contender_is_supported_where_it_predicts_better_and_ends_no_worse(few_resamples):
    assert compare(made_up({}, {}), seed=0)["supported"] == []
    assert compare(made_up({"wsd": 0.01}, {}), seed=0)["supported"] == ["wsd"]
    assert compare(made_up({"wsd": 0.01}, {"wsd": 0.5}), seed=0)["supported"] == []


def test_each_statistic_is_of_its_own_family_contender_and_rung(few_resamples):
    losses = made_up({}, {})
    losses["two"]["wsd"][:, 1] = losses["two"]["wsd"][:, -1]
    losses["two"][COSINE][:, -1] = -losses["two"]["wsd"][:, -1]
    at = compare(losses, seed=0)["families"]["two"]["contenders"]["wsd"]
    assert at[1]["correlation_own"][0] == pytest.approx(1) and at[1]["correlation_cosine"][0] == pytest.approx(-1)
    assert at[1]["overlap_own"][0] == 1 and at[1]["overlap_cosine"][0] == 0
    low, high = at[0]["correlation_own"][1:]
    assert low < at[0]["correlation_own"][0] < high < 0.99


@pytest.mark.parametrize("family", SCALES)
def test_configurations_keep_to_the_scale_and_a_longer_list_begins_with_the_same(family):
    scale = SCALES[family]
    drawn = scale.draw(8, seed=3)
    assert scale.draw(3, seed=3) == drawn[:3] and scale.draw(3, seed=4) != drawn[:3]
    for values in drawn:
        config = scale.train_config(values, scale.grid)
        assert scale.step_tokens[0] <= config.tokens_per_step <= scale.step_tokens[1]
        assert estimate(config).flops_per_token <= scale.max_flops_per_token
        assert scale.space.broken_rules(values) == []
        assert all(low <= values.get(name, low) <= high for name, (low, high) in scale.cuts.items())
    assert len(scale.grid) == 27 and scale.grid[-1] == scale.budget_tokens


def test_a_scale_that_nothing_meets_is_refused(monkeypatch):
    monkeypatch.setattr("benchmarks.scale.MAX_DRAWS", 50)
    with pytest.raises(ValueError, match="hybrid: only 0 configurations of this scale were found, not 2"):
        dataclasses.replace(SCALES["hybrid"], max_flops_per_token=1.0).draw(2, seed=0)


@pytest.fixture
def trained(monkeypatch) -> list[str]:
    """The names of the jobs that are trained, in order: instead of training, the loss falls towards learning_rate."""
    names = []

    def of(job: Job) -> Curve:
        names.append(job.name)
        rungs = job.config.rungs
        return Curve(job.name, job.values, rungs, tuple(job.config.learning_rate + 1 / t for t in rungs), None, 0.5)

    monkeypatch.setattr(Curve, "of", of)
    return names


def job(number: int, learning_rate: float = 1e-3) -> Job:
    config = TrainConfig.from_flat("hybrid", {"rungs": [10, 30], "learning_rate": learning_rate})
    return Job(f"job {number}", {"learning_rate": learning_rate}, config)


def test_trainings_resume_after_the_last_whole_line(trained, tmp_path):
    path = tmp_path / "curves.jsonl"
    first = curves_of([job(0), job(1)], path)
    with open(path, "a") as file:
        file.write('{"name": "job 2", "los')
    again = curves_of([job(0), job(1), job(2)], path)
    assert trained == ["job 0", "job 1", "job 2"] and {n: again[n] for n in first} == first
    assert curves_of([job(2)], path) == {"job 2": again["job 2"]} and len(trained) == 3
    with pytest.raises(ValueError, match="job 0 is of another configuration or budget; give another file"):
        curves_of([job(0, learning_rate=2e-3)], path)


def test_no_training_begins_after_the_time_is_up(trained, tmp_path):
    assert curves_of([job(0), job(1)], tmp_path / "curves.jsonl", max_seconds=-1) == {} and trained == []


def test_a_diverged_training_has_an_infinite_loss_from_there(tmp_path):
    (tmp_path / "text.txt").write_text("a small text to learn from\n" * 40)
    model = {"d_model": 8, "n_heads": 2, "n_layers": 2, "attn_layer_idx": 1, "d_state": 4, "seq_len": 8}
    run = {"batch_size": 4, "schedule": "constant", "warmup_ratio": 0.0, "rungs": [32, 40_000], "device": "cpu"}
    paths = {"data": [str(tmp_path / "text.txt")], "cache_dir": str(tmp_path / "cache")}
    config = TrainConfig.from_flat("hybrid", {**model, **run, **paths, "learning_rate": 50.0})
    curve = Curve.of(Job("job", {}, config))
    assert math.isfinite(curve.losses[0]) and curve.losses[1] == math.inf
    assert 32 < curve.diverged_tokens < 40_000 and curve.cpu_seconds > 0


def test_the_command_prints_one_object_or_tables_and_trains_only_once(trained, few_resamples, tmp_path, capsys):
    arguments = ["--out", str(tmp_path / "out.jsonl"), "--configurations", "3", "--families", "hybrid,bdh"]
    command.main([*arguments, "--json"])
    measured = json.loads(capsys.readouterr().out)
    assert len(trained) == 2 * 3 * len(CONTENDERS)
    assert measured["families"]["bdh"]["configurations"] == 3
    assert measured["overall"]["wsd"]["correlation"][0] == pytest.approx(1)
    assert measured["rungs"]["bdh"] == [SCALES["bdh"].grid[part - 1] for part in (1, 3, 9, 27)]
    command.main(arguments)
    shown = capsys.readouterr().out
    assert "supported as default instead of cosine: none" in shown and "wsd averaged" in shown
    assert len(trained) == 2 * 3 * len(CONTENDERS)


def test_contenders_differ_in_schedule_and_averaging_alone():
    of_first = [job.config for job in command.jobs(["transformer"], 1, seed=5)]
    assert len(of_first) == len(CONTENDERS) and {config.seed for config in of_first} == {5}
    without = {dataclasses.replace(config, schedule="cosine", ema_share=0.0) for config in of_first}
    assert len(without) == 1 and len(set(of_first)) == len(CONTENDERS)


def test_every_family_has_its_scale():
    assert SCALES.keys() == {"hybrid", "ghost", "transformer", "bdh"}
    assert all(isinstance(scale, Scale) and scale.family == family for family, scale in SCALES.items())
