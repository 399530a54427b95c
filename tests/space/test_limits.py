"""Limits on the command line, what they leave of the presets, and what a search is then compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from typer.testing import CliRunner

from search.cli.main import app
from search.driver.options import RunOptions
from search.driver.preparing import prepare_space
from search.report.overview import Overview
from search.space.document import SpaceError
from search.space.drawing import random_values
from search.space.loading import load_space, parse_space
from search.space.narrowing import limited, narrow
from search.space.space import SHRUNK
from search.storage.folder import StudyError
from search.strategy.feasibility import Feasibility, assess
from search.strategy.reference import nearest, referenced
from search.study.settings import StudySettings
from search.study.study import Study
from tests.support.paths import SMOKE

SPACE = """
family: hybrid
budget: {trials: 6, min_tokens: 1K, max_tokens: 9K, eta: 3}
parameters:
  d_model: {values: [16, 32, 48, 64], default: 32}
  n_layers: {min: 2, max: 8, default: 4}
  n_heads: {values: [1, 2, 3, 4], default: 2}
  attn_layer_idx: {min: 0, max: n_layers - 1, default: 1}
  seq_len: {min: 8, max: 60, step: 4, default: 16}
  learning_rate: {min: 1e-4, max: 1e-2, log: true, default: 1e-3}
rules:
  - {require: d_model % n_heads == 0, why: heads split evenly}
presets:
  large: {d_model: 64, n_layers: 8, n_heads: 4, learning_rate: 0.003}
  middle: {d_model: 48, n_layers: 6, n_heads: 3}
