"""Studies on disk: those of earlier versions stay readable, and a damaged one is refused with what is wrong."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from typer.testing import CliRunner

from benchmarks.outcomes import train
from search.cli.main import app
from search.report.overview import Overview
from search.storage.folder import StudyError, StudyFolder
from search.study.settings import StudySettings
from search.study.study import Study
from search.worker.messages import OUTCOMES

STUDIES = Path(__file__).resolve().parent / "studies"  # each as `python -m benchmarks.outcomes` of its time wrote it
FORMATS = sorted(path.name for path in STUDIES.iterdir())


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A copy of the stored studies, to be changed."""
    return Path(shutil.copytree(STUDIES, tmp_path / "runs"))


def tinysearch(runs: Path, *arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [*arguments, "--runs", str(runs)], catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def rewritten(runs: Path, old: str, new: str, *, name: str = "format-1") -> StudyFolder:
    """The study with some text in its journal replaced."""
    folder = StudyFolder(runs, name)
    content = folder.journal.read_text()
    assert old in content
    folder.journal.write_text(content.replace(old, new))
    return folder


def refusal(folder: StudyFolder) -> str:
    with pytest.raises(StudyError) as error:
        stored = folder.load()
        Overview.stored(stored, is_run=False)
        Study(stored, StudySettings.of(stored))
    return str(error.value)


# What earlier versions wrote.


@pytest.mark.parametrize("name", FORMATS)
def test_the_commands_read_what_an_earlier_version_wrote(runs: Path, name: str):
    code, out, err = tinysearch(runs, "status", name, "--json")
    assert code == 0, err
    status = json.loads(out)
    assert {outcome for outcome, count in status["counts"].items() if count} == set(OUTCOMES) - {"running"}
    assert (status["trials"], status["complete"], status["reference"]["preset"]) == (24, False, "guide")
    trials = json.loads(tinysearch(runs, "trials", name, "--json")[1])
    assert [trial["trial"] for trial in trials] == list(range(15))
    assert Counter(trial["outcome"] for trial in trials) == {k: v for k, v in status["counts"].items() if v}
    best = json.loads(tinysearch(runs, "best", name, "--json")[1])
    finished = [trial["measurements"]["9000"]["loss"] for trial in trials if trial["outcome"] == "finished"]
    assert best["measurements"]["loss"] == min(finished)
    assert best["train"]["rungs"] == [1000, 3000, 9000]


@pytest.mark.parametrize("name", FORMATS)
def test_a_search_of_an_earlier_version_resumes(runs: Path, name: str):
    stored = StudyFolder(runs, name).load()
    before = {trial.number: trial for trial in stored.trials if trial.state.is_finished()}
    study = Study(stored, StudySettings.of(stored))
    proposal = study.propose()
    assert proposal is not None and proposal.is_resumed
    while proposal is not None:
        train(study, proposal)
        proposal = study.propose()
    assert Overview.of(study).is_complete and sorted(study.records) == list(range(24))
    after = StudyFolder(runs, name).load().trials
    assert {number: repr(after[number]) for number in before} == {n: repr(trial) for n, trial in before.items()}  # NaN
    assert {trial.state for trial in after} <= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}


@pytest.mark.parametrize("name", FORMATS)
def test_our_reading_of_a_journal_is_optunas(name: str):
    file = STUDIES / name / "journal.log"
    theirs = optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(file))))
    ours = StudyFolder(STUDIES, name).load()
    assert list(map(repr, ours.trials)) == list(map(repr, theirs.trials))  # by their text: NaN is equal to nothing
    assert (ours.user_attrs, ours.metric_names) == (theirs.user_attrs, theirs.metric_names)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("2", "the study format-1 was written by a newer tinysearch (format 2; this one reads 1)"),
        ('"1"', "the study format-1 is damaged: its format_version is '1', not 1 or more"),
        ("-1", "the study format-1 is damaged: its format_version is -1, not 1 or more"),
        ("true", "the study format-1 is damaged: its format_version is True, not 1 or more"),
        ("null", "holds an Optuna study 'format-1' that tinysearch did not make; choose another --name"),
    ],
)
@pytest.mark.parametrize("command", ["status", "trials", "best", "confirm"])
def test_another_or_an_odd_format_version_is_refused(runs: Path, command: str, version: str, message: str):
    rewritten(runs, '"format_version":1', f'"format_version":{version}')
    code, out, err = tinysearch(runs, command, "format-1")
    assert (code, out) == (2, "")
    assert err.strip().endswith(message)


