"""The sampler and the stopping of a search: the command line's before the space's, and faults with their place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from search.driver.choosing import check_sampler, chosen, with_choice
from search.driver.options import RunOptions
from search.driver.preparing import prepare_space
from search.space.document import SpaceError
from search.space.loading import load_space
from search.space.spec import Named
from search.storage.folder import StudyError
from search.study.settings import StudySettings

SPACE = """family: hybrid
parameters:
  d_model: {values: [16, 32, 64], default: 32}
  learning_rate: {min: 1e-4, max: 1e-1, log: true, default: 1e-3}
"""
OWN = "import optuna\n\n\nclass Mine(optuna.samplers.RandomSampler):\n    pass\n"


def choice(folder: Path, search: str = "", **flags: str) -> tuple[Named, Named]:
    (folder / "space.yaml").write_text(SPACE + search)
    space = load_space(folder / "space.yaml")
    return chosen(RunOptions(space=folder / "space.yaml", **flags), space, space.budget())


def test_without_a_word_a_model_of_curves_does_both(tmp_path: Path):
    assert choice(tmp_path) == (Named("curves"), Named("curves"))


def test_the_command_line_comes_before_the_space(tmp_path: Path):
    search = "search: {sampler: {name: tpe, n_startup_trials: 8}, stopping: asha}\n"
    tpe = Named("tpe", {"n_startup_trials": 8})
    assert choice(tmp_path, search) == (tpe, Named("asha"))
    assert choice(tmp_path, search, stopping="none") == (tpe, Named("none"))
    assert choice(tmp_path, search, sampler="gp") == (Named("gp"), Named("asha"))
    assert choice(tmp_path, search, sampler="tpe") == (tpe, Named("asha"))  # the same name keeps its options


def test_a_fault_of_the_space_has_its_line_and_one_of_the_command_line_its_flag(tmp_path: Path):
    with pytest.raises(SpaceError, match=r"space.yaml:6: search.sampler.multivariat: unknown option of tpe"):
        choice(tmp_path, "search:\n  sampler: {name: tpe, multivariat: true}\n")
    with pytest.raises(SpaceError, match=r"space.yaml:5: search.stopping: unknown kind of early stopping 'ashaa'"):
        choice(tmp_path, "search: {stopping: ashaa}\n")
    with pytest.raises(ValueError, match="^--sampler tpee: unknown sampler 'tpee'"):
        choice(tmp_path, sampler="tpee")
    with pytest.raises(ValueError, match="^--stopping asha: nsga2 learns from finished trials alone"):
        choice(tmp_path, "search: {sampler: nsga2, stopping: none}\n", stopping="asha")


def test_a_choice_is_checked_with_the_metrics_that_are_asked_for(tmp_path: Path):
    (tmp_path / "space.yaml").write_text(SPACE + "search: {stopping: asha}\n")
    options = RunOptions(space=tmp_path / "space.yaml")
    prepare_space(options)
    with pytest.raises(SpaceError, match="asha ranks trials by one metric"):
        prepare_space(replace(options, metrics=("loss", "tokens_per_second")))


def test_the_file_of_ones_own_sampler_is_relative_to_the_space_or_to_the_folder_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "mine.py").write_text(OWN)
    monkeypatch.chdir(tmp_path / "else")
    assert choice(tmp_path, "search: {sampler: './mine.py:Mine'}\n")[0].name == f"{tmp_path}/mine.py:Mine"
    assert choice(tmp_path, sampler="./mine.py:Mine")[0].name == f"{tmp_path}/else/mine.py:Mine"


def test_a_study_opens_with_the_text_of_its_own_sampler_only(tmp_path: Path):
    (tmp_path / "mine.py").write_text(OWN)
    found = choice(tmp_path, sampler=f"{tmp_path}/mine.py:Mine")
    space = load_space(tmp_path / "space.yaml")
    settings = with_choice(StudySettings(space=space, budget=space.budget()), found)
    check_sampler(settings)
    (tmp_path / "mine.py").write_text("raise SystemExit  # it is not run\n")
    with pytest.raises(StudyError, match="mine.py is not the sampler that the study began with"):
        check_sampler(settings)
    (tmp_path / "mine.py").unlink()
    with pytest.raises(StudyError, match="the sampler of the study is gone: .*mine.py: no such file"):
        check_sampler(settings)
