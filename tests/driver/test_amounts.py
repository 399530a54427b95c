"""Numbers and times of the command line are checked where they are read, and mean what they mean in a space file."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from search.cli.main import app
from search.driver.amounts import MAX_SEED, check_seed, check_trials, number_of_tokens
from search.driver.deadline import seconds_until
from search.driver.options import OPTIONS, option_of
from search.space.loading import parse_space
from tests.support.paths import SMOKE
from trainer.config import ConfigError, TrainConfig

REFUSED = [
    (["--seed", str(2**64)], "--seed 18446744073709551616: give a whole number from 0 to 9223372036854775807"),
    (["--gpus-per-trial", "nan"], "--gpus-per-trial nan is not a valid number"),
    (["--gpus-per-trial", "inf"], "--gpus-per-trial inf is not a valid number"),
    (["--cpus-per-trial", "nan"], "--cpus-per-trial nan is not a valid number"),
    (["--cpus-per-trial", "0"], "--cpus-per-trial 0 is not a valid share of a core"),
    (["--hang-minutes", "nan"], "--hang-minutes nan: give 0.5 to"),
    (["--parallel", "0"], "--parallel 0: give at least 1"),
    (["--trials", "nan"], "--trials nan: give a number"),
    (["--trials", "1e30"], "--trials 1e30: give a number"),
    (["--trials", "1T"], "--trials 1T: give at most"),
    (["--trials-per-gpu", "0"], "--trials-per-gpu 0: give a number"),
    (["--max-tokens", "1.5"], "--max-tokens 1.5: give a token count"),
    (["--max-tokens", "inf"], "--max-tokens inf: give a token count"),
    (["--until", "nan"], "--until nan is not a time"),
    (["--storage-path", "here"], "--storage-path here: not a URL"),
]
COMMANDS = {"run": [str(SMOKE)], "submit": [str(SMOKE), "--to", "slurm"], "resume": []}


ALL_COMMANDS = typer.main.get_command(app).commands


def options_of(command: str) -> set[str]:
    return {flag for parameter in ALL_COMMANDS[command].params for flag in parameter.opts}


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [(c, words, message) for c in COMMANDS for words, message in REFUSED if words[0] in options_of(c)],
)
def test_what_can_mean_nothing_is_refused_before_anything_is_read(
    command: str, words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("search.driver.preparing.load_space", lambda path: pytest.fail("the space was read first"))
    result = CliRunner().invoke(app, [command, *COMMANDS[command], *words])
    assert result.exit_code == 2 and result.stderr.startswith(message), result.output
    assert len(result.stderr.splitlines()) == 1 and list(tmp_path.iterdir()) == []


def test_every_option_with_a_check_has_a_refusal_here():
    checked = {option_of(name).flag for name in OPTIONS if option_of(name).check}
    assert checked == {words[0] for words, _ in REFUSED}


@pytest.mark.parametrize("text", ["5K", "5000", "5e3", "5_000", "0.005M"])
def test_a_number_is_the_same_on_the_command_line_as_in_a_space(text: str):
    space = parse_space(
        f"family: hybrid\nbudget: {{trials: {text}, min_tokens: 1K, max_tokens: {text}}}\n"
        "parameters: {d_model: {value: 16}, n_layers: {value: 4}}\n"
    )
    budget = space.budget()
    assert number_of_tokens(text) == budget.max_tokens == 5000
    assert check_trials(text) == check_trials(f"+{text}") == budget.trials == 5000


def test_every_seed_that_is_taken_is_one_for_torch_and_for_confirm():
    check_seed(MAX_SEED)
    assert MAX_SEED + 10**6 < 2**64
    flat = {"d_model": 16, "n_layers": 4, "rungs": (100,)}
    TrainConfig.from_flat("hybrid", {**flat, "seed": 2**64 - 1})
    for seed in (2**64, -1):
        with pytest.raises(ConfigError, match="which is what torch takes"):
            TrainConfig.from_flat("hybrid", {**flat, "seed": seed})


@pytest.mark.parametrize(
    ("text", "hours"),
    [
        ("18:00Z", 6),
        ("18:00 Z", 6),
        ("18:00+02:00", 4),
        ("18:00-0530", 11.5),
        ("9:00+09:00", 12),
        ("2026-11-23T18:00Z", 6),
        ("2026-11-23 20:00+02:00", 6),
        ("8 h", 8),
        ("1h30m", 1.5),
        ("1 h 30 min", 1.5),
        ("1e3h", 1000),
        ("2 days", 48),
    ],
)
def test_a_deadline_may_have_a_zone_or_several_parts(text: str, hours: float, monkeypatch: pytest.MonkeyPatch):
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        assert seconds_until(text, datetime(2026, 11, 23, 12, 0)) == hours * 3600
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("words", [["b.yaml"], ["b.yaml", "--data", "text"], ["text"]])
def test_a_second_space_is_refused(words: list[str]):
    result = CliRunner().invoke(app, ["run", str(SMOKE), *words])
    assert result.exit_code == 2 and result.stderr.startswith(
        f"unexpected {words[0]!r}; one space is searched at a time"
    )
