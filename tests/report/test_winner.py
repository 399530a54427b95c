"""The winner for reuse: a configuration for a longer training, its tokenizer, and what reports say about it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from search.cli.preset import preset_config
from search.driver.options import RunOptions
from search.report.overview import Overview
from search.report.sentences import comparison_line, counts_line
from search.space.loading import load_space, parse_space
from search.storage.folder import StudyFolder
from search.study.settings import StudySettings
from search.study.study import Study
from search.study.text import read_text
from tests.support.paths import SPACES
from tests.support.tool import tinysearch
from trainer.checks import counted
from trainer.config import TrainConfig

SPACE = """
family: transformer
budget: {trials: 2, min_tokens: 2K, max_tokens: 8K, eta: 2, eval_tokens: 1K}
parameters:
  vocab_size: {value: VOCAB}
  n_layers: {value: 1}
  d_model: {value: 16}
  n_heads: {value: 2}
  seq_len: {value: 32}
  learning_rate: {min: 1e-4, max: 1e-2, log: true, default: 1e-3}
presets:
  base: {learning_rate: 1e-3}
"""

pytestmark = pytest.mark.usefixtures("small_text")


def make_study(*, vocab_size: int = 256, data: str = "text", head: str = "", trials: int = 2) -> Study:
    """A study whose reference alone has finished so far."""
    space = parse_space(head + SPACE.replace("VOCAB", str(vocab_size)))
    settings = StudySettings(
        space=space,
        budget=space.budget(),
        run={"token_dtype": "uint16", "eval_tokens": 1000, "precision": "fp32"},
        corpus=read_text(space, [str(Path(data).absolute())], {}).to_settings(),
    )
    place = StudyFolder(Path("runs").absolute(), "mine")
    place.path.mkdir(parents=True)
    study = Study.create(place.open_storage(), "mine", settings, trials=trials)
    finish(study, study.propose().number, 3.0)
    return study


def finish(study: Study, number: int, loss: float) -> None:
    study._environment = {}
    for rung in study.rungs:
        study.report(number, {"tokens": rung, "loss": loss, "environment": {"num_threads": 1}})


def test_the_configuration_has_no_threads_of_the_search_and_as_many_tokens_as_are_asked_for():
    make_study()
    given = json.loads(tinysearch("best", "mine", "--format", "train")[1])
    assert "num_threads" not in given and given["rungs"][-1] == 8000
    for text, tokens in (("27M", 27_000_000), ("1e6", 1_000_000), ("1K", 1000)):
        code, out, err = tinysearch("best", "mine", "--format", "train", "--max-tokens", text)
        assert code == 0, err
        config = TrainConfig.from_dict(json.loads(out))
        assert config.budget_tokens == tokens and config.learning_rate == given["learning_rate"]
    assert "give --format train" in tinysearch("best", "mine", "--max-tokens", "27M")[2]


def test_the_tokenizer_is_written_where_it_is_wanted():
    make_study(vocab_size=300)
    code, out, err = tinysearch("best", "mine", "--format", "train", "--tokenizer", "mine.json")
    assert code == 0 and "mine.json: the tokenizer of trial 0, 300 tokens" in err and json.loads(out)
    assert Tokenizer.from_file("mine.json").get_vocab_size() <= 300
    assert tinysearch("best", "mine", "--tokenizer", "mine.json")[0] == 0  # the same again
    Path("other.json").write_text("mine")
    code, _, err = tinysearch("best", "mine", "--tokenizer", "other.json")
    assert code == 2 and "there is another file" in err and Path("other.json").read_text() == "mine"
    shutil.rmtree("cache")
    assert tinysearch("best", "mine", "--tokenizer", "again.json")[0] == 0  # made again from the text
    assert Path("again.json").read_bytes() == Path("mine.json").read_bytes()
    Path("text/0.txt").write_text("Another text altogether. " * 500)
    code, _, err = tinysearch("best", "mine", "--tokenizer", "third.json")
    assert code == 2 and "the text has changed" in err and not Path("third.json").exists()


def test_bytes_and_token_files_have_no_tokenizer():
    make_study()
    code, _, err = tinysearch("best", "mine", "--tokenizer", "mine.json")
    assert code == 2 and "reads bytes" in err and not Path("mine.json").exists()
    shutil.rmtree("runs")
    Path("ids.bin").write_bytes(bytes(range(1, 200)) * 400)
    make_study(vocab_size=60_000, data="ids.bin")
    code, _, err = tinysearch("best", "mine", "--tokenizer", "mine.json")
    assert code == 2 and "token files" in err and not Path("mine.json").exists()


def test_nothing_is_said_of_the_reference_before_another_has_finished():
    study = make_study()
    line = comparison_line(Overview.of(study))
    assert "best: trial 0 (your 'base')" in line and line.endswith("no other trial has finished yet")
    finish(study, study.propose().number, 4.0)
    assert comparison_line(Overview.of(study)).endswith("nothing found beats your reference")


@pytest.mark.parametrize("head", ["guide: Mine\n", "source: a paper\n"])
def test_a_guide_is_spoken_of_where_there_is_one(head: str):
    study = make_study(head=head)
    finish(study, study.propose().number, 4.0)
    assert study.settings.space.has_guide
    assert comparison_line(Overview.of(study)).endswith("nothing found beats the guide's own configuration")
    assert not load_space(SPACES / "smoke.yaml").has_guide and load_space(SPACES / "hybrid.yaml").has_guide


def test_one_is_not_several():
    assert (counted(1, "trial"), counted(0, "trial"), counted(1234, "trial")) == ("1 trial", "0 trials", "1,234 trials")
    assert counts_line({"finished": 1}, 1) == "1 of 1 trial: 1 finished"
    make_study(trials=1)
    for command in (["status", "mine"], ["trials", "mine"], ["validate", SPACES / "smoke.yaml"]):
        out = tinysearch(*command)[1]
        for noun in ("trials", "rules", "files", "parameters", "configurations", "columns"):
            assert f" 1 {noun}" not in f" {out.replace(chr(10), ' ')}"


def test_a_preset_of_a_file_is_found_where_the_file_is(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("of mine")
    Path(folder, "my.yaml").write_text(SPACE.replace("VOCAB", "256"))
    assert preset_config(f"{folder}/my.yaml/base", RunOptions(space=None, data=(Path("text"),))).budget_tokens == 8000
    code, _, err = tinysearch("train", "--preset", f"{folder}/my.yaml/other")
    assert code == 2 and "unknown preset 'other'. Known: base." in err
    code, _, err = tinysearch("train", "--preset", "nowhere/my.yaml/base")
    assert code == 2 and "nowhere/my.yaml: no such file" in err


def test_the_version_is_printed():
    assert tinysearch("--version")[:2] == (0, "tinysearch 0.1.0\n")
