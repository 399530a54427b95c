"""Studies with a sampler and a stopping by name: presets, rules and limits hold; kills and extensions lose nothing."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search.report.overview import Overview, trial_dict
from search.report.sentences import proposals_line, summary
from search.space.loading import parse_space
from search.space.spec import Named
from search.storage.folder import StudyError
from search.storage.journal import Journal
from search.strategy.optuna_sampler import OF_STUDY, SamplerError
from search.strategy.own_sampler import digest_at
from search.strategy.samplers import search_faults
from search.study.settings import StudySettings
from search.study.study import Study
from search.worker.messages import FINISHED, INFEASIBLE, PAUSED, STOPPED, WASTED
from tests.support.killed import connection_of, images_of_database
from tests.support.simulated import SPACE, Workers, described, records_of, resume_study
from tests.support.thorough import some_of

RUNGS = (1000, 3000, 9000)
GUIDE = """
family: hybrid
budget: {trials: 18, min_tokens: 1000, max_tokens: 9000, eta: 3}
limits: {train_seconds: {max: 100}}
parameters:
  d_model: {values: [16, 32, 64], default: 32}
  n_layers: {min: 2, max: 6, default: 3}
  attn_layer_idx: {min: 0, max: n_layers - 1, default: 1}
  n_heads: {values: [1, 2, 4, 8], default: 2}
  batch_size: {min: 4, max: 64, step: 4, default: 8, when: n_layers > 2}
  learning_rate: {min: 1e-4, max: 1e-1, log: true, default: 1e-3}