"""


def tinysearch(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    return result.exit_code, " ".join(result.stdout.split()), " ".join(result.stderr.split())


def space_file(tmp_path: Path, text: str = SPACE) -> Path:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    return path


def limits_of(*texts: str, space: str = SPACE) -> dict[str, tuple[float | None, float | None]]:
    parsed = parse_space(space)
    limits = parsed.limits(limited(parsed, parsed.budget(), texts))
    return {name: (limit.min, limit.max) for name, limit in limits.items()}


@pytest.mark.parametrize(
    ("text", "name", "ends"),
    [
        ("num_params=2M", "num_params", (None, 2_000_000)),
        ("num_params = 2m", "num_params", (None, 2_000_000)),
        ("num_params<=1e6", "num_params", (None, 1_000_000)),
        ("num_params=1M..2M", "num_params", (1_000_000, 2_000_000)),
        ("num_params=..2M", "num_params", (None, 2_000_000)),
        ("peak_vram_bytes=8 GiB", "peak_vram_bytes", (None, 8 * 2**30)),
        ("peak_vram_bytes=8gib", "peak_vram_bytes", (None, 8 * 2**30)),
        ("tokens_per_second=1000..", "tokens_per_second", (1000, None)),
        ("tokens_per_second>=1K", "tokens_per_second", (1000, None)),
        ("tokens_per_second<=5K", "tokens_per_second", (None, 5000)),
        ("bits_per_byte=1.5", "bits_per_byte", (None, 1.5)),
    ],
)
def test_a_limit_is_a_largest_value_or_a_range(text: str, name: str, ends: tuple[float | None, float | None]):
    assert limits_of(text) == {name: ends}


def test_of_several_limits_the_tighter_holds():
    limited_space = SPACE + "limits: {num_params: {max: 50K}}\n"
    assert limits_of("num_params=2M", space=limited_space)["num_params"] == (None, 50_000)
    assert limits_of("num_params=20K", space=limited_space)["num_params"] == (None, 20_000)
    assert limits_of("num_params=20K", "num_params=10K..") == {"num_params": (10_000, 20_000)}
    with pytest.raises(ValueError, match="no num_params is left: at least 60000, at most 50000"):
        limits_of("num_params=60K..", space=limited_space)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("num_params", "write NAME=MAX"),
        ("tokens_per_second", "quote < and > for the shell"),  # what is left of tokens_per_second>=1000
        ("num_params=", "write NAME=MAX"),
        ("=3", "write NAME=MAX"),
        ("num_params<3", "write NAME=MAX"),
        ("params=3", "Did you mean 'num_params'?"),
        ("vram=3", "Did you mean 'peak_vram_bytes'?"),
        ("num_params=many", "got 'many'"),
        ("num_params=1e999", "got '1e999'"),
        ("num_params=5..3", "no num_params is left"),
        ("num_params=..", "give a smallest value"),
        ("tokens_per_second=1000", "write tokens_per_second=1000.."),
    ],
)
def test_a_mistaken_limit_says_what_to_write(tmp_path: Path, text: str, words: str):
    code, _, message = tinysearch("validate", space_file(tmp_path), "--limit", text)
    assert code == 2 and message.startswith(f"--limit {text}: ") and words in message


def test_validate_names_each_preset_that_may_not_be_launched_and_why(tmp_path: Path):
    code, out, _ = tinysearch("validate", space_file(tmp_path), "--limit", "num_params=55K")
    assert code == 0 and "not launched: 'large': num_params above 55000: " in out and "'middle':" not in out
    assert "your 'large' may not be launched; 'middle' takes its place as the reference" in out
    out = tinysearch("validate", space_file(tmp_path), "--set", "d_model=64")[1]
    assert "not launched: 'middle': d_model: 48 is not 64, to which it is fixed" in out


def test_validate_shows_the_reference_that_is_shrunk_if_no_preset_fits(tmp_path: Path):
    out = tinysearch("validate", space_file(tmp_path), "--limit", "num_params=15K")[1]
    assert "none of your 2 presets may be launched, so your reference is missing" in out
    assert "'large' shrunk to fit takes its place, with" in out and "instead of 64" in out
    guided = space_file(tmp_path, SPACE + "guide: Notes\n")
    assert "none of the guide's 2 presets" in tinysearch("validate", guided, "--limit", "num_params=15K")[1]
    assert "warning" not in tinysearch("validate", space_file(tmp_path))[1]


def test_a_limit_is_blamed_for_what_it_rejects_also_where_rules_are_broken(tmp_path: Path):
    """Rules come first in the test of a proposal, and hid how few configurations a limit leaves."""
    text = SPACE.replace("n_heads: {values: [1, 2, 3, 4]", "n_heads: {values: [1, 2, 3, 4, 5, 6, 7, 9]")
    space = parse_space(text + "limits: {num_params: {max: 12K}}\n")
    found = assess(space, space.budget(), num_samples=500)
    assert next(iter(found.reasons)) == "num_params above 12000" and found.rate("num_params above 12000") > 0.9
    assert "most are rejected for num_params above 12000 (9" in found.warning
    rng, num_over, num_built = np.random.default_rng(0), 0, 0
    feasibility = Feasibility.of(space, space.budget())
    for _ in range(500):
        reasons, is_built = feasibility.examined(random_values(space, rng))
        num_over += "num_params above 12000" in reasons
        num_built += is_built
    assert (found.reasons["num_params above 12000"], found.asked["num_params above 12000"]) == (num_over, num_built)
    with pytest.raises(SpaceError, match=r"can be launched: num_params above 1000 \("):
        assess(parse_space(text + "limits: {num_params: {max: 1K}}\n"), space.budget(), num_samples=200)


def test_a_rule_that_a_preset_satisfies_is_not_blamed_for_what_a_limit_rejects():
    rare = SPACE.replace("presets:", "  - {require: learning_rate == 0.003 or learning_rate == 1e-3}\npresets:")
    space = parse_space(rare + "limits: {num_params: {max: 1K}}\n")
    with pytest.raises(SpaceError) as error:
        assess(space, space.budget(), num_samples=100)
    assert "no configuration satisfies" not in str(error.value) and "num_params above 1000" in str(error.value)


def test_all_reasons_agree_with_those_against_a_proposal():
    space = parse_space(SPACE + "limits: {num_params: {max: 30K}}\n")
    feasibility = Feasibility.of(space, space.budget())
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = random_values(space, rng)
        against, every = feasibility.reasons_against(values), feasibility.all_reasons(values)
        assert bool(against) == bool(every) and set(against) <= set(every)


def test_the_shrunk_reference_differs_from_the_preset_in_what_must_differ_alone():
    space = parse_space(SPACE)
    budget = limited(space, space.budget(), ["num_params=15K"])
    led, note = referenced(space, budget)
    assert list(led.presets) == [SHRUNK, "large", "middle"]
    values, large = led.complete(led.reference.values), space.complete(space.reference.values)
    assert Feasibility.of(space, budget).reasons_against(values) == []
    assert values["learning_rate"] == 0.003 and values["seq_len"] == large["seq_len"]
    assert values["d_model"] < 64 or values["n_layers"] < 8
    changed = {name for name in values if values[name] != large[name]}
    for name in changed:  # nothing was changed that could stay
        back = space.complete({**led.reference.values, name: large[name]})
        assert Feasibility.of(space, budget).reasons_against(back), name
        assert f"{name} {values[name]} instead of {large[name]}" in note


def test_a_preset_that_set_alone_excludes_keeps_all_else():
    space = narrow(parse_space(SPACE), assignments=["n_layers=7"])
    led, note = referenced(space, space.budget())
    assert led.complete(led.reference.values) == {**space.complete({}), **space.reference.values, "n_layers": 7}
    assert note.endswith("with n_layers 7 instead of 8")


def test_without_presets_and_with_those_that_fit_nothing_is_said():
    for text in (SPACE, SPACE.partition("presets:")[0]):
        space = parse_space(text)
        assert referenced(space, space.budget()) == (space, "")


@settings(max_examples=6, deadline=None)
@given(st.integers(4, 60), st.integers(20, 400), st.sampled_from(["[16, 32, 48, 64]", "[32, 64]", "[24, 48]"]))
def test_where_anything_may_be_launched_a_reference_is_found(thousands: int, mib: int, widths: str):
    text = SPACE.partition("presets:")[0].replace("[16, 32, 48, 64], default: 32", f"{widths}, default: 48")
    text = text.replace("default: 48", "default: 64" if widths == "[32, 64]" else "default: 48")
    limits = f"limits: {{num_params: {{max: {thousands}K}}, peak_vram_bytes: {{max: {mib} MiB}}}}\n"
    space = parse_space(text + limits + "presets: {only: {n_layers: 8, seq_len: 60}}\n")
    feasibility = Feasibility.of(space, space.budget())
    rng = np.random.default_rng(1)
    exists = any(not feasibility.reasons_against(random_values(space, rng)) for _ in range(300))
    found = nearest(space, feasibility, space.complete(space.reference.values))
    assert found is not None or not exists
    assert found is None or (feasibility.reasons_against(found) == [] and space.faults_of(found) == [])


def study_settings(limits: tuple[str, ...]) -> StudySettings:
    space, budget, _ = prepare_space(RunOptions(space=SMOKE, limits=limits))
    return StudySettings(space=space, budget=budget, corpus={"digest": "d", "about": "text", "paths": []})


def trained(study: Study) -> None:
    while (proposal := study.propose()) is not None:
        for rung in study.rungs:
            loss = 3.0 - proposal.values["learning_rate"] - rung / 1e6
            if not study.report(proposal.number, {"tokens": rung, "loss": loss, "num_params": 5}):
                break


def test_a_study_remembers_its_limits_and_trains_the_shrunk_reference_to_the_end():
    storage = InMemoryStorage()
    study = Study.create(storage, "study", study_settings(("num_params=10K",)))
    assert study.reference_name == SHRUNK and "default" in study.skipped_presets
    trained(study)
    stored = optuna.load_study(study_name="study", storage=storage)
    settings = StudySettings.of(stored)
    assert settings.space.limits(settings.budget)["num_params"].max == 10_000
    assert settings.space.reference == study.space.reference
    overview = Overview.stored(stored, is_run=False)
    assert overview.reference.preset == SHRUNK and overview.reference.outcome == "finished"
    assert settings.differences(study_settings(("num_params=10K",))) == []
    (change,) = settings.differences(study_settings(()))
    assert change == "budget limits: num_params=10000 before, none now"


def test_a_study_from_before_there_were_shrunk_references_has_none():
    storage = InMemoryStorage()
    Study.create(storage, "study", study_settings(("num_params=10K",)))
    stored = optuna.load_study(study_name="study", storage=storage)
    stored.set_user_attr("reference", {})
    assert Study(stored, StudySettings.of(stored)).reference_name == ""


@pytest.mark.parametrize(
    "reference", [{"preset": 5}, {"preset": "gone"}, {"preset": "x", "values": {"q": 1}}, {"x": 1}, [],
                  {"preset": "x", "values": {"d_model": "wide"}}]
)  # fmt: skip
def test_an_invalid_reference_is_refused(reference: object):
    storage = InMemoryStorage()
    Study.create(storage, "study", study_settings(()))
    stored = optuna.load_study(study_name="study", storage=storage)
    stored.set_user_attr("reference", reference)
    with pytest.raises(StudyError, match="its attribute 'reference'"):
        StudySettings.of(stored)


def test_shipped_guides_have_a_reference_under_a_tight_limit():
    space = load_space(SMOKE.parent / "hybrid.yaml")
    budget = limited(space, space.budget("quick"), ["num_params=12K"])
    led, note = referenced(narrow(space, budget=budget), budget)
    assert led.reference.name == SHRUNK and "none of the guide's 5 presets" in note