def test_an_invalid_confirmation_is_refused(runs: Path):
    rewritten(runs, '"confirmed 0 1":{"outcome"', '"confirmed 0 1":{"come"')
    code, out, err = tinysearch(runs, "confirm", "format-1")
    assert (code, out) == (2, "")
    assert err.startswith("the study format-1 is damaged: its attribute 'confirmed 0 1' is not a run: ")


# Damage.


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"seed":0', '"seed":"x"', "the study format-1 is damaged: its attribute 'seed' is 'x', not a whole number"),
        ('"seed":0', '"seed":-1', "its attribute 'seed' is -1, below 0"),
        ('"metrics":["loss"]', '"storage_path":5', "its attribute 'storage_path' is 5, not a URL"),
        ('"metrics":["loss"]', '"storage_path":"/etc"', "its attribute 'storage_path' is '/etc', not a URL"),
        ('"goals":[]', '"goals":[1]', "its attribute 'goals' is not a list of words"),
        ('"goals":[]', '"goals":["up"]', "its attribute 'goals, assignments or metrics' is wrong: spaces/small.yaml: "),
        ('"space":"family: hybrid', '"space":"family: hybird', "its attribute 'space' is wrong: spaces/small.yaml:1: "),
        ('"eta":3', '"eta":"x"', "its attribute 'budget' eta: "),
        ('"set":{}', '"set":{"width":3}', "its attribute 'budget' is wrong: it sets width to 3"),
        ('"corpus":{', '"corpse":{', "its attribute 'corpus' is None, not a mapping"),
        ('"paths":[]', '"paths":5', "its attribute 'corpus' has no list of paths"),
        ('"trials":24', '"trials":0.5', "its attribute 'trials' is 0.5, not a number from 1"),
        ('"rung 1000":{', '"rung x":{', "trial 0: its attribute 'rung x' names no token count"),
        ('"rung 1000":{', '"rung 1001":{', "trial 0 does not fit its space: "),
        ('"rung 1000":{"tokens":1000,"loss":', '"rung 1000":{"tokens":1000,"loss":"x","l":', "not a mapping of nu"),
        ('"outcome":"finished"', '"outcome":"won"', "trial 0: its attribute 'outcome' is 'won'; known are finished, "),
        ('"preset":"guide"', '"preset":7', "trial 0: its attribute 'preset' is 7, not text"),
        ('"values":{"d_model":', '"values":{"d_model":[],"d":', "'values' holds more than numbers, words and truths"),
        ('"values":{"d_model":', '"values":{"d_model":77,"d":', "trial 0 does not fit its space: "),
        ('"values":{"d_model":', '"values":{"d_model":Infinity,"d":', "'values' holds more than numbers, words and tr"),
        ('{"environment":{"host":"node",', '{"environment":{"host":NaN,', "'environment' holds more than numbers, w"),
    ],
)  # fmt: skip
def test_what_a_study_cannot_have_written_is_refused_with_its_attribute(runs: Path, old: str, new: str, message: str):
    assert message in refusal(rewritten(runs, old, new))


def test_a_trial_that_resumes_must_have_its_whole_configuration(runs: Path):
    folder = StudyFolder(runs, "format-1")
    ended, last = folder.journal.read_text().rsplit('"user_attrs":', 1)
    folder.journal.write_text(ended + '"user_attrs":' + last.replace('"n_layers":', '"layers":'))
    assert refusal(folder) == "the study format-1 is damaged: trial 14 does not fit its space: it has no n_layers"


