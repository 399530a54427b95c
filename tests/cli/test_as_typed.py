"""Whatever a person typed is printed as typed: no markup, no emoji, no control character that a terminal would obey."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest

from search.cli.command import make_console
from search.cli.console import PlainConsole
from search.cli.words import fault_of
from search.report.display import Display
from search.report.overview import Overview
from search.space.loading import load_space
from search.storage.folder import StudyFolder
from search.study.settings import StudySettings
from search.study.study import Study
from search.worker.messages import Event
from tests.support.paths import ROOT
from tests.support.tool import tinysearch
from trainer.checks import printable
from trainer.data import open_corpus

SMOKE = ROOT / "spaces" / "smoke.yaml"
ODD = ["[draft] notes", "x[/b]", ":smile:", "[bold]", "a\\[b", "[link=http:x]y", "1,000 True None"]

pytestmark = pytest.mark.usefixtures("small_text")


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> PlainConsole:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = make_console()
    console.file, console.width = io.StringIO(), 200
    assert console.is_terminal
    return console


def make_study(preset: str) -> Study:
    """A study that has trained the preset of this name, in the folder `[draft] notes`."""
    quoted = preset.replace("\\", "\\\\").replace("\x1b", "\\e").replace("\n", "\\n")
    Path("space.yaml").write_text(SMOKE.read_text().partition("presets:")[0] + f'presets:\n  "{quoted}": {{}}\n')
    parsed, text = load_space(Path("space.yaml")), str(Path("text").absolute())
    settings = StudySettings(
        space=parsed,
        budget=parsed.budget(),
        run={"token_dtype": "uint16", "eval_tokens": 4000, "precision": "fp32"},
        corpus={"paths": [text], "digest": open_corpus([text], vocab_size=256).digest, "about": "text"},
    )
    place = StudyFolder(Path("[draft] notes").absolute(), "mine")
    place.path.mkdir(parents=True)
    study = Study.create(place.open_storage(), "mine", settings, trials=3)
    while (proposal := study.propose()) is not None:
        for rung in study.rungs:
            if not study.report(proposal.number, {"tokens": rung, "loss": 3.0 + proposal.number}):
                break
    return study


@pytest.mark.parametrize("name", ODD)
def test_the_name_of_a_preset_is_shown_as_it_is_everywhere(name: str, monkeypatch: pytest.MonkeyPatch):
    study = make_study(name)
    study._study.set_user_attr("faults", [f"a fault of {name}"])
    for command in ("status", "trials"):
        code, out, err = tinysearch(command, "mine", "--runs", "[draft] notes")
        assert code == 0 and f"finished ({name})" in out and f"a fault of {name}" in out, err
    assert f"presets {name};" in tinysearch("validate", "space.yaml")[1]
    console = on_a_terminal(monkeypatch)
    with Display(lambda: Overview.of(study), console=console) as display:
        display.on_event(Event.ENDED, study.records[0])
    shown = console.file.getvalue()
    assert f"finished ({name})" in shown and repr(name) in shown


def test_what_would_command_a_terminal_is_shown_by_its_escape(monkeypatch: pytest.MonkeyPatch):
    study = make_study("red\x1b[31m\nline")
    console = on_a_terminal(monkeypatch)
    with Display(lambda: Overview.of(study), console=console):
        pass
    for shown in (console.file.getvalue(), tinysearch("trials", "mine", "--runs", "[draft] notes")[1]):
        assert "\x1b[31m" not in shown.replace("\x1b[31mline", "")
        assert "red\\x1b[31m\\nline" in shown


def test_an_error_shows_what_was_typed_in_one_line():
    for folder in (*ODD, "a\nb", "a\x1b[2Jb", "a\rb", "a\u202eb"):
        code, _, err = tinysearch("status", "mine", "--runs", f"none/{folder}")
        assert code == 2 and len(err.splitlines()) == 1
        assert f"none/{printable(folder)}" in err and printable(err.strip()) == err.strip()
    for words in (["run", "--fo\x1bo"], ["run", SMOKE, "extra\x1b[2J"], ["ru\x1bn"]):
        code, _, err = tinysearch(*words)
        assert code == 2 and "\x1b" not in err and "\\x1b" in err


@pytest.mark.parametrize("folder", [*ODD, "tab\tand\x1b"])
def test_paths_are_shown_as_they_are(folder: str):
    Path(folder).mkdir(parents=True)
    Path(folder, "space.yaml").write_text(SMOKE.read_text())
    assert f"{printable(folder)}/space.yaml is valid" in tinysearch("validate", f"{folder}/space.yaml")[1]


def test_a_line_is_not_cut_in_a_pipe(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "40")
    folder = "long name/" * 30
    Path(folder).mkdir(parents=True)
    Path(folder, "space.yaml").write_text(SMOKE.read_text())
    assert f"{folder}space.yaml is valid" in tinysearch("validate", f"{folder}space.yaml")[1]


def test_only_one_function_makes_a_console_and_nothing_turns_markup_on():
    makers = set()
    for file in sorted((ROOT / "search").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                makers |= {file.stem} if name in ("Console", "PlainConsole") else set()
                given = {keyword.arg for keyword in node.keywords} & {"markup", "emoji", "highlight"}
                assert not given or file.stem == "console", f"{file.name}:{node.lineno} says {given}"
                assert name not in ("from_markup", "render_markup", "secho", "rprint"), f"{file.name}:{node.lineno}"
                if name == "Status":  # rich takes its text for markup, whatever the console does
                    assert not isinstance(node.args[0], ast.Constant | ast.JoinedStr | ast.Name)
    assert makers == {"command"}


@pytest.mark.parametrize("words", [["--name", ""], ["--name="], ["--name", " "], ["--set="], ["--data", ""]])
def test_an_empty_value_is_refused_with_its_option(words: list[str]):
    fault = fault_of(["run", "space.yaml", *words])
    assert fault.startswith(words[0].rstrip("=")) and "has an empty value" in fault


def test_an_empty_argument_and_a_name_that_is_not_utf_8_are_refused():
    assert "arguments is empty" in fault_of(["status", ""])
    assert fault_of(["run", "--data", "na\udcefve.txt"]).startswith("'na\\xefve.txt' is not UTF-8")
    assert fault_of(["run", "naïve.yaml", "--set", "x=1", "--goal", "a=b"]) == ""


def test_control_characters_have_escapes_and_letters_of_any_language_none():
    assert printable("naïve 日本 🙂 -> \N{ZERO WIDTH JOINER}") == "naïve 日本 🙂 -> \N{ZERO WIDTH JOINER}"
    assert printable("\x1b[2J\r\n\t\x7f\x9b\u2028\udcef") == "\\x1b[2J\\r\\n\\t\\x7f\\x9b\\u2028\\xef"
