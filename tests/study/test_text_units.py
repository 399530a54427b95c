"""Trials of different vocabularies are given the same text, and a study counts it in one vocabulary's tokens."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import trainer.data
from search.driver.options import RunOptions
from search.driver.preparing import prepare_space
from search.strategy.feasibility import Feasibility
from search.study.settings import StudySettings
from search.study.text import read_text
from search.worker.checkpoints import checkpoint_name
from search.worker.messages import TrialRequest
from search.worker.trial import TrialRun
from trainer.text.units import TextUnits, study_tokens

SPACE = """
family: transformer
metric: {name: bits_per_byte}
budget: {trials: 4, min_tokens: 2K, max_tokens: 6K, eta: 3, eval_tokens: 1K}
parameters:
  vocab_size: {values: [256, 300, 600], default: 300}
  context_length: {value: 32}
  seq_len: {value: 32}
  batch_size: {value: 4}
  n_layers: {value: 1}
  d_model: {value: 16}
  n_heads: {value: 2}
  learning_rate: {min: 1e-4, max: 1e-2, log: true, default: 1e-3}
"""
LINES = "".join(f"the cat {i} sat on the mat and the dog {i * 7} ran to the house\n" for i in range(3000))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudySettings:
    monkeypatch.setenv("TINYSEARCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(trainer.data, "UNSETTLED_NS", 0)
    (tmp_path / "a.txt").write_text(LINES)
    (tmp_path / "space.yaml").write_text(SPACE)
    space, budget, _ = prepare_space(RunOptions(space=tmp_path / "space.yaml"))
    corpus = read_text(space, [str(tmp_path / "a.txt")], {}).to_settings()
    units = TextUnits.of(corpus)
    assert units is not None
    run = {"token_dtype": "uint16", "eval_tokens": 1000, "eval_bytes": units.bytes_in(1000), "precision": "fp32"}
    return StudySettings(space=space, budget=budget, corpus=corpus, run=run)


UNITS = TextUnits(((256, 1.0), (1024, 2.0), (16_384, 4.0)), 1024)


def test_a_rung_holds_the_same_text_in_every_vocabulary():
    rungs = (1000, 3000, 9000)
    assert UNITS.own_rungs(rungs, 1024) == rungs
    assert UNITS.own_rungs(rungs, 256) == (2000, 6000, 18_000)
    assert UNITS.own_rungs(rungs, 16_384) == (500, 1500, 4500)
    for size in (256, 700, 1024, 5000, 16_384):
        for own, rung in zip(UNITS.own_rungs(rungs, size), rungs, strict=True):
            assert UNITS.bytes_in(own, size) == pytest.approx(UNITS.bytes_in(rung), abs=3)
    assert UNITS.own_rungs((1, 2, 3), 16_384) == (1, 2, 3)  # ascending, however small


@given(
    st.lists(st.integers(1, 10**9), min_size=1, max_size=8, unique=True),
    st.sampled_from([256, 300, 1024, 5000, 16_384]),
    st.floats(0, 1),
)
def test_a_rung_of_a_trial_is_that_rung_of_the_study_and_no_other_token_count_is(rungs, size, share):
    shared = tuple(sorted(rungs))
    own = UNITS.own_rungs(shared, size)
    assert [study_tokens(tokens, own, shared) for tokens in own] == list(shared)
    between = int(share * own[-1])
    counted = study_tokens(between, own, shared)
    assert (counted in shared) == (between in own)
    assert [counted >= rung for rung in shared] == [between >= rung for rung in own]


def test_one_vocabulary_or_tokens_without_text_need_no_units():
    assert TextUnits.of({"paths": [], "digest": "x"}) is None


def test_trials_of_all_vocabularies_see_the_same_bytes(settings: StudySettings, tmp_path: Path):
    trained, evaluated, reported = [], [], []
    for size in (256, 300, 600):
        values = settings.space.complete({"vocab_size": size})
        config = settings.train_config(values, num_threads=1)
        rungs, name = tuple(settings.rungs), checkpoint_name(size)
        request = TrialRequest(train=config.to_dict(), study_rungs=rungs, location=str(tmp_path), checkpoint=name)
        trial = TrialRun(TrialRequest.from_dict(json.loads(json.dumps(request.to_dict()))))
        reports = [trial.step()]
        while not reports[-1].is_last(rungs):
            reports.append(trial.step())
        reported.append([r.measurement["tokens"] for r in reports if r.measurement])
        corpus = trial._run.corpus
        trained.append(config.rungs[-1] * corpus.bytes_per_token)
        evaluated.append(tuple(int(corpus.token_bytes[s[1:]].sum()) for s in trial._run._held_out.stretches))
        trial.close()
    assert reported == [list(settings.rungs)] * 3  # as the study counts
    assert max(trained) - min(trained) < 10
    assert len(set(evaluated)) == 1


def test_a_study_keeps_its_units_and_what_may_be_launched_goes_by_the_trials_own_tokens(settings: StudySettings):
    assert settings.units is not None and settings.units.reference == 300
    small, large = (settings.own_rungs({"vocab_size": size})[-1] for size in (256, 600))
    assert small > settings.rungs[-1] > large
    feasibility = Feasibility.of(settings.space, settings.budget, settings.run, settings.units)
    object.__setattr__(feasibility, "min_steps", large // 128 + 1)  # 128 tokens a step
    assert feasibility.reasons_against(settings.space.complete({"vocab_size": 256})) == []
    assert "optimizer steps" in feasibility.reasons_against(settings.space.complete({"vocab_size": 600}))[0]


def test_the_vocabularies_of_a_range_are_measured_at_some_sizes(tmp_path, settings: StudySettings):
    text = SPACE.replace("{values: [256, 300, 600], default: 300}", "{min: 256, max: 600, default: 300}")
    (tmp_path / "range.yaml").write_text(text)
    space, _, _ = prepare_space(RunOptions(space=tmp_path / "range.yaml"))
    found = read_text(space, settings.corpus["paths"], {})
    units = TextUnits.of(found.to_settings())
    assert units is not None and not found.has_all and [s for s, _ in units.bytes_per_token][0::4] == [256, 600]
    assert units.own_rungs((6000,), 256)[0] > units.own_rungs((6000,), 450)[0] > units.own_rungs((6000,), 600)[0]
