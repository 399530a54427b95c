"""Extending a study: to more tokens, to more trials, or until a time."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import optuna
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from search.driver.amounts import number_of_tokens
from search.driver.deadline import seconds_until
from search.driver.launch import _settings_to_resume_with
from search.driver.options import RunOptions
from search.report.overview import Overview
from search.space.loading import parse_space
from search.storage.folder import StudyError
from search.study.settings import StudySettings
from search.study.study import Proposal, Study
from search.worker.messages import FINISHED

SPACE = """
family: hybrid
budget: {trials: 10, min_tokens: 1000, max_tokens: 9000, eta: 3}
parameters:
  d_model: {values: [16, 32, 64], default: 32}
  n_layers: {min: 2, max: 6, default: 3}
  n_heads: {value: 2}
  learning_rate: {min: 1e-4, max: 1e-1, log: true, default: 1e-3}
presets:
  guide: {d_model: 32}
"""
EXTENDED = (1000, 3000, 9000, 27000, 40000)


def settings() -> StudySettings:
    space = parse_space(SPACE)
    return StudySettings(space=space, budget=space.budget(), corpus={"digest": "d", "about": "text", "paths": []})


def train(study: Study, proposal: Proposal) -> list[int]:
    """Train as a worker would, from where the trial stands; returns the rungs trained."""
    trained = []
    for rung in study.rungs:
        if rung <= study.records[proposal.number].rung:
            continue
        trained.append(rung)
        loss = 2 + abs(proposal.values["n_layers"] - 4) + proposal.values["learning_rate"] + 1000 / rung
        if not study.report(proposal.number, {"tokens": rung, "loss": loss, "tokens_per_second": 100.0}):
            break
    return trained


def run_all(study: Study) -> list[tuple[int, list[int]]]:
    done = []
    while (proposal := study.propose()) is not None:
        done.append((proposal.number, train(study, proposal)))
    return done


def stored(storage: InMemoryStorage) -> optuna.Study:
    return optuna.load_study(study_name="study", storage=storage)


def finished_study() -> InMemoryStorage:
    storage = InMemoryStorage()
    run_all(Study.create(storage, "study", settings()))
    return storage


def extended(storage: InMemoryStorage, max_tokens: int = 40_000) -> Study:
    before = StudySettings.of(stored(storage))
    return Study(stored(storage), before.extended(max_tokens))


def test_finished_trials_continue_to_more_tokens_and_train_nothing_twice():
    storage = finished_study()
    before = Overview.stored(stored(storage), is_run=False)
    num_finished = before.counts[FINISHED]
    assert before.is_complete and before.best is not None and before.best.rung == 9000
    study = extended(storage)
    assert study.rungs == EXTENDED and not Overview.of(study).is_complete
    done = run_all(study)
    assert all(rungs and rungs[0] == 27_000 for _, rungs in done if rungs)
    continuing = [record for record in study.records.values() if record.continues is not None]
    assert 0 < len(continuing) <= num_finished
    assert len({record.continues for record in continuing}) == len(continuing)
    for record in continuing:
        former = study.records[record.continues]
        assert former.outcome == FINISHED and former.values == record.values
        assert former.measurements.items() <= record.measurements.items()
    after = Overview.stored(stored(storage), is_run=False)
    assert Overview.of(study).is_complete and after.is_complete
    assert after.best is not None and after.best.rung == 40_000
    assert len(after.records) == 10 and after.reference is not None and after.reference.rung == 40_000
    assert {trial.state for trial in stored(storage).get_trials()} <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_optuna_knows_all_rungs_of_a_trial_that_continues_another():
    storage = finished_study()
    study = extended(storage)
    run_all(study)
    record = next(r for r in study.records.values() if r.continues is not None and r.outcome == FINISHED)
    trial = stored(storage).get_trials()[record.number]
    assert tuple(trial.intermediate_values) == EXTENDED
    assert trial.value == trial.intermediate_values[40_000]


def test_an_extended_study_resumes_after_a_kill_at_any_moment():
    for num_steps in range(1, 8):
        storage = finished_study()
        study = extended(storage)
        for _ in range(num_steps):
            if (proposal := study.propose()) is not None and num_steps % 2:
                train(study, proposal)
        again = Study(stored(storage), StudySettings.of(stored(storage)))
        assert again.rungs == EXTENDED
        run_all(again)
        overview = Overview.stored(stored(storage), is_run=False)
        assert overview.is_complete and len(overview.records) == 10
        continued = [record.continues for record in again.records.values() if record.continues is not None]
        assert len(continued) == len(set(continued))


def test_the_best_of_the_old_budget_stands_until_one_has_finished_the_new_one():
    storage = finished_study()
    best = Overview.stored(stored(storage), is_run=False).best
    study = extended(storage)
    proposal = study.propose()
    assert proposal is not None and proposal.is_resumed
    during = Overview.of(study)
    assert during.best is not None and best is not None and during.best.number == best.number
    assert len(during.records) == 10 and not during.is_complete
    while study.records[proposal.number].outcome != FINISHED:
        assert proposal.number == 10, "the reference resumes first and is never paused"
        train(study, proposal)
    assert Overview.of(study).best.number == proposal.number


def test_a_study_can_be_extended_more_than_once_and_by_trials_too():
    storage = finished_study()
    run_all(extended(storage))
    before = StudySettings.of(stored(storage))
    study = Study(stored(storage), before.extended(100_000), trials=13)
    run_all(study)
    assert study.rungs == (1000, 3000, 9000, 27_000, 40_000, 81_000, 100_000)
    assert len(Overview.of(study).records) == 13 and Overview.of(study).is_complete
    numbers = {record.number: record.continues for record in study.records.values()}
    assert any(numbers[before] is not None for before in numbers.values() if before is not None)  # a chain of three


def test_a_study_without_a_limit_of_trials_remembers_none_and_can_be_closed():
    storage = InMemoryStorage()
    study = Study.create(storage, "study", settings(), trials=float("inf"))
    for _ in range(15):
        train(study, study.propose())
    assert "trials" not in stored(storage).user_attrs
    assert not Overview.of(study).is_complete
    started = len(study.records)
    study.close_to_new_trials()
    assert study.num_trials == started == stored(storage).user_attrs["trials"]
    run_all(study)
    assert Overview.of(study).is_complete and len(study.records) == started


def options(**more) -> RunOptions:
    return RunOptions(space=Path("x.yaml"), **more)


def test_more_tokens_extend_a_study_if_the_space_or_the_command_asks_for_them():
    before = settings()
    larger = replace(before, budget=before.budget.model_copy(update={"max_tokens": 27_000}))
    assert _settings_to_resume_with(before, before, options(max_tokens="27K")).rungs == (1000, 3000, 9000, 27_000)
    assert _settings_to_resume_with(before, larger, options()).budget.max_tokens == 27_000  # the space file says so
    assert before.differences(larger) == []
    grown = before.extended(27_000)
    assert _settings_to_resume_with(grown, before, options()) is grown  # the command that made it
    assert _settings_to_resume_with(grown, larger, options()) is grown


def test_a_study_is_never_cut_short():
    grown = settings().extended(27_000)
    smaller = replace(grown, budget=grown.budget.model_copy(update={"max_tokens": 5000}))
    with pytest.raises(StudyError, match="27,000 already"):
        _settings_to_resume_with(grown, smaller, options())
    with pytest.raises(StudyError, match="27,000 already"):
        _settings_to_resume_with(grown, grown, options(max_tokens="9K"))
    for text in ("many", "0", "1.5", "-3"):
        with pytest.raises(ValueError, match="--max-tokens"):
            number_of_tokens(text)


NOON = datetime(2026, 11, 23, 12, 0)


@pytest.mark.parametrize(
    "text, seconds",
    [
        ("8h", 28_800),
        ("45m", 2700),
        ("1.5 h", 5400),
        ("90s", 90),
        ("2d", 172_800),
        ("18:00", 21_600),
        ("11:59", 86_340),
        ("2026-11-24 08:00", 72_000),
        ("2026-11-23T12:30", 1800),
    ],
)
def test_a_deadline_is_from_now_or_of_the_clock(text: str, seconds: float):
    assert seconds_until(text, NOON) == seconds


@pytest.mark.parametrize("text", ["", "soon", "25:00", "0h", "2026-11-23 11:00", "-3h", "900d", "8", "1e9h"])
def test_what_is_no_deadline_is_refused(text: str):
    with pytest.raises(ValueError, match="--until"):
        seconds_until(text, NOON)
