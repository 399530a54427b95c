"""Trials and tokens that fit a time: the arithmetic with given speeds, the words, and one real measurement."""

from __future__ import annotations

import io
import json
import math
import shlex
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

import search.driver.planning
import search.driver.preparing
from search.cli.main import app
from search.driver.hardware import Slots
from search.driver.options import RunOptions
from search.driver.pace import NoPace, measured_pace
from search.driver.planning import amount, plan, seconds_of, until_lines
from search.report.display import Display
from search.report.overview import Overview
from search.space.document import parse_number
from search.space.loading import parse_space
from search.space.spec import BudgetSpec
from search.study.cost import (
    EVALUATION,
    FEWEST,
    PASS_SHARE,
    SPARE,
    Pace,
    expected_tokens,
    num_fitting,
    proposals,
    search_seconds,
    seconds_left,
    seconds_needed,
)
from search.study.settings import StudySettings
from search.study.study import Study

SPACE = """
family: hybrid
budget: {trials: 20, min_tokens: 1K, max_tokens: 9K, eta: 3, eval_tokens: 300}
budgets:
  short: {trials: 8, min_tokens: 200, max_tokens: 600, eta: 3, eval_tokens: 100}
parameters:
  d_model: {values: [16, 32], default: 16}
  n_layers: {value: 2}
  n_heads: {value: 2}
  seq_len: {value: 16}
  batch_size: {value: 4}
  attn_layer_idx: {value: 0}
  learning_rate: {min: 1e-4, max: 1e-1, log: true, default: 1e-3}
presets:
  guide: {d_model: 16}
"""
RUNGS = (1000, 3000, 9000)
PACE = Pace(num_slots=2, reference=1000.0, typical=500.0, slowest=100.0, num_measured=6)

paces = st.builds(
    Pace,
    num_slots=st.integers(1, 64),
    reference=st.floats(10, 1e6),
    typical=st.floats(10, 1e6),
    slowest=st.just(1.0),
)
budgets = st.builds(
    lambda trials, least, times, eta: BudgetSpec(trials=trials, min_tokens=least, max_tokens=least * times, eta=eta),
    st.integers(1, 100),
    st.integers(1, 10**6),
    st.integers(1, 1000),
    st.integers(2, 10),
)


def settings(space: str = SPACE, budget: str | None = None) -> StudySettings:
    parsed = parse_space(space)
    corpus = {"digest": "d", "about": "text", "paths": []}
    return StudySettings(space=parsed, budget=parsed.budget(budget), budget_name=budget or "", corpus=corpus)


def test_a_trial_is_expected_to_train_each_stretch_with_the_chance_to_get_there():
    assert expected_tokens(RUNGS, 0) == pytest.approx(1000 + PASS_SHARE * 2000 + PASS_SHARE**2 * 6000)
    assert expected_tokens(RUNGS, 300, pass_share=1) == 9000 + 3 * 300 * EVALUATION
    assert expected_tokens(RUNGS, 0, tokens=2000) == pytest.approx(1000 + PASS_SHARE * 6000)  # running
    assert expected_tokens(RUNGS, 0, tokens=3000) == pytest.approx(PASS_SHARE * 6000)  # waits at a rung
    assert expected_tokens(RUNGS, 0, tokens=9000) == 0


@given(st.floats(1, 1e6), budgets, paces)
def test_the_trials_that_fit_take_no_longer_than_the_time_and_one_more_would(seconds, budget, pace):
    for rungs in ((100,), RUNGS):
        fitting = num_fitting(seconds, rungs, 50, pace)
        room = seconds * (1 - SPARE)
        assert fitting == 0 or search_seconds(fitting, rungs, 50, pace) <= room * (1 + 1e-6)
        assert search_seconds(fitting + 1, rungs, 50, pace) >= room * (1 - 1e-6)


