"""Small spaces: each configuration is started once, each that may be launched is, and then the search says so."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.storages import InMemoryStorage
from typer.testing import CliRunner

from search.cli.main import app
from search.report.overview import Overview
from search.report.sentences import counts_line, exhausted_line, few_line
from search.space.configurations import Listing, identity, same_presets
from search.space.expression import ExpressionError
from search.space.loading import parse_space
from search.space.narrowing import narrow
from search.space.space import Space
from search.storage.folder import StudyError, StudyFolder
from search.strategy.curves import Curve
from search.strategy.feasibility import Feasibility
from search.strategy.sampling import Candidates, NothingFeasible, distributions
from search.strategy.strategy import Continue, Start, Strategy
from search.study.settings import Exhausted, StudySettings
from search.study.study import Study
from search.study.text import read_text
from search.worker.messages import DIVERGED, FAILED, FINISHED, OUT_OF_MEMORY
from trainer.estimate import estimate

SPACE = """
family: hybrid
budget: {trials: 10, min_tokens: 1000, max_tokens: 9000, eta: 3}
parameters:
  d_model: {value: 16}
  n_heads: {value: 2}
  attn_layer_idx: {value: 0}
  n_layers: {values: [1, 2], default: 1}
  learning_rate: {values: [0.001, 0.01], default: 0.001}
"""
PRESETS = """
presets:
  guide: {n_layers: 1}
  again: {learning_rate: 0.001}
  deep: {n_layers: 2}