rules:
  - {require: d_model // n_heads >= 8, why: heads of at least eight channels}
presets:
  guide: {d_model: 32}
  wide: {d_model: 64, n_heads: 4}
"""
TWO = GUIDE.replace("budget:", "metrics: [loss, tokens_per_second]\nbudget:")


def made(sampler: str | Named, stopping: str | Named, space: str = GUIDE, seed: int = 0) -> StudySettings:
    parsed = parse_space(space)
    choice = [part if isinstance(part, Named) else Named(part) for part in (sampler, stopping)]
    assert search_faults(*choice, parsed, parsed.budget()) == []
    corpus = {"digest": "d", "about": "text", "paths": []}
    return StudySettings(
        space=parsed, budget=parsed.budget(), seed=seed, corpus=corpus, sampler=choice[0], stopping=choice[1]
    )


def measurement(values: dict[str, Any], tokens: int) -> dict[str, Any]:
    loss = 2 + abs(math.log10(values["learning_rate"]) + 2) + abs(values["n_layers"] - 4) / 4 + 1000 / tokens
    seconds = 1000 if values["learning_rate"] > 0.05 else 10
    loss = math.nan if values["n_layers"] == 6 and tokens > 1000 else loss
    return {"tokens": tokens, "loss": loss, "tokens_per_second": 1e4 / values["d_model"], "train_seconds": seconds}


def train(study: Study, *, at_once: int = 3) -> None:
    """Run a study to its end with so many workers, which report in turn."""
    running: list[int] = []
    while True:
        while len(running) < at_once and (proposal := study.propose()) is not None:
            running.append(proposal.number)
        if not running:
            assert not study.waits and not study.has_more
            return
        record = study.records[running.pop(0)]
        rung = next(rung for rung in study.rungs if rung > record.rung)
        if study.report(record.number, measurement(record.values, rung)):
            running.append(record.number)


PAIRS = [
    *((sampler, stopping) for sampler in ("tpe", "qmc", "random", "grid", "curves") for stopping in
      ("curves", "asha", "hyperband", "median", "none") if (sampler, stopping) != ("curves", "curves")),
    *(("gp", "none"), ("cmaes", "none"), ("nsga2", "none"), ("nsga3", "none")),
]  # fmt: skip
OFTEN = [("tpe", "curves"), ("tpe", "asha"), ("curves", "asha"), ("qmc", "hyperband"), ("grid", "none"),
         ("cmaes", "none"), ("random", "median"), ("nsga2", "none")]  # fmt: skip


@pytest.mark.parametrize("pair", some_of(PAIRS, always=OFTEN), ids="+".join)
def test_a_study_trains_presets_first_keeps_rules_and_limits_and_ends_every_trial(pair: tuple[str, str]):
    sampler, stopping = pair
    study = Study.create(InMemoryStorage(), "study", made(sampler, stopping))
    train(study)
    records = list(study.records.values())
    assert len(records) == 18 and Overview.of(study).is_complete
    assert [record.preset for record in records[:3]] == ["guide", "wide", ""]
    assert records[0].outcome == FINISHED  # the reference
    assert [record.proposed_by for record in records[:2]] == ["preset", "preset"]
    assert {record.proposed_by for record in records[2:]} <= {sampler, "random"}
    assert len({tuple(sorted(record.values.items())) for record in records}) == 18
    for record in records:
        assert study.feasibility.reasons_against(record.values) == []
        assert bool(record.reason) == (record.outcome not in (FINISHED,)), (record.outcome, record.reason)
    assert {r.outcome for r in records} <= {FINISHED, STOPPED, *WASTED}
    if stopping == "none":
        assert not any(record.outcome == STOPPED for record in records)


TWO_PAIRS = [(s, k) for s in ("tpe", "random", "qmc", "grid", "curves") for k in ("curves", "none")]
TWO_PAIRS += [("nsga2", "none"), ("nsga3", "none"), ("gp", "none")]


OFTEN_TWO = [("tpe", "curves"), ("nsga2", "none"), ("curves", "none")]


@pytest.mark.parametrize("pair", some_of(TWO_PAIRS, always=OFTEN_TWO), ids="+".join)
def test_a_study_of_two_metrics_ends_with_a_front(pair: tuple[str, str]):
    sampler, stopping = pair
    study = Study.create(InMemoryStorage(), "study", made(sampler, stopping, TWO))
    train(study)
    overview = Overview.of(study)
    assert overview.is_complete and len(overview.records) == 18 and overview.front


# Killed at any write.

MORE = SPACE.replace("trials: 7", "trials: 14")
KILLED = {
    "tpe+asha": MORE + "search: {sampler: {name: tpe, n_startup_trials: 4}, stopping: asha}\n",
    "tpe+asha stop": MORE + "search: {sampler: {name: tpe, n_startup_trials: 4}, stopping: {name: asha, kind: stop}}\n",
    "cmaes+none": MORE + "search: {sampler: {name: cmaes, popsize: 3}, stopping: none}\n",
    "grid+none": MORE + "search: {sampler: {name: grid, points: 4}, stopping: none}\n",
    "nsga2+none": MORE.replace("budget:", "metrics: [loss, tokens_per_second]\nbudget:")
    + "search: {sampler: {name: nsga2, population_size: 3}, stopping: none}\n",
    "qmc+median": MORE + "search: {sampler: qmc, stopping: {name: median, n_startup_trials: 2}}\n",
}
NUM_PARTS = 12  # every twelfth write


def killed_at_lines(space: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Workers]]:
    """The whole study's journal, and then what a kill before each line leaves of it, with the workers' state."""
    workers, images = Workers(), []
    write = JournalFileBackend.append_logs

    def photographed(self: Journal, logs: list[dict[str, Any]]) -> None:
        images.extend(copy.deepcopy(workers) for _ in logs)
        write(self, logs)

    with monkeypatch.context() as patched:
        patched.setattr(JournalFileBackend, "append_logs", photographed)
        resume_study(JournalStorage(Journal(str(folder / "whole.log"))), space, workers)
    yield folder / "whole.log", workers
    lines = (folder / "whole.log").read_bytes().splitlines(keepends=True)
    for k, left in enumerate(images):
        (folder / f"{k}.log").write_bytes(b"".join(lines[:k]))
        yield folder / f"{k}.log", left


def told(storage: optuna.storages.BaseStorage) -> list[str]:
    """All that a study says, but for CMA-ES's pickles: equal optimizers may have different ones."""
    return [re.sub(r"\('cma:optimizer:\d+', '[0-9a-f]+'\)", "", line) for line in described(storage)]


@pytest.mark.slow  # some fifteen studies each
@pytest.mark.parametrize("part", some_of(range(NUM_PARTS), always=[5]))
@pytest.mark.parametrize("pair", KILLED)
def test_a_driver_killed_at_any_line_leaves_a_study_that_ends_the_same(
    pair: str, part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    states = killed_at_lines(KILLED[pair], tmp_path, monkeypatch)
    undisturbed = JournalStorage(Journal(str(next(states)[0])))
    expected = told(undisturbed)
    configurations = [tuple(sorted(record.values.items())) for record in records_of(undisturbed)]
    assert len(configurations) == len({*configurations}) == 14
    for k, (file, left) in [*enumerate(states)][part::NUM_PARTS]:
        storage = JournalStorage(Journal(str(file)))
        resume_study(storage, KILLED[pair], left)
        assert len({*left.trained}) == len(left.trained), f"killed before line {k}"
        assert all(record.has_ended for record in records_of(storage))
        assert told(storage) == expected, f"killed before line {k}"


IN_A_DATABASE = ["tpe+asha stop", "tpe+asha", "nsga2+none"]
NUM_DATABASE_PARTS = 60  # a database is slow


@pytest.mark.slow  # some six studies each
@pytest.mark.parametrize("part", some_of(range(NUM_DATABASE_PARTS), always=[40]))
@pytest.mark.parametrize("pair", some_of(IN_A_DATABASE, always=["tpe+asha stop"]))
def test_a_driver_killed_at_any_write_to_a_database_leaves_a_study_that_ends_the_same(pair: str, part: int):
    undisturbed, workers = RDBStorage("sqlite:///:memory:"), Workers()
    images = images_of_database(undisturbed, workers)
    resume_study(undisturbed, KILLED[pair], workers)
    expected = told(undisturbed)
    storage = RDBStorage("sqlite:///:memory:")
    for k, (image, left) in [*enumerate(images)][part::NUM_DATABASE_PARTS]:
        connection_of(storage).deserialize(image)
        resume_study(storage, KILLED[pair], left)
        assert len({*left.trained}) == len(left.trained), f"killed before write {k}"
        assert told(storage) == expected, f"killed before write {k}"


def test_what_a_sampler_remembers_is_stored_with_its_trials(tmp_path: Path):
    for pair, key in (
        ("cmaes+none", "cma:optimizer:0"),
        ("nsga2+none", "NSGAIISampler:generation"),
        ("qmc+median", ""),
    ):
        storage = InMemoryStorage()
        resume_study(storage, KILLED[pair], Workers())
        trials = optuna.load_study(study_name="study", storage=storage).get_trials()
        assert not key or any(key in trial.system_attrs for trial in trials), pair
        if pair != "cmaes+none":  # about the study: the generation's parents, the place in the sequence
            assert any(OF_STUDY in trial.system_attrs for trial in trials)


def test_a_study_of_cmaes_that_names_foreign_code_is_refused():
    storage, space = InMemoryStorage(), KILLED["cmaes+none"]
    study = Study.create(storage, "study", made_of(space))
    number = study.propose().number
    storage.set_trial_system_attr(number, "cma:optimizer:0", b"cbuiltins\nprint\n(S'x'\ntR.".hex())
    with pytest.raises(StudyError, match=r"trial 0 does not fit its space: .* it names builtins.print"):
        Study(optuna.load_study(study_name="study", storage=storage), made_of(space))


def made_of(space: str) -> StudySettings:
    from tests.support.simulated import settings

    return settings(space)


# ASHA in a study.


def test_asha_pauses_trials_promotes_the_best_third_and_says_why_others_were_stopped():
    study = Study.create(InMemoryStorage(), "study", made("random", "asha"))
    train(study, at_once=1)
    records = [r for r in study.records.values() if not r.preset]
    at_first = [r for r in study.records.values() if 1000 in r.measurements and r.outcome not in WASTED]
    beyond = [r for r in records if 3000 in r.measurements]
    assert 2 <= len(beyond) < len(at_first)
    for record in records:
        if record.outcome == STOPPED:
            assert re.fullmatch(
                r"\d+(st|nd|rd|th) of \d+ at [13],000 tokens; the best third is promoted", record.reason
            )
    frozen = study.stored.get_trials()
    assert {t.user_attrs["reason"] for t in frozen if t.state == TrialState.PRUNED} > {""} - {""}


def test_asha_waits_for_a_running_trial_before_it_gives_the_paused_ones_up():
    study = Study.create(InMemoryStorage(), "study", made("random", "asha"), trials=4)
    proposals = [study.propose() for _ in range(4)]
    for proposal in proposals[1:3]:
        assert not study.report(proposal.number, measurement(proposal.values, 1000))
    assert study.propose() is None and study.waits
    assert {study.records[p.number].outcome for p in proposals[1:3]} <= {PAUSED, INFEASIBLE}


def test_asha_that_stops_ends_a_trial_at_once_with_its_reason():
    study = Study.create(InMemoryStorage(), "study", made("random", Named("asha", {"kind": "stop"})))
    train(study, at_once=1)
    stopped = [r for r in study.records.values() if r.outcome == STOPPED]
    assert stopped and all(r.reason.endswith("the best third trains on") for r in stopped)
    assert not any("paused" in t.user_attrs for t in study.stored.get_trials())


@pytest.mark.parametrize("stopping", [Named("asha"), Named("none"), Named("asha", {"kind": "stop"}), Named("median")])
def test_an_extended_study_resumes_finished_trials_by_the_rule_of_its_stopping(stopping: Named):
    storage, before = InMemoryStorage(), made("tpe", stopping)
    train(Study.create(storage, "study", before))
    finished = [r.number for r in records_of(storage) if r.outcome == FINISHED]
    study = Study(optuna.load_study(study_name="study", storage=storage), before.extended(27000))
    train(study)
    continued = {r.continues for r in study.records.values()} - {None}
    assert 0 in continued  # the reference
    assert continued <= {*finished}
    if stopping.name == "none":
        assert continued == {*finished}
    else:
        assert continued < {*finished}
    assert Overview.of(study).is_complete
    reopened = Study(optuna.load_study(study_name="study", storage=storage), before.extended(27000))
    assert reopened.propose() is None


def test_a_study_may_have_more_trials_later_and_proposes_on():
    storage, before = InMemoryStorage(), made("tpe", "asha")
    train(Study.create(storage, "study", before))
    study = Study(optuna.load_study(study_name="study", storage=storage), before, trials=24)
    train(study)
    assert len(study.records) == 24
    assert len({tuple(sorted(r.values.items())) for r in study.records.values()}) == 24


# What a study remembers and says.


def test_a_study_remembers_its_sampler_and_its_stopping():
    storage = InMemoryStorage()
    asked = made(Named("tpe", {"n_startup_trials": 4}), Named("asha", {"eta": 2}))
    Study.create(storage, "study", asked)
    stored = optuna.load_study(study_name="study", storage=storage)
    assert StudySettings.of(stored) == replace(asked, space=StudySettings.of(stored).space)
    Study.check_same(stored, asked)
    with pytest.raises(StudyError, match="sampler: tpe, n_startup_trials 4 before, gp now") as error:
        Study.check_same(stored, replace(asked, sampler=Named("gp"), stopping=Named("none")))
    assert "stopping: asha, eta 2 before, none now" in str(error.value)


def test_a_study_from_before_opens_with_the_model_of_curves():
    storage = InMemoryStorage()
    Study.create(storage, "study", made("curves", "curves"))
    stored = optuna.load_study(study_name="study", storage=storage)
    assert stored.user_attrs["search"] == {}
    attrs = {key: value for key, value in stored.user_attrs.items() if key != "search"}
    old = optuna.create_study(storage=storage, study_name="old")
    for key, value in attrs.items():
        old.set_user_attr(key, value)
    assert StudySettings.of(old).sampler == StudySettings.of(old).stopping == Named("curves")


@pytest.mark.parametrize(
    "search", [{"sampler": "tpe"}, {"sampler": {"name": 3, "options": {}}}, {"stopping": {"name": "a"}}]
)
def test_a_damaged_choice_is_refused(search: dict[str, Any]):
    storage = InMemoryStorage()
    Study.create(storage, "study", made("tpe", "asha"))
    stored = optuna.load_study(study_name="study", storage=storage)
    stored.set_user_attr("search", search)
    with pytest.raises(StudyError, match="its attribute 'search' has"):
        StudySettings.of(stored)


def test_reports_say_who_proposed_what_was_moved_and_how_often_a_sampler_was_asked():
    study = Study.create(InMemoryStorage(), "study", made("tpe", "asha"))
    train(study)
    overview = Overview.of(study)
    document = overview.to_dict()
    moved, again = (document["proposals"][name] for name in ("moved", "asked_again"))
    assert (document["sampler"], document["stopping"]) == ("tpe", "asha")
    assert document["proposals"]["by"] == {"preset": 2, "tpe": 16} and moved and again
    line = proposals_line(overview.records)
    assert line == (
        f"{moved} of 16 proposals were moved to what may be launched, and tpe was asked again {again} times"
    )
    assert line in summary(overview)
    some = trial_dict(next(r for r in overview.records if r.moved))
    assert some["proposed_by"] == "tpe" and some["moved"] and some["asks"] >= 1
    assert {t.user_attrs["proposed_by"] for t in study.stored.get_trials()} == {"preset", "tpe"}


def test_the_end_of_a_grid_is_said_as_such():
    space = GUIDE.replace("trials: 18", "trials: 5000").replace(
        "{min: 1e-4, max: 1e-1, log: true, default: 1e-3}", "{value: 1e-3}"
    )
    study = Study.create(InMemoryStorage(), "study", made(Named("grid", {"points": 2}), "asha", space))
    train(study)
    assert Overview.of(study).is_complete
    assert "points of the grid that may be launched have been" in "\n".join(summary(Overview.of(study)))


# One's own sampler.

OWN = """import numpy as np
import optuna


class Mine(optuna.samplers.BaseSampler):
    def __init__(self, seed=0, breaks_at: int = 10**6):
        self.rng, self.num_asked, self.breaks_at = np.random.default_rng(seed), 0, breaks_at

    def infer_relative_search_space(self, study, trial):
        return {}

    def sample_relative(self, study, trial, search_space):
        self.num_asked += 1
        if self.num_asked > self.breaks_at:
            raise IndexError("nothing left")
        return {}

    def sample_independent(self, study, trial, name, distribution):
        if isinstance(distribution, optuna.distributions.CategoricalDistribution):
            return distribution.choices[self.rng.integers(len(distribution.choices))]
        if isinstance(distribution, optuna.distributions.IntDistribution):
            return distribution.low + distribution.step * int(self.rng.integers(2))
        return float(np.exp(self.rng.uniform(np.log(distribution.low), np.log(distribution.high))))
"""


def test_a_sampler_of_ones_own_searches_and_its_error_loses_nothing(tmp_path: Path):
    (tmp_path / "mine.py").write_text(OWN)
    name = f"{tmp_path}/mine.py:Mine"
    study = Study.create(InMemoryStorage(), "study", made(name, "asha"))
    train(study)
    assert {r.proposed_by for r in study.records.values()} == {"preset", "Mine"}

    storage, breaking = InMemoryStorage(), made(Named(name, {"breaks_at": 4}), "asha")
    study = Study.create(storage, "study", breaking)
    with pytest.raises(
        SamplerError, match=rf"^the sampler Mine failed at {tmp_path}/mine.py:15: IndexError: nothing left$"
    ):
        train(study)
    known = {r.number: (r.values, dict(r.measurements)) for r in study.records.values()}
    again = Study(optuna.load_study(study_name="study", storage=storage), made(name, "asha"))
    assert {r.number: (r.values, r.measurements) for r in again.records.values()} == known
    train(again)
    assert len(again.records) == 18


def test_a_changed_text_of_ones_own_sampler_is_a_difference(tmp_path: Path):
    (tmp_path / "mine.py").write_text(OWN)
    name = f"{tmp_path}/mine.py:Mine"
    storage, asked = InMemoryStorage(), replace(made(name, "asha"), sampler_digest=digest_at(name))
    Study.create(storage, "study", asked)
    stored = optuna.load_study(study_name="study", storage=storage)
    (tmp_path / "mine.py").write_text(OWN + "# changed\n")
    with pytest.raises(StudyError, match="the text of the sampler .*: digest .* before, .* now"):
        Study.check_same(stored, replace(asked, sampler_digest=digest_at(name)))


def test_the_default_pair_decides_as_the_model_alone():
    from search.strategy.strategy import Strategy

    by_name, alone = (
        Study.create(InMemoryStorage(), "study", made("curves", "curves"), strategy=strategy)
        for strategy in (None, Strategy)
    )
    for study in (by_name, alone):
        train(study)
    values = [[r.values for r in study.records.values()] for study in (by_name, alone)]
    assert values[0] == values[1] and np.isfinite(by_name.stored.best_value)