@given(st.floats(1, 1e6), budgets, paces)
def test_proposals_fit_and_the_longest_stands_first(seconds, budget, pace):
    found = list(proposals(seconds, budget, pace))
    assert [p.max_tokens for p in found] == sorted({p.max_tokens for p in found}, reverse=True)
    for proposal in found:
        assert proposal.trials >= min(FEWEST, budget.trials)
        assert proposal.seconds <= seconds
        assert proposal.rungs[0] == budget.min_tokens
        assert proposal.max_tokens <= budget.max_tokens or proposal.trials >= budget.trials


def test_more_time_proposes_more_tokens_then_tokens_beyond_the_budget_with_its_trials():
    budget = settings().budget
    longest = {seconds: next(proposals(seconds, budget, PACE)) for seconds in (30, 80, 1000)}
    assert [p.max_tokens for p in longest.values()] == [1000, 9000, 81_000]
    assert longest[1000].trials >= budget.trials > longest[80].trials >= FEWEST


def test_the_smallest_search_that_is_named_fits_the_time_that_is_named():
    short = plan(settings(), PACE, 5.0)
    assert short.proposal is None and short.smallest.trials == FEWEST and short.smallest.max_tokens == 1000
    assert plan(settings(), PACE, seconds_needed(short.smallest) + 1e-6).proposal is not None
    (_, said) = short.lines("tinysearch run x.yaml")
    assert "5 s is too short" in said and "8 trials of up to 1K tokens" in said and "--time 1m" in said


def test_no_length_is_proposed_in_which_the_reference_may_not_be_launched():
    few_steps = SPACE.replace("eta: 3, eval_tokens: 300", "eta: 3, eval_tokens: 300, min_steps: 40")  # 64 tokens each
    assert plan(settings(few_steps), PACE, 5.0).smallest.max_tokens == 3000
    assert plan(settings(few_steps), PACE, 30.0).proposal is None


def test_until_says_how_many_trials_fit():
    pace, said = until_lines(settings(), PACE, 100.0)
    assert "'guide' 1,000" in pace and "typical one 500" in pace and "2 trials at a time" in pace
    assert f"about {num_fitting(100, RUNGS, 300, PACE)} trials of up to 9K tokens fit in 1 min 40 s" in said


def test_until_says_before_it_starts_that_no_trial_can_finish_and_what_would():
    long = settings(SPACE.replace("max_tokens: 9K", "max_tokens: 900K"))
    _, said, instead = until_lines(long, PACE, 100.0)
    assert "not one trial will reach 900K tokens in 1 min 40 s" in said and "15 min" in said
    proposal = plan(long, PACE, 100.0).proposal
    assert f"--max-tokens {amount(proposal.max_tokens)}" in instead and f"{proposal.trials} trials" in instead
    _, _, smallest, shorter = until_lines(long, PACE, 16.0)
    assert "--budget short" in shorter
    assert "smallest search that makes sense" in smallest and "--max-tokens 1K for 8 trials" in smallest


def test_until_names_a_shorter_training_where_only_a_few_trials_fit():
    _, said, instead = until_lines(settings(), PACE, 30.0)
    assert "about 2 trials" in said and "--max-tokens 1K" in instead


@given(st.integers(1, 10**12))
def test_an_amount_of_tokens_is_read_as_it_is_written(tokens):
    assert parse_number(amount(tokens)) == tokens


@pytest.mark.parametrize(
    ("tokens", "text"), [(432_000, "432K"), (27_000_000, "27M"), (2_430_000, "2.43M"), (999, "999")]
)
def test_amounts_are_short(tokens, text):
    assert amount(tokens) == text


def test_time_has_the_words_of_until():
    assert seconds_of("6m") == 360
    with pytest.raises(ValueError, match="--time soon is not a time"):
        seconds_of("soon")


def test_seconds_left_counts_the_running_trials_and_those_to_start():
    assert seconds_left([9000], 0, RUNGS, 100) == 0
    assert seconds_left([3000], 0, RUNGS, 100) == pytest.approx(PASS_SHARE * 60)
    assert seconds_left([], 2, RUNGS, 100) == pytest.approx(2 * expected_tokens(RUNGS, 0) / 100)
    assert math.isinf(seconds_left([], math.inf, RUNGS, 100))


