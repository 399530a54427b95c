"""Metrics and limits that would not be measured, or not mean the same in all trials, are found before a search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from search.cli.main import app
from search.confirm.training import confirm_study
from search.driver.preparing import check_metrics
from search.space.loading import load_space, parse_space
from search.space.narrowing import narrow
from search.storage.folder import StudyError, StudyFolder
from search.study.comparable import has_text, incomparable, unmeasurable, vocabularies
from search.study.settings import StudySettings
from search.study.study import Study
from search.study.text import read_text
from search.study.verdict import StudyFailed
from search.worker.messages import DIVERGED, FAILED
from tests.support.paths import ROOT
from trainer.text.units import TextUnits

ROBO = ROOT / "spaces" / "robo.yaml"

pytestmark = pytest.mark.usefixtures("small_text")

TINY = """
family: transformer
budget: {trials: 2, min_tokens: 2K, max_tokens: 4K, eta: 2, eval_tokens: 2K}
budgets:
  one: {min_tokens: 2K, max_tokens: 4K, set: {vocab_size: 512}}
  capped: {min_tokens: 2K, max_tokens: 4K, limits: {loss: {max: 9}}}
parameters:
  vocab_size: {values: [512, 4096], default: 512}
  context_length: {value: 32}
  seq_len: {value: 32}
  n_layers: {values: [1, 2], default: 1}
  d_model: {values: [16, 32], default: 16}
  n_heads: {value: 2}
  learning_rate: {min: 1e-4, max: 1e-2, log: true, default: 1e-3}
goals:
  small: {lower: [vocab_size]}
presets:
  small: {vocab_size: 512}
  large: {vocab_size: 4096}