"""


def study_settings(space: Space, seed: int = 0) -> StudySettings:
    return StudySettings(space=space, budget=space.budget(), seed=seed, corpus={"digest": "d", "paths": []})


def new_study(text: str = SPACE, *, trials: float | None = None, storage: InMemoryStorage | None = None) -> Study:
    space = parse_space(text)
    return Study.create(storage or InMemoryStorage(), "study", study_settings(space), trials=trials)


def reopened(storage: InMemoryStorage) -> Study:
    stored = optuna.load_study(study_name="study", storage=storage)
    return Study(stored, StudySettings.of(stored))


def measurement(values: dict[str, Any], tokens: int) -> dict[str, Any]:
    """A loss that no two configurations share, nor two rungs."""
    spread = sum(hash(value) % 97 for value in values.values()) / 97
    return {"tokens": tokens, "loss": 2 + spread + 1000 / tokens}


def step(study: Study, number: int) -> bool:
    """Train a trial to its next rung; True if it continues."""
    record = study.records[number]
    rung = next(rung for rung in study.rungs if rung > record.rung)
    return study.report(number, measurement(record.values, rung))


def run_all(study: Study, *, workers: int = 1) -> None:
    """Train all trials, with several running at a time, each one rung in turn."""
    running: deque[int] = deque()
    while True:
        while len(running) < workers and (proposal := study.propose()) is not None:
            running.append(proposal.number)
        if not running:
            return
        if step(study, number := running.popleft()):
            running.append(number)


def configurations(study: Study) -> list[Any]:
    return [identity(record.values) for record in study.records.values() if record.continues is None]


@pytest.mark.parametrize("workers", [1, 3, 8])
@pytest.mark.parametrize("text", [SPACE, SPACE + PRESETS], ids=["no presets", "presets"])
def test_a_space_of_four_is_trained_once_each_and_the_search_is_complete(text: str, workers: int):
    study = new_study(text)
    run_all(study, workers=workers)
    assert len(set(configurations(study))) == len(configurations(study)) == 4
    assert study.exhausted == Exhausted(4, is_exact=True)
    for overview in (Overview.of(study), Overview.stored(study.stored, is_run=False)):
        assert overview.is_complete and overview.num_trials == 4
        assert counts_line(overview.counts, overview.num_trials).startswith("4 of 4 trials:")
        line = exhausted_line(overview)
        assert "all 4 configurations" in line and "trained" in line and "widen" in line and "confirm" in line
        assert overview.to_dict()["exhausted"] is True and overview.to_dict()["trials"] == 4


def test_a_search_without_a_number_of_trials_ends_too():
    study = new_study(trials=math.inf)
    run_all(study, workers=2)
    study.close_to_new_trials()
    assert Overview.of(study).is_complete and len(study.records) == 4
    assert Overview.stored(study.stored, is_run=False).is_complete


def test_enough_for_the_trials_is_not_said_to_be_exhausted():
    study = new_study(trials=4)
    run_all(study)
    assert study.exhausted is None and exhausted_line(Overview.of(study)) == ""
    assert Overview.of(study).is_complete


def test_trials_that_ended_badly_count_as_tried():
    study = new_study()
    outcomes = [DIVERGED, FAILED, OUT_OF_MEMORY]
    while (proposal := study.propose()) is not None:
        if outcomes:
            study.finish(proposal.number, outcomes.pop(), "why", tokens=500)
        else:
            while step(study, proposal.number):
                pass
    assert len(set(configurations(study))) == len(study.records) == 4
    assert "all 4 configurations that may be launched have been tried" in exhausted_line(Overview.of(study))


def test_while_trials_are_running_no_more_are_waited_for_than_there_can_be():
    storage = InMemoryStorage()
    study = new_study(storage=storage)
    started = [study.propose() for _ in range(4)]
    assert None not in started and study.propose() is None
    overview = Overview.stored(study.stored, is_run=True)
    assert overview.num_trials == 4 and not overview.is_complete
    assert "started" in exhausted_line(overview)
    again = reopened(storage)  # the driver was killed
    assert [again.propose().number for _ in range(4)] == [0, 1, 2, 3]
    assert again.propose() is None


def test_a_study_opened_again_at_any_moment_reaches_the_same_end():
    whole = InMemoryStorage()
    run_all(new_study(SPACE + PRESETS, storage=whole))
    expected = [(r.values, r.outcome, r.rung) for r in reopened(whole).records.values()]
    for num_steps in (2, 5, 8):
        storage = InMemoryStorage()
        study = new_study(SPACE + PRESETS, storage=storage)
        for _ in range(num_steps):
            if (proposal := study.propose()) is not None:
                step(study, proposal.number)  # and here the driver is killed, the trial running or not
                study = reopened(storage)
        run_all(study)
        assert [(r.values, r.outcome) for r in study.records.values()] == [e[:2] for e in expected]
        assert Overview.stored(study.stored, is_run=False).is_complete
        assert reopened(storage).propose() is None
        assert reopened(storage).exhausted == Exhausted(4, is_exact=True)


@pytest.mark.parametrize("presets", ["", "presets: {guide: {n_layers: 2}}"])
def test_where_all_is_fixed_the_one_configuration_is_trained(presets: str):
    space = narrow(parse_space(SPACE + presets), assignments=["n_layers=2", "learning_rate=0.01"])
    study = Study.create(InMemoryStorage(), "study", study_settings(space))
    run_all(study, workers=2)
    (record,) = study.records.values()
    assert record.outcome == FINISHED and (record.values["n_layers"], record.values["learning_rate"]) == (2, 0.01)
    assert "the only configuration" in exhausted_line(Overview.of(study))
    stored = optuna.load_study(study_name="study", storage=study.stored._storage)
    run_all(again := Study(stored, study_settings(space), trials=20))
    assert len(again.records) == 1 and Overview.of(again).is_complete


def test_where_all_is_fixed_there_are_still_points_and_candidates():
    space = narrow(parse_space(SPACE), assignments=["n_layers=2", "learning_rate=0.01"])
    candidates = Candidates(space, lambda values: [], 0)
    found, points = candidates.spread(np.zeros((2, 0)), np.random.default_rng(0))
    assert points.shape == (len(found), 0) and len(found) > 0


def test_presets_that_are_the_same_are_trained_once_and_named():
    space = parse_space(SPACE + PRESETS)
    assert same_presets(space) == {"again": "guide"}
    run_all(study := new_study(SPACE + PRESETS))
    assert [record.preset for record in study.records.values()] == ["guide", "deep", "", ""]
    assert study.same_presets == {"again": "guide"}


@pytest.mark.parametrize(
    ("budget", "narrowed", "expected"),
    [
        ("set: {n_layers: 2}", {}, {"deep": "guide", "again": "guide"}),
        ("trials: 9", {"goals": ["shallow"]}, {"again": "guide"}),
        ("trials: 9", {"assignments": ["n_layers=1"]}, {"again": "guide"}),
    ],
    ids=["budget", "goal", "--set"],
)
def test_presets_can_become_the_same_by_what_narrows_a_space(budget: str, narrowed: dict[str, Any], expected: dict):
    text = SPACE + "presets: {guide: {n_layers: 1}, deep: {n_layers: 2}, again: {}}\n"
    text += f"goals: {{shallow: {{set: {{n_layers: 1}}}}}}\nbudgets: {{b: {{min_tokens: 1000, {budget}}}}}"
    space = parse_space(text)
    space = narrow(space, budget=space.budget("b"), **narrowed)
    study = Study.create(InMemoryStorage(), "study", study_settings(space))
    run_all(study)
    assert study.same_presets == expected
    assert [record.preset for record in study.records.values() if record.preset] == ["guide"]
    assert len(set(configurations(study))) == len(study.records) == 2


def test_a_study_extended_to_more_tokens_trains_what_only_then_may_be_launched():
    """Of 9,000 tokens fewer than 20 steps of 32 x 16 fit, of 27,000 more."""
    text = SPACE.replace("eta: 3}", "eta: 3, min_steps: 20}").replace(
        "  n_layers:", "  seq_len: {values: [8, 32], default: 8}\n  batch_size: {value: 16}\n  n_layers:"
    )
    storage = InMemoryStorage()
    run_all(study := new_study(text, storage=storage))
    assert len(study.records) == 4 == study.exhausted.configurations
    stored = optuna.load_study(study_name="study", storage=storage)
    longer = Study(stored, StudySettings.of(stored).extended(27_000))
    assert longer.exhausted is None and not Overview.of(longer).is_complete
    run_all(longer)
    assert len(set(configurations(longer))) == len(configurations(longer)) == 8
    assert longer.exhausted == Exhausted(8, is_exact=True) and Overview.of(longer).is_complete


MEMORY = SPACE.replace("parameters:", "limits: {peak_vram_bytes: {max: LIMIT}}\nparameters:").replace(
    "[1, 2]", "[1, 2, 4]"
)


@pytest.mark.parametrize(("ratio", "num_more"), [(0.3, 2), (1.0, 0), (1.05, 0)])
def test_what_measurements_let_be_launched_is_still_started(ratio: float, num_more: int):
    """The limit is just below what the deepest configurations are estimated to take."""
    space = parse_space(MEMORY.replace("LIMIT", "1 GiB"))
    feasibility = Feasibility.of(space, space.budget())
    deepest = space.complete({"n_layers": 4})
    peak = estimate(feasibility.train_config(deepest)).peak_vram_bytes
    study = new_study(MEMORY.replace("LIMIT", str(int(peak * 0.99))))
    while study.propose() is not None:
        pass  # all are running at once
    assert len(study.records) == 4 and study.exhausted == Exhausted(4, is_exact=True)
    for number, record in list(study.records.items()):
        while not record.has_ended:
            rung = next(rung for rung in study.rungs if rung > record.rung)
            peak = estimate(feasibility.train_config(record.values)).peak_vram_bytes
            measured = {**measurement(record.values, rung), "peak_vram_bytes": round(ratio * peak), "estimated": False}
            if not study.report(number, measured) and not record.has_ended:
                break
    assert study.has_more == (num_more > 0)
    run_all(study)
    assert len(set(configurations(study))) == len(study.records) == 4 + num_more
    assert study.exhausted == Exhausted(4 + num_more, is_exact=True) and Overview.of(study).is_complete


def test_a_space_too_large_to_list_ends_after_many_draws_and_says_that(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("search.strategy.sampling.MAX_RANDOM_DRAWS", 300)
    text = SPACE.replace("n_layers: {values: [1, 2], default: 1}", "context_factor: {min: 0.5, max: 1.5, default: 1.0}")
    space = parse_space(text)

    class Rounded(Feasibility):
        """Only two values of a continuous parameter may be launched, which nobody can know from the space."""

        def reasons_against(self, values):
            return [] if values["context_factor"] == 1.0 else ["it is not 1.0"]

    space = replace(space, presets=parse_space(text + "presets: {a: {}, b: {learning_rate: 0.01}}").presets)
    study = Study.create(
        InMemoryStorage(), "study", study_settings(space), feasibility=Rounded.of(space, space.budget())
    )
    run_all(study)
    assert len(study.records) == 2 and study.exhausted == Exhausted(2, is_exact=False)
    assert Overview.of(study).is_complete and "random draws gave no other" in exhausted_line(Overview.of(study))
    monkeypatch.setattr("search.strategy.sampling.random_values", lambda *_: pytest.fail("drawn again"))
    stored = optuna.load_study(study_name="study", storage=study.stored._storage)
    again = Study(stored, study.settings, feasibility=study.feasibility)
    assert again.propose() is None and again.exhausted == Exhausted(2, is_exact=False)


def test_where_nothing_at_all_may_be_launched_the_search_fails_with_the_reason():
    candidates = Candidates(parse_space(SPACE), lambda values: ["too large for this machine"], 0)
    with pytest.raises(NothingFeasible, match="too large for this machine"):
        candidates.random(np.random.default_rng(0))


def test_a_damaged_note_of_the_end_is_refused():
    study = new_study()
    study.stored.set_user_attr("exhausted", {"configurations": "four"})
    with pytest.raises(StudyError, match="'exhausted'"):
        reopened(study.stored._storage)


def test_a_few_that_rules_leave_of_millions_are_found_and_then_no_other():
    text = (
        SPACE.replace(
            "n_layers: {values: [1, 2], default: 1}",
            "n_layers: {min: 1, max: 400, default: 50}\n  d_state: {min: 1, max: 400, default: 50}\n"
            "  max_seq: {min: 1, max: 400, default: 50}\n  seq_len: {value: 16}",
        )
        + "rules: [{require: n_layers == d_state}, {require: d_state == max_seq}, {require: max_seq % 100 == 50}]"
    )
    study = new_study(text, trials=20)
    run_all(study)
    assert len(study.records) == 8 and study.exhausted == Exhausted(8, is_exact=True)


def test_steps_are_the_numbers_that_one_would_write_and_all_are_reached():
    text = SPACE.replace(
        "n_layers: {values: [1, 2], default: 1}", "context_factor: {min: 0.1, max: 0.7, step: 0.1, default: 0.3}"
    )
    study = new_study(text, trials=100)
    run_all(study)
    factors = sorted({record.values["context_factor"] for record in study.records.values()})
    assert factors == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7] and len(study.records) == 14


def test_one_and_one_point_zero_are_one_configuration_and_true_numbers_are_not():
    assert identity({"a": 1, "b": "x"}) == identity({"b": "x", "a": 1.0})
    assert identity({"a": 0.1 + 0.2}) == identity({"a": 0.3})
    assert identity({"a": 0.3}) != identity({"a": 0.3000001}) != identity({"a": 0.3, "b": 1})


def test_too_few_for_the_trials_is_said_before_the_search():
    study = new_study()
    study.propose()
    assert Overview.of(study).num_trials == 10
    assert study.count_launchable() == 4
    assert Overview.of(study).num_trials == 4 and not Overview.of(study).is_complete
    assert "only 4 configurations" in few_line(4, 10) and "only one configuration" in few_line(1, math.inf)
    assert few_line(10, 10) == few_line(None, 10) == ""
    assert new_study(trials=3).count_launchable() is None


def test_with_several_metrics_a_search_ends_too():
    study = new_study(SPACE.replace("budget:", "metrics: [loss, tokens_per_second]\nbudget:"))
    while (proposal := study.propose()) is not None:
        for rung in study.rungs:
            if rung > study.records[proposal.number].rung:
                speed = {"tokens_per_second": 100.0 / proposal.values["n_layers"]}
                if not study.report(proposal.number, {**measurement(proposal.values, rung), **speed}):
                    break
    assert len(set(configurations(study))) == len(study.records) == 4
    assert Overview.of(study).is_complete and study.exhausted == Exhausted(4, is_exact=True)


# At the command line.


def tinysearch(*arguments: str) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return " ".join(result.stdout.split())


def test_a_search_that_has_ended_so_says_the_same_at_once_whatever_more_is_asked_for(small_text: Path):
    space = parse_space(SPACE)
    folder = StudyFolder(Path("runs").absolute(), "mine")
    folder.path.mkdir(parents=True)
    corpus = read_text(space, [str(Path("text").absolute())], {}).to_settings()
    run = {"token_dtype": "uint16", "eval_tokens": 4000, "precision": "fp32"}
    made = replace(study_settings(space), corpus=corpus, run=run)
    run_all(Study.create(folder.open_storage(), "mine", made))
    for more in ([], ["--trials", "+5"], ["--until", "1h"]):
        out = tinysearch("resume", "mine", *more)
        assert "all 4 configurations that may be launched have been trained" in out
        assert "at a time" not in out  # no search was begun
    assert "4 of 4 trials" in tinysearch("status", "mine")
    assert json.loads(tinysearch("status", "mine", "--json"))["complete"]


def test_validate_says_how_few_configurations_there_are_and_which_presets_are_one(tmp_path: Path):
    (tmp_path / "s.yaml").write_text(SPACE + PRESETS)
    out = tinysearch("validate", tmp_path / "s.yaml")
    assert "only 4 configurations" in out and "'again' is the same configuration as 'guide'" in out
    fixed = ["--set", "n_layers=1", "--set", "learning_rate=0.001", "--json"]
    found = json.loads(tinysearch("validate", tmp_path / "s.yaml", *fixed))
    assert (found["configurations"], found["same_presets"]) == (1, {"again": "guide"})


# Any small space.

LINES = {
    "d_model": ["values: [16, 32], default: 16"],
    "n_layers": [
        "values: [1, 2, 3], default: 1",
        "min: 1, max: 3, default: 1",
        "min: 1, max: 8, log: true, default: 1",
    ],
    "attn_layer_idx": ["value: 0", "min: 0, max: n_layers - 1, default: 0"],
    "n_heads": ["values: [1, 2, 4], default: 2", "value: 2", "derive: d_model // 8"],
    "context_factor": ["value: 1", "min: 0.5, max: 1.1, step: 0.2, default: 0.7", "values: [0.5, 1], default: 0.5"],
    "base_decay": ["value: 0.1", "values: [0.05, 0.1], default: 0.1, when: n_layers > 1"],
}
RULES = [
    "d_model % n_heads == 0",
    "n_layers + attn_layer_idx <= 3",
    "d_model // n_heads >= 8",
    "n_layers != 2",
    "context_factor * n_layers < 2.5",
    "8 // (n_layers - 2) != 5",  # no value for 2
    "base_decay * n_layers < 0.2",
]
LIMITS = ["", "{num_params: {max: 8K}}", "{num_params: {min: 5K, max: 12K}}"]
NARROWED = [{}, {"goals": ["deeper"]}, {"assignments": ["n_layers=3"]}, {"assignments": ["d_model=32", "n_layers=1"]}]


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    """With lists, ranges, bounds, conditions, formulas, rules and limits, and narrowed as people do."""
    parameters = [f"  {name}: {{{draw(st.sampled_from(lines))}}}" for name, lines in LINES.items()]
    rules = draw(st.lists(st.sampled_from(RULES), unique=True, max_size=3))
    limits = draw(st.sampled_from(LIMITS))
    parts = [
        "family: hybrid\nbudget: {trials: 500, min_tokens: 1000, max_tokens: 3000, eta: 3}",
        f"limits: {limits}" if limits else "",
        "\n".join(["parameters:", "  vocab_size: {value: 64}\n  batch_size: {value: 4}", *parameters]),
        "\n".join(["rules:", *(f"  - {{require: {rule}}}" for rule in rules)]) if rules else "",
        "presets: {guide: {}, deep: {n_layers: 3}}" if draw(st.booleans()) and not rules else "",
        "goals: {deeper: {raise: [n_layers]}}",
    ]
    space = parse_space("\n".join(filter(None, parts)))
    return narrow(space, **draw(st.sampled_from(NARROWED)))


def all_launchable(space: Space) -> set[Any]:
    """By trying every combination of what Optuna gets."""
    feasibility = Feasibility.of(space, space.budget())
    levels = {}
    for name, known in distributions(space).items():
        if isinstance(known, CategoricalDistribution):
            levels[name] = list(known.choices)
        else:
            levels[name] = np.arange(known.low, known.high + known.step / 2, known.step).round(6).tolist()
    found = set()
    for chosen in itertools.product(*levels.values()):
        with contextlib.suppress(ExpressionError):
            values = space.complete(dict(zip(levels, chosen, strict=True)))
            if not feasibility.reasons_against(values):
                found.add(identity(values))
    return found


class AtRandom(Strategy):
    """In no time, from the same candidates."""

    def next(self, curves: Sequence[Curve], *, can_start: bool) -> Start | Continue | None:
        rng = np.random.default_rng([self._seed, len(curves), sum(len(curve.values) for curve in curves)])
        paused = [curve.number for curve in curves if curve.is_paused]
        if paused and (not can_start or rng.random() < 0.5):
            return Continue(int(rng.choice(paused)))
        return Start(self._candidates.random(rng)) if can_start else None


@pytest.mark.parametrize(
    ("strategy", "at_most", "num"), [(AtRandom, 100, 25), (Strategy, 10, 5)], ids=["quick", "real"]
)
def test_in_any_small_space_each_that_may_be_launched_is_trained_and_none_twice(
    strategy: type[Strategy], at_most: int, num: int
):
    @settings(max_examples=num, deadline=None, suppress_health_check=[*HealthCheck])
    @given(space=spaces(), workers=st.integers(1, 4), killed_after=st.integers(0, 20))
    def check(space: Space, workers: int, killed_after: int) -> None:
        expected = all_launchable(space)
        assume(0 < len(expected) <= at_most)
        feasibility = Feasibility.of(space, space.budget())
        assert {identity(v) for v in Listing.of(space, feasibility.reasons_against).configurations} == expected
        storage, made = InMemoryStorage(), study_settings(space)
        study = Study.create(storage, "study", made, strategy=strategy)
        for _ in range(killed_after):
            if (proposal := study.propose()) is not None:
                step(study, proposal.number)
        study = Study(optuna.load_study(study_name="study", storage=storage), made, strategy=strategy)
        run_all(study, workers=workers)
        assert len(set(configurations(study))) == len(configurations(study))
        assert set(configurations(study)) == expected
        assert Overview.of(study).is_complete and study.exhausted == Exhausted(len(expected), is_exact=True)

    check()