def test_time_left_is_known_after_the_first_rung():
    study = Study.create(optuna.storages.InMemoryStorage(), "study", settings())
    display = Display(lambda: Overview.of(study), console=Console(file=io.StringIO()))
    number = study.propose().number
    study.report(number, {"tokens": 500, "tokens_per_second": 100.0})
    assert "not known yet" in display._time_left(Overview.of(study))
    study.report(number, {"tokens": 1000, "loss": 3.0, "tokens_per_second": 100.0})
    assert "about" in display._time_left(Overview.of(study))
    again = Display(lambda: Overview.of(study), console=Console(file=io.StringIO()))  # the study resumes later
    assert "not known yet" in again._time_left(Overview.of(study))


def advised(*words: str, pace: Pace | Exception = PACE, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    def given_pace(*_: object, **__: object) -> Pace:
        if isinstance(pace, Exception):
            raise pace
        return pace

    monkeypatch.setattr(search.driver.planning, "measured_pace", given_pace)
    done = CliRunner().invoke(app, ["advise", *words])
    return done.exit_code, done.output


def test_advise_prints_the_command_that_starts_what_it_proposes(small_text, monkeypatch):
    Path("my space.yaml").write_text(SPACE)
    words = ["my space.yaml", "--data", "text", "--set", "d_model=32"]
    code, out = advised(*words, "--time", "80s", monkeypatch=monkeypatch)
    command = shlex.split(out.splitlines()[-1])
    proposal = next(proposals(80, settings().budget, PACE))
    run = ["tinysearch", "run", *words, "--trials", str(proposal.trials), "--max-tokens", amount(proposal.max_tokens)]
    assert code == 0 and command == run
    code, out = advised(*words, "--time", "80s", "--json", monkeypatch=monkeypatch)
    document = json.loads(out[out.index("{") :])
    assert document["command"] == run and document["proposal"]["max_tokens"] == proposal.max_tokens
    assert document["pace"]["typical"] == 500


def test_advise_takes_a_shorter_budget_of_the_space_where_its_own_is_too_long(small_text, monkeypatch):
    Path("a.yaml").write_text(SPACE)
    _, out = advised("a.yaml", "--data", "text", "--time", "24s", monkeypatch=monkeypatch)
    assert "the space's own budget" in out and "--budget short --trials" in out
    _, out = advised("a.yaml", "--data", "text", "--time", "24s", "--budget", "short", monkeypatch=monkeypatch)
    assert "the space's own budget" not in out and "--budget short" in out


def test_advise_says_why_nothing_could_be_measured(small_text, monkeypatch):
    Path("a.yaml").write_text(SPACE)
    why = NoPace("the speed could not be measured: it burned")
    code, out = advised("a.yaml", "--data", "text", "--time", "24s", pace=why, monkeypatch=monkeypatch)
    assert code == 2 and "it burned" in out


def test_a_run_until_says_what_fits_unless_the_time_is_too_short_to_measure(monkeypatch):
    monkeypatch.setattr(search.driver.planning, "measured_pace", lambda *_, **__: PACE)
    for seconds, lines in ((3600, 2), (20, 0)):
        console = Console(file=io.StringIO(), width=250)
        search.driver.planning.say_what_fits(
            settings(), Slots(2, 1, 0), search.driver.planning.time.monotonic() + seconds, console
        )
        assert len(console.file.getvalue().splitlines()) == lines


@pytest.mark.slow  # trains in processes of their own
def test_the_speed_of_a_space_is_measured(small_text):
    Path("a.yaml").write_text(SPACE)
    options = RunOptions(space=Path("a.yaml"), data=(Path("text"),))
    space, budget, _ = search.driver.preparing.prepare_space(options)
    slots = Slots(2, 1, 0)
    text = search.driver.preparing.read_for(options, space, Console(file=io.StringIO()))
    made = search.driver.preparing.settings_for(options, space, budget, slots, text)
    pace = measured_pace(made, slots, max_seconds=20, seconds_each=0.2)
    assert 0 < pace.slowest <= pace.typical and pace.slowest <= pace.reference
    assert pace.num_slots == 2 and 1 < pace.num_measured <= 6 and pace.is_reference_preset
