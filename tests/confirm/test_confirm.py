"""Confirming: known statistics, leaders that have finished, runs that are kept, and training that is the search's."""

from __future__ import annotations

import json
import math
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import search.confirm.training
from search.confirm.confirmation import BEHIND, BEST, TIE, Confirmation, Run, closing_lines, difference_text
from search.confirm.cost import Cost
from search.confirm.noise import Difference, deviation, incomplete_beta, seeds_to_separate, t_quantile
from search.confirm.training import leaders
from search.report.overview import Overview
from search.space.loading import load_space, parse_space
from search.space.spec import MetricSpec
from search.storage.folder import StudyFolder
from search.study.record import TrialRecord
from search.study.settings import StudySettings
from search.study.study import Study
from search.study.text import read_text
from search.worker.alone import train_alone
from search.worker.messages import DIVERGED, FAILED, FINISHED, OUT_OF_MEMORY, PAUSED, TrialReport, TrialRequest
from search.worker.trial import TrialRun
from tests.support.paths import SMOKE
from tests.support.tool import tinysearch


@pytest.mark.parametrize(
    ("degrees", "at_95", "at_99"),
    [(1, 12.706, 63.657), (2, 4.303, 9.925), (3, 3.182, 5.841), (4, 2.776, 4.604), (10, 2.228, 3.169),
     (30, 2.042, 2.750), (120, 1.980, 2.617), (1e7, 1.960, 2.576)],
)  # fmt: skip
def test_quantiles_are_those_of_the_printed_tables(degrees: float, at_95: float, at_99: float):
    assert t_quantile(0.975, degrees) == pytest.approx(at_95, abs=5e-4)
    assert t_quantile(0.995, degrees) == pytest.approx(at_99, abs=5e-4)
    assert t_quantile(0.5, degrees) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("x", [0.0, 1e-6, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("a", [0.3, 1.0, 7.5, 60.0])
def test_the_incomplete_beta_function_has_its_closed_forms(x: float, a: float):
    assert incomplete_beta(x, a, 1) == pytest.approx(x**a, rel=1e-12)
    assert incomplete_beta(x, 1, a) == pytest.approx(1 - (1 - x) ** a, rel=1e-9, abs=1e-12)
    assert incomplete_beta(0.5, a, a) == pytest.approx(0.5, rel=1e-12)


def test_welchs_interval_is_that_of_students_sleep_data():
    """R: `t.test(extra ~ group, data = sleep)`, the data of Student (1908)."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = Difference.between(first, second)
    assert (found.low, found.high) == pytest.approx((-3.3654832, 0.2054832), abs=1e-7)
    assert found.value == pytest.approx(0.75 - 2.33)
    assert found.is_tie is True
    assert deviation(first) == pytest.approx(1.789010, abs=1e-6)


def test_a_difference_is_a_tie_where_its_interval_holds_zero():
    assert Difference.between([1.0, 1.2, 1.1], [1.05, 1.25, 1.0]).is_tie is True
    assert Difference.between([2.0, 2.2, 2.1], [1.05, 1.25, 1.0]).is_tie is False
    assert Difference.between([2.0, 2.0], [2.0, 2.0]).is_tie is True  # no spread at all
    assert Difference.between([2.0, 2.0], [1.0, 1.0]) == Difference(1.0, 1.0, 1.0)
    assert Difference.between([1.0 + 1e-200], [1.0]).is_tie is None  # one value has no spread
    assert difference_text(Difference.between([2.0], [1.5])) == "+0.5000"
    assert difference_text(Difference(-0.5, -2000.0, 1.0)) == "-0.5000 [-2,000, +1.0000]"


def overview(*losses: float | None, metric: str = "loss", maximize: bool = False, reference: int = 0) -> Overview:
    """A study whose trials have these values after 36,000 tokens; None for one that was stopped with a better one."""
    records = []
    for number, loss in enumerate(losses):
        rung, value = (36_000, loss) if loss is not None else (12_000, 1e9 if maximize else -1e9)
        records.append(
            TrialRecord(
                number=number,
                values={"learning_rate": 0.001 * (number + 1)},
                outcome=FINISHED if loss is not None else "stopped",
                preset="default" if number == reference else "",
                measurements={rung: {metric: value}},
                environment={"device": "A", "torch": "2", "code_digest": "x"},
            )
        )
    return Overview(
        name="mine",
        metrics=(MetricSpec(name=metric, goal="maximize" if maximize else "minimize"),),
        records=records,
        continued=[],
        num_trials=len(records),
        rungs=(12_000, 36_000),
        settled=36_000,
        reference_name="default",
        searched=(),
    )


def numbers(records: list[TrialRecord]) -> list[int]:
    return [record.number for record in records]


def test_leaders_have_finished_and_the_guides_own_is_among_them():
    mine = overview(3.0, 1.0, None, 2.5, 2.0)
    assert numbers(leaders(mine, 2)) == [1, 4, 0]
    assert numbers(leaders(mine, 1)) == [1, 0]
    assert numbers(leaders(mine, 99)) == [1, 4, 3, 0]  # never trial 2
    assert numbers(leaders(overview(None, 1.0, 2.0), 1)) == [1]  # the guide's own was not finished
    assert leaders(overview(None, None), 5) == []


def test_leaders_follow_the_goal():
    assert numbers(leaders(overview(3.0, 1.0, None, 4.0, metric="tokens_per_second", maximize=True), 1)) == [3, 0]


def test_copies_of_a_configuration_stand_for_one():
    mine = overview(3.0, 2.0, 2.1, 1.0, 3.5)
    for copy, of in ((2, 1), (3, 0)):
        mine.records[copy].values = dict(mine.records[of].values)
    mine.records[2].values["learning_rate"] *= 1 + 1e-16
    assert numbers(leaders(mine, 3)) == [0, 1, 4]  # 3 is the guide's own once more
    assert numbers(leaders(mine, 1)) == [0]


def confirmation(values: dict[int, list[Any]], *, num_seeds: int = 3, **study: Any) -> Confirmation:
    """Trials with these values, one for each seed; a text in place of a number is how that run ended."""
    mine = overview(*[float(number) for number in values], **study)
    runs = [
        Run(trial=number, seed=seed, outcome=value, reason="why")
        if isinstance(value, str)
        else Run(trial=number, seed=seed, outcome=FINISHED, measurement={mine.metric: value})
        for number, all_values in values.items()
        for seed, value in enumerate(all_values, 1)
    ]
    return Confirmation(mine, mine.records, range(1, num_seeds + 1), runs)


def verdicts(found: Confirmation) -> list[tuple[int, str]]:
    return [(row.record.number, row.verdict) for row in found.rows]


def test_rows_are_ranked_by_mean_and_ties_are_called_so():
    found = confirmation({0: [3.0, 3.1, 3.2], 1: [2.0, 2.1, 2.2], 2: [1.95, 2.05, 2.15]})
    assert verdicts(found) == [(2, BEST), (1, TIE), (0, BEHIND)]
    assert [row.rank for row in found.rows] == [1, 2, 3]
    lines = closing_lines(found)
    assert "best: trial 2, loss 2.0500 ± 0.1000 after 36K tokens; inside the noise: trial 1" in lines
    assert any(line.startswith("your 'default': +1.0500 [") and line.endswith("outside the noise") for line in lines)


def test_a_tie_is_reported_with_the_seeds_that_would_separate_it_and_their_cost():
    found = confirmation({0: [3.0, 3.1, 3.2], 1: [2.0, 2.1, 2.2], 2: [1.95, 2.05, 2.15]})
    _, tie, behind = found.rows
    num = seeds_to_separate(0.05, 0.1, 0.1)
    assert num is not None and 60 < num < 70  # 2 (1.96 + 0.84)^2 (0.1 / 0.05)^2 = 63
    assert tie.separated_by == Cost(num, 2 * (num - 3), 2 * (num - 3) * 36_000, None)
    assert behind.separated_by is None
    (line,) = [line for line in closing_lines(found) if "separate" in line]
    assert f"trials 2 and 1: about {num} seeds" in line and f"{2 * (num - 3)} more runs" in line
    best, row, _ = found.to_dict()["trials"]
    assert row["separated_by"]["seeds"] == num and not row["equal"] and best["separated_by"] is None


def test_the_cost_is_counted_by_the_seconds_of_the_runs_and_else_of_the_search():
    found = confirmation({0: [2.0, 2.1], 1: [2.01, 2.13]}, num_seeds=2)
    found.overview.records[1].measurements[36_000]["train_seconds"] = 50.0
    runs = [replace(run, measurement={**run.measurement, "train_seconds": 20.0 + run.seed}) for run in found.runs[:2]]
    timed = Confirmation(found.overview, found.chosen, found.seeds, [*runs, *found.runs[2:]])
    cost = timed.rows[1].separated_by
    assert cost is not None and cost.seconds == pytest.approx((cost.seeds - 2) * (21.5 + 50))
    assert "min" in str(cost)


def test_with_one_seed_the_search_itself_says_how_many_would_separate_the_first_two():
    found = confirmation({0: [0.1], 1: [1.2], 2: [2.0]}, num_seeds=1)  # the search had 0, 1 and 2
    guess = math.sqrt((0.1**2 + 0.2**2) / 2 / 3)
    num = seeds_to_separate(1.1, guess, guess)
    assert num is not None and found.rows[1].separated_by == Cost(num, 2 * (num - 1), 2 * (num - 1) * 36_000, None)
    assert any(f"trials 0 and 1: about {num} seeds" in line and "search" in line for line in closing_lines(found))


def test_what_no_thousand_seeds_separate_is_called_equal():
    for values in ({0: [2.0, 2.1], 1: [2.0001, 2.1001]}, {0: [2.0, 2.0], 1: [2.0, 2.0]}):
        found = confirmation(values, num_seeds=2)
        assert any("more than 1,000 seeds" in line and "equal" in line for line in closing_lines(found))
        assert found.to_dict()["trials"][1]["equal"] and found.to_dict()["trials"][1]["separated_by"] is None


@pytest.mark.parametrize(("difference", "one", "other"), [(1.0, 1.0, 1.0), (-0.5, 0.3, 1.0), (2.0, 0.5, 0.0)])
def test_with_as_many_seeds_the_interval_excludes_zero_in_most_draws_and_not_with_a_third(
    difference: float, one: float, other: float
):
    num = seeds_to_separate(difference, one, other)
    assert num is not None
    rng = np.random.default_rng(0)

    def share(num: int) -> float:
        drawn = [(rng.normal(difference, one, num), rng.normal(0, other, num)) for _ in range(300)]
        return float(np.mean([Difference.between(a.tolist(), b.tolist()).is_tie is False for a, b in drawn]))

    assert 0.7 < share(num) < 0.95
    assert num < 6 or share(num // 3) < 0.5


def test_a_smaller_difference_takes_more_seeds():
    found = [seeds_to_separate(d, 1.0, 1.0) for d in (4.0, 2.0, 1.0, 0.5, 0.2)]
    assert found == sorted(found) and len(set(found)) == len(found)
    assert seeds_to_separate(0.1, 1.0, 1.0) is None and seeds_to_separate(0.0, 1.0, 1.0) is None
    assert seeds_to_separate(1.0, 0.0, 0.0) == 2 and seeds_to_separate(0.0, 0.0, 0.0) is None


def test_a_goal_to_maximize_puts_the_largest_mean_first():
    values = {0: [3.0, 3.1, 3.2], 1: [2.0, 2.1, 2.2], 2: [3.05, 3.15, 3.25]}
    found = confirmation(values, metric="tokens_per_second", maximize=True)
    assert verdicts(found) == [(2, BEST), (0, TIE), (1, BEHIND)]
    document = found.to_dict()
    assert (document["metric"], document["goal"]) == ("tokens_per_second", "maximize")
    assert document["trials"][2]["difference"] == pytest.approx(-1.05)


def test_a_configuration_that_diverged_with_a_seed_never_leads():
    found = confirmation({0: [3.0, 3.1, 3.2], 1: [1.0, DIVERGED, 1.0], 2: [OUT_OF_MEMORY] * 3})
    assert verdicts(found) == [(0, BEST), (1, ""), (2, "")]
    lines = closing_lines(found)
    assert "trial 1, seed 2 diverged: why" in lines and "trial 2, seed 3 out of memory: why" in lines
    assert found.to_dict()["trials"][1]["mean"] == 1.0
    alone = confirmation({0: [1.0, DIVERGED, 1.0]})
    assert verdicts(alone) == [(0, "")]
    assert "none of these configurations trained with every seed" in closing_lines(alone)


def test_one_seed_shows_no_ties():
    found = confirmation({0: [3.0], 1: [2.0]}, num_seeds=1)
    assert verdicts(found) == [(1, BEST), (0, "")]
    lines = closing_lines(found)
    assert "best: trial 1, loss 2.0000 after 36K tokens" in lines
    assert "your 'default': +1.0000" in lines
    assert "one seed shows no noise, so no ties can be seen; give --seeds 3: 4 more runs, 144K tokens" in lines
    assert found.to_dict()["cost_of_spread"] == {"seeds": 3, "runs": 4, "tokens": 144_000, "seconds": None}


def test_runs_on_another_device_are_no_comparison_and_said_to_be_none():
    found = confirmation({0: [3.0], 1: [2.0]}, num_seeds=1)
    moved = {"device": "B", "torch": "2", "code_digest": "x"}
    runs = [
        Run(trial=r.trial, seed=1, outcome=FINISHED, measurement=r.measurement, environment=moved) for r in found.runs
    ]
    lines = closing_lines(Confirmation(found.overview, found.chosen, found.seeds, runs))
    assert "not all of these figures can be compared: search and runs differ in device" in lines
    assert not any("cannot" in line or "not all" in line for line in closing_lines(found))


# Studies on disk.


def new_study(*, trials: int = 4, text: str = "") -> Study:
    """An empty study 'mine' over the smoke space (or another text of it), on the small text."""
    space = parse_space(text, "space.yaml") if text else load_space(SMOKE)
    data = [str(Path("text").absolute())]
    settings = StudySettings(
        space=space,
        budget=space.budget(),
        run={"token_dtype": "uint16", "eval_tokens": 4000, "precision": "fp32"},
        corpus=read_text(space, data, {}).to_settings(),
    )
    folder = StudyFolder(Path("runs").absolute(), "mine")
    folder.path.mkdir(parents=True)
    return Study.create(folder.open_storage(), "mine", settings, trials=trials)


@pytest.fixture
def study(small_text: Path) -> Study:
    """Four trials, ended without any training: trials 0 (the guide's own) and 3 finished."""
    made = new_study()
    for number in range(4):
        made.report(made.propose().number, {"tokens": 4000, "loss": 3.0 - number / 10})
    for number in (0, 3):
        if made.records[number].outcome == PAUSED:
            made._resume(number)
        for rung in (12_000, 36_000):
            measured = {"tokens": rung, "loss": 2.0 - number / 10, "environment": {"num_threads": 2}}
            made._measure(made.records[number], rung, measured)
            made._recorder.write_rung(made.records[number])
        made._end(made.records[number], FINISHED, "")
    return made


class FakeTraining:
    """In place of training: what was asked for, and how it ends. `ends` has (trial, seed) -> a report."""

    def __init__(self) -> None:
        self.trained: list[tuple[int, int]] = []
        self.ends: dict[tuple[int, int], Any] = {}

    def __call__(self, request: TrialRequest, on_report: Any) -> TrialReport:
        name = Path(request.checkpoint).stem.split("-")  # confirm-<trial>-seed-<seed>
        key = int(name[1]), request.train["seed"]
        assert key == (int(name[1]), int(name[3]))
        assert request.train["num_threads"] == 2  # as in the search
        end = self.ends.get(key)
        if isinstance(end, BaseException):
            raise end
        on_report(TrialReport(tokens=12_000))
        self.trained.append(key)
        loss = 2.0 - key[0] / 10 + key[1] / 1000
        measurement = {"tokens": 36_000, "loss": loss, "tokens_per_second": 9.0}
        return end or TrialReport(tokens=36_000, measurement=measurement)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    fake = FakeTraining()
    monkeypatch.setattr(search.confirm.training, "train_alone", fake)
    return fake


def confirmed(*arguments: str) -> dict[str, Any]:
    code, out, err = tinysearch("confirm", "mine", "--json", *arguments)
    assert code == 0, err
    return json.loads(out)


def test_every_leader_is_trained_once_with_each_seed_but_the_searchs(study: Study, training: FakeTraining):
    code, out, err = tinysearch("confirm")
    assert code == 0, err
    assert training.trained == [(3, 1), (0, 1), (3, 2), (0, 2), (3, 3), (0, 3)]  # never a trial that is unfinished
    assert "trial 3, seed 1: loss 1.7010  [1/6, 0 s]" in out
    assert "best: trial 3, loss 1.7020 ± 0.0010 after 36K tokens; no other is inside the noise" in out
    row = next(line for line in out.splitlines() if line.split()[:2] == ["2", "0"])
    assert row.split()[2:7] == ["default", "2.0000", "2.0020", "0.0010", "3"]
    again = tinysearch("confirm", "mine")
    assert again[0] == 0 and len(training.trained) == 6
    assert out.endswith(again[1])  # the same report, without the training before it


def test_more_seeds_and_more_trials_train_only_what_is_new(study: Study, training: FakeTraining):
    assert confirmed("--seeds", "1", "--top", "1")["seeds"] == [1]
    assert training.trained == [(3, 1), (0, 1)]  # the guide's own beside the top one
    assert confirmed("--seeds", "2")["seeds"] == [1, 2]
    assert training.trained[2:] == [(3, 2), (0, 2)]
    assert [len(row["runs"]) for row in confirmed("--seeds", "1")["trials"]] == [1, 1]
    assert len(training.trained) == 4


def test_an_interrupted_confirmation_resumes_where_it_was(study: Study, training: FakeTraining):
    training.ends[3, 2] = KeyboardInterrupt()
    code, out, err = tinysearch("confirm")
    assert code == 130 and err == ""
    assert out.count("interrupted; run the same command to resume") == 1
    assert "1 of 3" in out
    training.ends.clear()
    before = list(training.trained)
    assert before == [(3, 1), (0, 1)]
    found = confirmed()
    assert found["complete"] and training.trained[2:] == [(3, 2), (0, 2), (3, 3), (0, 3)]
    training.ends[3, 4] = KeyboardInterrupt()
    code, out, err = tinysearch("confirm", "--seeds", "4", "--json")
    assert code == 130 and not json.loads(out)["complete"]
    assert err.splitlines()[-1] == "interrupted; run the same command to resume"


def test_the_study_can_be_searched_on_after_it_was_confirmed(study: Study, training: FakeTraining):
    before = [(r.number, r.outcome, r.measurements) for r in study.records.values()]
    confirmed()
    with StudyFolder(Path("runs").absolute(), "mine").lock():
        opened = Study(StudyFolder(Path("runs").absolute(), "mine").load(), study.settings)
    found = [
        (r.number, "running" if r.outcome == "waiting" else r.outcome, r.measurements) for r in opened.records.values()
    ]
    assert found == before


def test_runs_that_end_otherwise_are_shown_and_only_divergence_lasts(study: Study, training: FakeTraining):
    training.ends = {
        (3, 1): TrialReport(tokens=9, outcome=DIVERGED, reason="the training loss is nan"),
        (3, 2): TrialReport(tokens=0, outcome=OUT_OF_MEMORY, reason="CUDA out of memory"),
        (0, 1): TrialReport(tokens=0, outcome=FAILED, reason="KeyError: 'a bug'", traceback="..."),
    }
    code, out, _ = tinysearch("confirm")
    assert code == 1  # a bug
    assert "trial 3, seed 1: diverged" in out and "1 of 3, 1 diverged, 1 out of memory" in out
    assert "trial 3, seed 2 out of memory: CUDA out of memory" in out
    assert "trial 0, seed 1 failed: KeyError: 'a bug'" in out
    training.ends, training.trained = {}, []
    found = confirmed()
    assert training.trained == [(0, 1), (3, 2)]
    assert [(row["trial"], row["verdict"]) for row in found["trials"]] == [(0, BEST), (3, None)]


def refused(*arguments: str) -> str:
    code, _, message = tinysearch("confirm", *arguments)
    assert code == 2, (code, message)
    assert "Traceback" not in message
    return message.strip()


def test_what_cannot_be_confirmed_is_refused(study: Study, training: FakeTraining):
    assert "no study 'yours' in" in refused("yours")
    assert not Path("runs/yours").exists()
    assert "'--top'" in refused("--top", "0")
    assert "'--seeds'" in refused("--seeds", "0")
    with StudyFolder(Path("runs").absolute(), "mine").lock():
        assert f"is being run by process {os.getpid()}" in refused()
    Path("text/0.txt").write_text("Another text altogether. " * 100)
    assert refused().startswith("the text has changed since the search: ")
    assert training.trained == []


def test_what_keeps_a_run_from_training_is_no_result_of_it(study: Study, monkeypatch: pytest.MonkeyPatch):
    full = "x.pt: the checkpoint cannot be written: No space left on device"
    monkeypatch.setattr(
        search.confirm.training, "train_alone", lambda *_: TrialReport(tokens=0, environment_error=full)
    )
    assert refused().endswith(f"{full}; then the same command resumes")
    assert not any(key.startswith("confirmed") for key in study._study.user_attrs)


def test_a_study_where_nothing_finished_is_refused(small_text: Path):
    new_study()
    assert refused() == "no trial has finished its budget yet; see `tinysearch status`"


# Real training.

TINY = """
family: hybrid
metric: {name: bits_per_byte}
budget: {trials: 1, min_tokens: 2K, max_tokens: 6K, eta: 3, eval_tokens: 1K}
parameters:
  d_model: {value: 16}
  n_layers: {value: 2}
  attn_layer_idx: {value: 1}
  n_heads: {value: 2}
  seq_len: {value: 16}
  batch_size: {value: 4}
  learning_rate: {min: 1e-4, max: 1e-2, log: true, default: 1e-3}
presets:
  default: {learning_rate: 1e-3}
"""


def request_of(study: Study, checkpoint: str, **changes: Any) -> TrialRequest:
    train = study.settings.train_config(study.records[0].values, num_threads=1).to_dict()
    return TrialRequest(train={**train, **changes}, location=".", checkpoint=checkpoint)


@pytest.fixture
def searched(small_text: Path) -> Study:
    """A study whose only trial, the guide's own, was really trained, as a worker does it."""
    study = new_study(trials=1, text=TINY)
    study.propose()
    trial = TrialRun(request_of(study, "trial-0.pt"))
    while study.report(0, trial.step().measurement):
        pass
    trial.close()
    return study


@pytest.mark.slow  # a process that imports torch takes seconds
def test_a_real_confirmation_trains_as_the_search_does(searched: Study):
    record = searched.records[0]
    assert record.outcome == FINISHED
    with_same_seed = train_alone(request_of(searched, "same.pt"), lambda report: None).measurement
    assert with_same_seed["loss"] == record.measured("loss")  # to the bit
    found = confirmed("--seeds", "2")
    assert found["metric"] == "bits_per_byte"
    (mine,) = found["trials"]
    assert (mine["preset"], mine["searched"]) == ("default", record.measured("bits_per_byte"))
    values = [run["measurements"]["bits_per_byte"] for run in mine["runs"]]
    assert len({*values, mine["searched"]}) == 3  # each seed trains another model
    assert mine["mean"] == pytest.approx(sum(values) / 2)
    assert mine["deviation"] == pytest.approx(abs(values[0] - values[1]) / math.sqrt(2))
    trial = TrialRun(request_of(searched, "two.pt", seed=2))
    assert [trial.step().measurement["tokens"], trial.step().measurement["bits_per_byte"]] == [2000, values[1]]
    assert not list(Path("runs/mine").glob("checkpoints/*"))


@pytest.mark.slow  # a process that imports torch takes seconds
def test_a_run_that_was_interrupted_ends_as_if_it_had_not_been(searched: Study):
    seen = []

    def interrupt(report: TrialReport) -> None:
        seen.append(report.tokens)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_alone(request_of(searched, "cut.pt"), interrupt)
    assert seen == [2000]
    assert not [child for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]
    seen.clear()
    resumed = train_alone(request_of(searched, "cut.pt"), lambda report: seen.append(report.tokens))
    assert seen == [2000, 6000]
    assert resumed.measurement["loss"] == searched.records[0].measured("loss")


@pytest.mark.slow  # a process that imports torch takes seconds
def test_a_run_whose_process_is_killed_has_failed(searched: Study):
    def kill(report: TrialReport) -> None:
        for child in psutil.Process().children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.send_signal(signal.SIGKILL)

    request = request_of(searched, "killed.pt", rungs=[2000, 10_000_000])
    report = train_alone(request, kill)
    assert (report.outcome, report.reason.split(";")[0]) == (FAILED, "its process was killed by signal 9")
