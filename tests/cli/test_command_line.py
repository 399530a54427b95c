"""What a user who mistypes sees: one clear message, exit code 2, and nothing written or lost."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import optuna
import pytest
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.cli.preset import preset_config
from search.driver.launch import number_of_trials
from search.driver.options import RunOptions
from search.driver.preparing import prepare_space
from search.report.overview import Overview
from search.report.sentences import summary
from search.space.loading import load_space
from search.space.narrowing import narrow
from search.storage.folder import StudyFolder
from search.study.settings import StudySettings
from search.study.study import Study
from search.study.text import read_text
from search.worker.messages import DIVERGED, FAILED, FINISHED, OUT_OF_MEMORY
from tests.support.paths import SMOKE
from tests.support.tool import tinysearch
from trainer.config import TrainConfig
from trainer.families.registry import BUILT_IN

pytestmark = pytest.mark.usefixtures("small_text")


def refused(*arguments: str) -> str:
    """The message of a command that must refuse: exit code 2, one message on stderr, and no study written."""
    before = {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file() and p.suffix != ".lock"}
    code, _, message = tinysearch(*arguments)
    assert code == 2, (code, message)
    assert "Traceback" not in message
    after = {p: p.read_bytes() for p in Path("runs").rglob("*") if p.is_file() and p.suffix != ".lock"}
    assert after == before
    return message.strip()


def make_study(name: str, *, trials: int = 2, is_trained: bool = True, metrics: tuple[str, ...] = ()) -> Study:
    """A study whose trials have ended, without any training."""
    parsed, text = load_space(SMOKE), str(Path("text").absolute())
    settings = StudySettings(
        space=narrow(parsed, metrics=metrics),
        budget=parsed.budget(),
        run={"token_dtype": "uint16", "eval_tokens": 4000, "precision": "fp32"},
        corpus=read_text(parsed, [text], {}).to_settings(),
    )
    place = StudyFolder(Path("runs").absolute(), name)
    place.path.mkdir(parents=True)
    study = Study.create(place.open_storage(), name, settings, trials=trials)
    while is_trained and (proposal := study.propose()) is not None:
        for rung in study.rungs:
            loss = 3.0 - proposal.values["learning_rate"] - rung / 1e6
            speed = 1000.0 * (1 + proposal.number)
            more = {"tokens_per_second": speed, "peak_vram_bytes": 2**20, "num_params": 100, "train_seconds": 1.0}
            if not study.report(proposal.number, {"tokens": rung, "loss": loss, **more}):
                break
    return study


def space_file(text: str, name: str = "space.yaml") -> str:
    Path(name).write_text(text)
    return name


def test_an_unfinished_trial_that_is_ahead_is_reported_and_is_not_the_best():
    study = make_study("race", trials=3, is_trained=False)
    first, second = study.propose(), study.propose()
    for rung in study.rungs:
        study.report(first.number, {"tokens": rung, "loss": 3.0})
    assert study.records[first.number].outcome == FINISHED
    assert "ahead" not in tinysearch("status", "race")[1]
    study.report(second.number, {"tokens": study.rungs[0], "loss": 2.0})
    leading = study.records[second.number]
    assert not leading.has_ended
    code, out, _ = tinysearch("status", "race")
    assert code == 0 and f"ahead, but {leading.outcome}: trial {second.number}" in out
    status = json.loads(tinysearch("status", "race", "--json")[1])
    assert (status["leading"], status["best"]["trial"]) == (second.number, first.number)
    assert json.loads(tinysearch("best", "race", "--json")[1])["trial"] == first.number


def test_what_was_wasted_is_reported_and_nothing_if_nothing_was():
    make_study("clean")
    assert "wasted" not in tinysearch("status", "clean")[1]
    study = make_study("wasteful", trials=8, is_trained=False)
    for number, outcome in enumerate([DIVERGED, OUT_OF_MEMORY, DIVERGED, FAILED, DIVERGED]):
        assert study.propose().number == number
        study.finish(number, outcome, "so it was")
    line = "wasted: 4 of 5 trials (80 %): 3 diverged, 1 out of memory; 2 in the first half, 2 in the second"
    assert line in tinysearch("status", "wasteful")[1].splitlines()
    assert line in summary(Overview.of(study))
    assert json.loads(tinysearch("status", "wasteful", "--json")[1])["wasted"] == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trials", "0"], "--trials 0: give at least 1"),
        (["--trials", "+0"], "--trials +0: give at least 1"),
        (["--trials", "many"], "--trials many: give a number, or +N for N more"),
        (["--budget", "huge"], f"{SMOKE}: unknown budget 'huge'. Known: ."),
        (["--goal", "faster"], f"{SMOKE}: unknown goal 'faster'. Known: ."),
        (
            ["--metrics", "loss,speed"],
            "--metrics loss,speed: unknown measurement 'speed'. Known: loss, bits_per_byte, ",
        ),
        (["--metrics", "loss,loss"], "--metrics loss,loss: loss is listed twice"),
        (["--metrics", ""], "--metrics has an empty value"),
        (["--set", "d_modle=16"], "--set d_modle=16: unknown parameter 'd_modle'."),
        (["--set", "d_model"], "--set d_model: write name=value"),
        (["--set", "d_model=wide"], "--set d_model=wide: d_model is a whole number, not 'wide'"),
        (["--set", "n_heads=3"], "no configuration satisfies d_model % n_heads == 0"),
        (["--name", "../escape"], "'../escape' is not a valid name for a study"),
        (["--name", ""], "--name has an empty value"),
        (["--storage", ""], "--storage has an empty value"),
        (["--data", "nowhere"], "nowhere"),
        (["--parallel", "0"], "--parallel 0: give at least 1"),
        (["--gpus-per-trial", "-1"], "--gpus-per-trial -1 is negative"),
        (["--gpus-per-trial", "99"], "--gpus-per-trial 99, but there are"),
        (["--token-dtype", "int64"], "Invalid value for '--token-dtype'"),
    ],
)
def test_a_mistaken_option_is_refused(options: list[str], message: str):
    data = [] if "--data" in options else ["--data", "text"]
    assert message in refused("run", SMOKE, *data, *options)
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e6", 10**6), ("27m", 27 * 10**6), ("1_000_000", 10**6), ("0x10000", 65536), ("0.5M", 500_000)],
)
def test_a_number_on_the_command_line_is_what_it_is_in_a_space(text: str, number: int):
    assert prepare_space(RunOptions(space=SMOKE, max_tokens=text))[1].max_tokens == number
    assert number_of_trials(text, None) == number
    budget = f"budget: {{min_tokens: 1, max_tokens: {text}}}\n"
    assert load_space(space_file(SMOKE.read_text().replace("budget:", "# ") + budget)).budget().max_tokens == number


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b"", "empty"),
        ("short.txt", b"too short to train on", "short.txt"),
        ("latin.txt", "caf\xe9 ".encode("latin-1") * 500, "UTF-8"),
        ("broken.jsonl", b'{"text": "a"}\n{"text": \n', "broken.jsonl:2"),
        ("other.jsonl", b'{"body": "a"}\n', "other.jsonl:1"),
        ("ids.bin", b"\xff\xff" * 5000, "65535"),
    ],
)
def test_a_corpus_that_cannot_be_used_is_refused(name: str, content: bytes, message: str):
    Path(name).write_bytes(content)
    assert message in refused("run", SMOKE, "--data", name)


def test_a_space_with_several_faults_names_each_with_its_line():
    space = space_file("family: hybird\nbudget: {trails: 3}\nparameters:\n  d_model: {low: 1, max: 2}\n")
    message = refused("run", space)
    assert "space.yaml:2: budget.trails: unknown key 'trails'" in message
    assert "space.yaml:4: parameters.d_model.low: unknown key 'low'; here it is called min" in message


def test_an_unknown_family_is_refused_with_the_nearest():
    space = space_file("family: hybird\nparameters:\n  d_model: {value: 64}\n")
    known = ", ".join(BUILT_IN)
    expected = f"space.yaml:1: family: unknown family 'hybird'. Known: {known}. Did you mean 'hybrid'?"
    assert refused("validate", space) == expected


def test_a_missing_space_file_is_refused():
    assert refused("run", "spaces/none.yaml") == "spaces/none.yaml: no such file or directory"


def test_a_runs_folder_that_is_a_file_is_refused():
    Path("runs").write_text("mine")
    assert "is a file" in refused("run", SMOKE, "--data", "text")
    assert Path("runs").read_text() == "mine"


def test_a_folder_that_cannot_be_written_to_is_refused():
    assert "/proc cannot be written to" in refused("run", SMOKE, "--data", "text", "--runs", "/proc/runs")


def test_a_study_of_another_space_is_refused_with_what_differs():
    make_study("mine")
    other = space_file(SMOKE.read_text().replace("max: 3e-2", "max: 2e-2"))
    message = refused("run", other, "--name", "mine", "--data", "text", "--seed", "7")
    assert "the study 'mine' exists with other settings:" in message
    assert "the space's parameters have changed (learning_rate)" in message
    assert "seed: 0 before, 7 now" in message


def test_a_study_on_another_text_is_refused():
    make_study("mine")
    Path("text/0.txt").write_text("Another text altogether. " * 100)
    assert "the text has changed since the search" in refused("run", SMOKE, "--name", "mine", "--data", "text")


def test_a_study_whose_text_an_earlier_version_split_is_refused():
    make_study("mine").stored.set_user_attr(
        "corpus", {"paths": [str(Path("text").absolute())], "digest": "d", "about": "t"}
    )
    for command in (("run", SMOKE, "--name", "mine", "--data", "text"), ("resume", "mine", "--trials", "+1")):
        assert "earlier version of tinysearch" in refused(*command)


def test_fewer_trials_than_there_are_is_refused():
    make_study("mine", trials=3)
    message = refused("run", SMOKE, "--name", "mine", "--data", "text", "--trials", "2")
    assert message == "--trials 2, but the study has 3 already; give more, or +N for N more"


@pytest.mark.parametrize("content", [b"SQLite format 3\x00", b"notes of mine\n", b"[1, 2]\n", b"{}\n", b"\xff\xfe\n"])
def test_a_foreign_file_instead_of_the_journal_is_refused_and_kept(content: bytes):
    Path("runs/mine").mkdir(parents=True)
    Path("runs/mine/journal.log").write_bytes(content)
    assert "is not an Optuna journal" in refused("run", SMOKE, "--name", "mine", "--data", "text")
    assert "is not an Optuna journal" in refused("status", "mine")


def test_an_optuna_study_that_tinysearch_did_not_make_is_refused():
    Path("runs/mine").mkdir(parents=True)
    storage = JournalStorage(JournalFileBackend("runs/mine/journal.log"))
    optuna.create_study(storage=storage, study_name="mine").ask()
    assert "tinysearch did not make" in refused("run", SMOKE, "--name", "mine", "--data", "text")
    optuna.create_study(storage=storage, study_name="other")
    Path("runs/mine").rename("runs/yours")
    assert "holds 'mine', 'other', not a study 'yours'" in refused("status", "yours")


def test_a_damaged_journal_is_refused():
    make_study("mine")
    journal = Path("runs/mine/journal.log")
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([*lines[:5], "{broken\n", *lines[5:]]))
    assert "damaged" in refused("status", "mine")


def test_a_line_that_a_killed_driver_left_unfinished_is_dropped():
    make_study("mine")
    journal = Path("runs/mine/journal.log")
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":6,"work')
    folder = StudyFolder(Path("runs").absolute(), "mine")
    assert len(folder.load().trials) == 2  # readers do not mind it
    with folder.lock():
        pass
    assert journal.read_bytes() == whole


def test_a_study_written_by_a_newer_version_is_refused():
    study = make_study("mine")
    study._study.set_user_attr("format_version", 99)
    assert "was written by a newer tinysearch (format 99" in refused("status", "mine")


def test_a_study_that_another_driver_runs_is_refused():
    make_study("mine")
    with StudyFolder(Path("runs").absolute(), "mine").lock():
        message = refused("run", SMOKE, "--name", "mine", "--data", "text", "--trials", "+1")
        assert f"is being run by process {os.getpid()} on {socket.gethostname()}" in message


def test_a_study_that_is_not_there_is_refused_with_those_that_are():
    assert refused("status") == "there are no studies in runs; `tinysearch run` makes one"
    make_study("mine")
    assert "no study 'yours' in" in (message := refused("best", "yours"))
    assert message.endswith("studies there: mine")


def test_best_of_a_study_where_nothing_finished_is_refused():
    make_study("mine", is_trained=False)
    assert "no trial has finished its budget yet" in refused("best", "mine")


def test_a_port_in_use_is_refused():
    make_study("mine")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port} cannot be listened on" in refused("dashboard", "mine", "--port", str(port))


def test_a_finished_study_is_shown_again_without_starting_ray():
    make_study("mine")
    code, out, _ = tinysearch("run", str(SMOKE), "--name", "mine", "--data", "text")
    assert code == 0
    assert "2 of 2 trials" in out
    assert "best: trial" in out


def test_json_output_is_json_and_agrees_with_itself():
    study = make_study("mine", trials=6)
    status = json.loads(tinysearch("status", "mine", "--json")[1])
    trials = json.loads(tinysearch("trials", "mine", "--json")[1])
    best = json.loads(tinysearch("best", "mine", "--json")[1])
    assert status["counts"]["finished"] + status["counts"]["stopped"] == len(trials) == 6
    assert status["complete"] and status["driver"] is None
    assert best["trial"] == status["best"]["trial"]
    finished = [t for t in trials if t["outcome"] == "finished"]
    assert best["measurements"]["loss"] == min(t["measurements"]["36000"]["loss"] for t in finished)
    assert best["train"]["rungs"] == list(study.rungs)


def test_the_front_of_several_metrics_is_printed_and_agrees_with_itself():
    study = make_study("mine", trials=6, metrics=("loss", "tokens_per_second"))
    status = json.loads(tinysearch("status", "mine", "--json")[1])
    front = json.loads(tinysearch("best", "mine", "--pareto", "--json")[1])
    best = json.loads(tinysearch("best", "mine", "--json")[1])
    assert status["metrics"] == ["loss", "tokens_per_second"]
    assert [document["trial"] for document in front] == status["front"]
    assert front[0] == best and len(front) > 1  # the best by the first metric
    speeds = {n: r.measured("tokens_per_second") for n, r in study.records.items() if r.outcome == "finished"}
    assert front[-1]["trial"] == max(speeds, key=speeds.__getitem__)
    for document in front:
        TrainConfig.from_dict(document["train"])
        assert study.records[document["trial"]].outcome == "finished"
    code, out, _ = tinysearch("best", "mine", "--pareto")
    assert code == 0
    rows = [line for line in out.splitlines() if "*" in line.split()[0]]
    assert [int(line.split("*")[0]) for line in rows] == status["front"]
    assert (
        f"front of loss and tokens_per_second: {len(front)} of {len(speeds)} finished"
        in tinysearch("status", "mine")[1]
    )
    assert "--json has `train` of each" in refused("best", "mine", "--pareto", "--format", "train")


def test_the_front_of_one_metric_is_its_best_trial():
    make_study("mine")
    document = json.loads(tinysearch("best", "mine", "--json")[1])
    assert json.loads(tinysearch("best", "mine", "--pareto", "--json")[1]) == [document]


def test_other_metrics_than_the_studys_are_refused():
    make_study("mine", metrics=("loss", "num_params"))
    message = refused("run", str(SMOKE), "--name", "mine", "--data", "text")
    assert "metrics: loss, num_params before, loss now" in message


def test_best_prints_what_the_trainer_takes():
    make_study("mine")
    document = json.loads(tinysearch("best", "mine", "--format", "json")[1])
    config = TrainConfig.from_dict(document["train"])
    assert config.learning_rate == document["parameters"]["learning_rate"]
    assert json.loads(tinysearch("best", "mine", "--format", "train")[1]) == document["train"]


def test_validate_as_json_has_the_feasible_share():
    space = space_file(SMOKE.read_text().replace("n_heads: {value: 2}", "n_heads: {values: [2, 3], default: 2}"))
    document = json.loads(tinysearch("validate", space, "--json")[1])
    assert document["feasible_share"] == pytest.approx(0.5, abs=0.05)
    assert list(document["rejected"]) == ["d_model % n_heads == 0 (heads split the width evenly)"]
    assert document["warning"] is None


def test_validate_shows_what_a_budget_sets():
    code, out, _ = tinysearch("validate", str(SMOKE.parent / "bdh.yaml"), "--budget", "quick")
    assert code == 0 and "in this budget every configuration, presets too, has batch_size 2" in out


def test_validate_warns_where_little_may_be_launched():
    space = space_file(SMOKE.read_text().replace("n_heads: {value: 2}", "n_heads: {min: 2, max: 200, default: 2}"))
    code, out, err = tinysearch("validate", space)
    assert code == 0, err
    warning = " ".join(out.split("warning: ")[1].split())
    assert warning.startswith("below 5% proposals are slow to find")
    assert "most are rejected for d_model % n_heads == 0 (heads split the width evenly) (9" in warning


def test_no_argument_shows_help():
    code, out, err = tinysearch()
    assert "run" in out + err and "dashboard" in out + err


def test_a_preset_trains_alone():
    torch.set_num_threads(1)
    code, out, err = tinysearch("train", "--preset", "smoke/default", "--data", "text", "--json", "--set", "n_layers=3")
    assert code == 0, err
    rungs = [json.loads(line) for line in out.splitlines()]
    assert [m["tokens"] for m in rungs] == [4000, 12000, 36000]
    assert rungs[-1]["loss"] < rungs[0]["loss"]


def test_set_replaces_what_the_preset_says_and_a_rule_it_breaks_is_reported_with_its_section():
    config = preset_config("robo/tiny", RunOptions(space=None, assignments=("n_embd=256", "n_heads=4", "d_ff=1024")))
    assert (config.model.d_model, config.model.n_layers, config.model.d_ff) == (256, 4, 1024)
    assert refused("train", "--preset", "robo/tiny", "--set", "d_model=256") == (
        "robo/tiny: breaks the rule d_model % n_heads == 0 (Parameter Reference, 1.4: heads split the width evenly)"
    )


@pytest.mark.parametrize(
    ("preset", "message"),
    [
        ("tiny", "--preset tiny: write space/preset, such as hybrid/tiny"),
        ("hybird/tiny", "unknown space 'hybird'."),
        ("hybrid/tinny", "Did you mean 'tiny'?"),
        ("hybrid/", "write space/preset"),
    ],
)
def test_a_mistaken_preset_is_refused(preset: str, message: str):
    assert message in refused("train", "--preset", preset)


def test_advise_answers_for_this_text_and_says_what_it_does_not_know():
    document = json.loads(tinysearch("advise", str(SMOKE.parent / "ghost.yaml"), "--data", "text", "--json")[1])
    assert document["context"]["tokens"] == document["context"]["corpus_bytes"]  # bytes are its tokens
    assert document["context"]["tokens"] > 10_000
    robo = str(SMOKE.parent / "robo.yaml")
    said = json.loads(tinysearch("advise", robo, "--data", "text", "--json")[1])["advice"]
    assert {"dropout": 0.2} in [entry["suggest"] for entry in said]  # little text