@pytest.mark.parametrize(
    "state", [5, {"theta": 5}, {"theta": "t" * 12}, {"theta": ["x"] * 12}, {"theta": [1e9] * 12}, {"theta": [0.0] * 12}]
)
def test_what_the_strategy_cannot_have_learned_is_refused(runs: Path, state: object):
    folder = StudyFolder(runs, "format-1")
    stored = folder.load()
    assert len(stored.user_attrs["strategy"]["theta"]) == 12
    stored.set_user_attr("strategy", state)
    assert "the study format-1 is damaged: its attribute 'strategy' cannot be read: " in refusal(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "not JSON: "),
        ("\x00\x00", "not JSON: "),
        ("", "not JSON: "),
        ("[" * 3000, "not JSON: "),
        ("1" * 5000, "not JSON: "),
        ("[]", "no entry of Optuna's: "),
        ("{}", "no entry of Optuna's: no 'op_code'"),
        ('{"op_code":99}', "no entry of Optuna's: there is no operation 99"),
        ('{"op_code":[]}', "no entry of Optuna's: "),
        ('{"op_code":8,"trial_id":99,"user_attr":{"a":1}}', "no entry of Optuna's: there is no trial 99"),
        ('{"op_code":8,"trial_id":-1,"user_attr":{"a":1}}', "no entry of Optuna's: there is no trial -1"),
        ('{"op_code":8,"trial_id":0,"user_attr":[]}', "no entry of Optuna's: "),
        ('{"op_code":8,"trial_id":0,"user_attr":{}}', "no entry of Optuna's: "),
        ('{"op_code":7,"trial_id":0,"step":"x","intermediate_value":1}', "no entry of Optuna's: "),
        ('{"op_code":7,"trial_id":0,"step":1,"intermediate_value":"x"}', "no entry of Optuna's: "),
        ('{"op_code":6,"trial_id":0,"state":9,"values":null}', "no entry of Optuna's: no 9"),
        ('{"op_code":6,"trial_id":0,"state":1,"values":[1]}', "no entry of Optuna's: no 'datetime_complete'"),
        ('{"op_code":6,"trial_id":0,"state":1,"values":[1],"datetime_complete":"now"}', "no entry of Optuna's: "),
        ('{"op_code":4,"study_id":7,"datetime_start":null}', "no entry of Optuna's: no 7"),
        ('{"op_code":4,"study_id":0,"datetime_start":null,"params":{"a":1}}', "no entry of Optuna's: its parameters"),
        ('{"op_code":4,"study_id":0,"datetime_start":null,"params":{"a":1},"distributions":{"a":"{"}}', "no entry of"),
        ('{"op_code":0,"study_name":5,"directions":[1]}', "no entry of Optuna's: a study has a name and directions"),
    ],
)  # fmt: skip
def test_a_damaged_line_is_named_with_how_many_are_sound_before_it(runs: Path, line: str, message: str):
    folder = StudyFolder(runs, "format-1")
    lines = folder.journal.read_text().splitlines()
    at = next(i for i, entry in enumerate(lines) if '"trial_id":0,' in entry) + 1
    folder.journal.write_text("\n".join([*lines[:at], line, *lines[at:], ""]))
    text = refusal(folder)
    assert text.startswith(f"{folder.journal}:{at + 1}: the journal is damaged here: {message}")
    assert f"The {at:,} entries before it are sound: restore a backup or" in text
    assert len(text) < 1000
    code, _, err = tinysearch(runs, "status", "format-1")
    assert (code, err.strip()) == (2, text)
    lines = folder.journal.read_text().splitlines(keepends=True)
    folder.journal.write_text("".join(lines[:at]))  # what the message says to do
    assert len(folder.load().trials) == 1


def test_a_line_that_is_missing_is_noticed_where_a_trial_is(runs: Path):
    """Optuna numbers trials as it meets them: without the line that made one, each later trial is another's."""
    folder = StudyFolder(runs, "format-1")
    lines = folder.journal.read_text().splitlines(keepends=True)
    created = [i for i, line in enumerate(lines) if json.loads(line)["op_code"] == 4]
    folder.journal.write_text("".join(lines[: created[-1]] + lines[created[-1] + 1 :]))
    Overview.stored(folder.load(), is_run=False)  # the last one had nothing after it: it was never there
    folder.journal.write_text("".join(lines[: created[-2]] + lines[created[-2] + 1 : created[-1]]))
    assert "there is no trial 13" in refusal(folder)


def test_entries_after_a_trials_end_do_not_change_it(runs: Path):
    folder = StudyFolder(runs, "format-1")
    before = folder.load().trials[0]
    with open(folder.journal, "a") as journal:
        for entry in (
            {"op_code": 8, "trial_id": 0, "user_attr": {"outcome": "failed"}},
            {"op_code": 9, "trial_id": 0, "system_attr": {"constraints": [1.0]}},
            {"op_code": 7, "trial_id": 0, "step": 9000, "intermediate_value": 0.0},
            {"op_code": 6, "trial_id": 0, "state": 0, "values": None, "datetime_start": "2026-01-01T00:00:00"},
        ):
            journal.write(json.dumps({"worker_id": "another", **entry}) + "\n")
    assert folder.load().trials[0] == before