""".lstrip()
BYTES = TINY.replace("values: [512, 4096], default: 512", "value: 256").partition("goals:")[0].replace("512", "256")
BITS = "metric: {name: bits_per_byte, goal: minimize}\n"


def tinysearch(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def space_file(text: str) -> Path:
    Path("own.yaml").write_text(text)
    return Path("own.yaml")


def tokens_file() -> Path:
    np.random.default_rng(0).integers(0, 256, 20_000).astype(np.uint16).tofile("own.bin")
    return Path("own.bin")


def sizes(text: str, *, budget: str | None = None, **narrowed: list[str]) -> list[int]:
    space = parse_space(text)
    return vocabularies(narrow(space, budget=space.budget(budget), **narrowed), space.budget(budget))


def test_the_vocabularies_of_a_search_are_those_of_what_may_be_launched():
    assert sizes(TINY) == [512, 4096]
    assert sizes(BYTES) == [256]
    assert sizes(TINY, budget="one") == [512]
    assert sizes(TINY, goals=["small"]) == [512]
    assert sizes(TINY, assignments=["vocab_size=4096"]) == [4096]
    without = TINY.partition("goals:")[0].replace("  vocab_size: {values: [512, 4096], default: 512}\n", "")
    assert sizes(without.partition("budgets:")[0] + without[without.index("parameters:") :]) == [8192]


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("{derive: 256 * n_layers}", [256, 512]),
        ("{derive: 512 if learning_rate > 0.00999999 else 256}", [256, 512]),  # hardly ever drawn
        ("{value: 512, when: n_layers == 1}", [512, 8192]),  # the family's own where it is not there
        ("{min: 256, max: 260, default: 256}", [256, 257, 258, 259, 260]),
    ],
)
def test_a_vocabulary_that_hangs_on_what_is_searched_is_several(entry: str, expected: list[int]):
    space = TINY.partition("goals:")[0].replace("{values: [512, 4096], default: 512}", entry)
    assert sizes(space.replace(", set: {vocab_size: 512}", "")) == expected


def test_a_vocabulary_that_a_rule_or_a_limit_excludes_is_not_counted():
    small = TINY.partition("presets:")[0]
    assert sizes(small + "rules: [{require: vocab_size < 4096}]\n") == [512]
    assert sizes(small + "limits: {num_params: {max: 50K}}\n") == [512]


def test_run_refuses_loss_over_several_vocabularies_and_says_what_to_write():
    code, _, message = tinysearch("run", space_file(TINY), "--data", "text")
    assert code == 2 and not Path("runs").exists()
    assert message.startswith("own.yaml:1: metric: loss is counted in nats per token")
    assert "vocab_size may be 512 or 4096" in message
    assert "Write metric: {name: bits_per_byte, goal: minimize}, or give --metrics bits_per_byte" in message
    several = space_file(TINY + "metrics: [loss, num_params]\n")
    line = TINY.count("\n") + 1
    message = tinysearch("run", several, "--data", "text")[2]
    assert message.startswith(f"own.yaml:{line}: metrics: loss") and "metrics: [bits_per_byte, num_params]" in message
    message = tinysearch("run", space_file(BITS + TINY), "--metrics", "num_params,loss", "--data", "text")[2]
    assert message.startswith("--metrics num_params,loss: loss") and "--metrics num_params,bits_per_byte" in message


def test_a_limit_on_loss_over_several_vocabularies_is_refused_where_it_stands():
    limited = space_file(BITS + TINY + "limits: {loss: {max: 5}}\n")
    code, _, message = tinysearch("run", limited, "--data", "text")
    assert code == 2 and f"own.yaml:{TINY.count(chr(10)) + 2}: limits.loss: loss is counted" in message
    assert "Limit bits_per_byte instead" in message
    message = tinysearch("run", space_file(BITS + TINY), "--data", "text", "--budget", "capped")[2]
    assert "own.yaml:6: budgets.capped.limits.loss" in message


def test_submit_refuses_what_run_would_refuse():
    code, _, message = tinysearch("submit", space_file(TINY), "--to", "slurm", "--dry-run", "--data", "text")
    assert code == 2 and "bits_per_byte" in message


def test_validate_warns_that_loss_does_not_compare():
    code, out, _ = tinysearch("validate", space_file(TINY))
    assert code == 0 and "warning: run refuses this for text: own.yaml:1: metric" in out and "bits_per_byte" in out
    assert "warning" not in tinysearch("validate", space_file(BITS + TINY))[1]
    assert "warning" in tinysearch("validate", space_file(BITS + TINY), "--metrics", "loss")[1]
    space_file(TINY)
    assert "warning" not in tinysearch("validate", space_file(TINY), "--budget", "one")[1]
    assert "warning" not in tinysearch("validate", space_file(TINY), "--goal", "small")[1]


def test_what_compares_is_not_refused():
    for text, data in ((BITS + TINY, "text"), (BYTES, "text"), (TINY, tokens_file())):  # tokens are the same for all
        space = parse_space(text)
        assert check_metrics(space, space.budget(), [Path(data)], is_begun=False) == [], text


def a_study(text: str, data: str, *, name: str = "old") -> Study:
    """A study that was begun although its metric or its text says that it should not be: nobody looked."""
    space = load_space(space_file(text))
    corpus = read_text(space, [str(Path(data).absolute())], {}).to_settings()
    run = {"token_dtype": "uint16", "eval_tokens": 2000, "precision": "fp32"}
    if (units := TextUnits.of(corpus)) is not None:
        run["eval_bytes"] = units.bytes_in(2000)
    settings = StudySettings(space=space, budget=space.budget(), run=run, corpus=corpus)
    folder = StudyFolder(Path("runs").absolute(), name)
    folder.path.mkdir(parents=True)
    return Study.create(folder.open_storage(), name, settings)


def test_an_existing_study_resumes_with_a_warning():
    study = a_study(TINY.replace("4096", "300").replace("512", "280"), "text")
    while (proposal := study.propose()) is not None:
        while study.report(
            proposal.number, {"tokens": study.rungs[len(study.records[proposal.number].measurements)], "loss": 3.0}
        ):
            pass
    for command in (("run", "own.yaml", "--name", "old", "--data", "text"), ("resume", "old")):
        code, out, err = tinysearch(*command)
        assert code == 0, err
        assert "warning: own.yaml:1: metric: loss is counted in nats per token" in out and "2 of 2 trials" in out


def test_bits_per_byte_of_tokens_is_refused_before_anything_is_written():
    bits, data = space_file(BITS + BYTES), tokens_file()
    code, _, message = tinysearch("run", bits, "--data", data)
    assert code == 2 and message.startswith(
        "own.yaml:1: metric: bits_per_byte needs text, and own.bin has tokens alone"
    )
    assert "--metrics loss" in message
    message = tinysearch("run", space_file(BYTES), "--data", data, "--metrics", "loss,bits_per_byte,num_params")[2]
    assert message.startswith("--metrics loss,bits_per_byte,num_params: bits_per_byte needs text")
    assert message.endswith("give --metrics loss,num_params")
    message = tinysearch("run", space_file(BYTES + "limits: {bits_per_byte: {max: 2}}\n"), "--data", data)[2]
    assert "limits.bits_per_byte" in message and "Limit loss instead" in message
    code, _, message = tinysearch("run", ROBO, "--budget", "quick", "--set", "vocab_size=8192", "--data", data)
    assert code == 2 and "robo.yaml:10: metric: bits_per_byte needs text" in message
    assert tinysearch("submit", bits, "--to", "slurm", "--dry-run", "--data", data)[0] == 2
    assert not Path("runs").exists()


def test_a_study_of_what_cannot_be_measured_does_not_resume():
    tokens_file()
    a_study(BITS + BYTES, "own.bin")
    code, _, message = tinysearch("resume", "old")
    assert code == 2 and "bits_per_byte needs text" in message
    with pytest.raises(StudyError, match="bits_per_byte needs text"):
        confirm_study(StudyFolder(Path("runs").absolute(), "old"), top=1, num_seeds=1, console=None)


def test_text_that_is_elsewhere_is_known_by_its_name():
    assert not has_text([Path("/elsewhere/a.bin"), Path("/elsewhere/b.bin")])
    assert has_text([Path("/elsewhere/texts")]) and has_text([])
    space = parse_space(BITS + BYTES)
    assert unmeasurable(space, space.budget(), [Path("/elsewhere/a.bin")])
    assert incomparable(space, space.budget(), [Path("/elsewhere/a.bin")]) == []


def test_a_measurement_that_is_missing_is_a_failure_and_no_divergence():
    study = a_study(BITS + BYTES, "text")
    for _ in range(2):
        number = study.propose().number
        assert not study.report(number, {"tokens": study.rungs[0], "loss": 2.0, "bits_per_byte": None})
        record = study.records[number]
        assert (record.outcome, record.reason) == (FAILED, "bits_per_byte was not measured at 2,000 tokens")
    study.num_trials = 3
    with pytest.raises(StudyFailed, match="3 trials in a row failed; the last: bits_per_byte was not measured"):
        study.report(study.propose().number, {"tokens": study.rungs[0], "loss": 2.0})


def test_a_loss_that_is_no_number_is_a_divergence():
    study = a_study(BYTES, "text")
    number = study.propose().number
    study.report(number, {"tokens": study.rungs[0], "loss": float("nan")})
    assert (study.records[number].outcome, study.records[number].reason) == (DIVERGED, "loss is nan at 2,000 tokens")
