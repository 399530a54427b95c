"""`clean` deletes what nothing needs, says so, and touches nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from search.cli.main import app
from search.report.texts import bytes_text
from search.space.loading import parse_space
from search.space.narrowing import narrow
from search.storage.folder import StudyError, StudyFolder
from search.study.settings import StudySettings
from search.study.study import Study
from search.worker.checkpoints import checkpoint_name
from search.worker.messages import DIVERGED

SPACE = """
family: hybrid
budget: {trials: 8, min_tokens: 1000, max_tokens: 9000, eta: 3}
parameters:
  d_model: {values: [16, 32, 64], default: 32}
  learning_rate: {min: 1e-4, max: 1e-1, log: true, default: 1e-3}
presets:
  guide: {d_model: 32}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def new_study(*, metrics: tuple[str, ...] = ()) -> StudyFolder:
    """Trials 0, 1 and 2 have finished (1 is the best, 0 the smallest), 3 diverged, 4 is running; each left a file."""
    parsed = parse_space(SPACE)
    settings = StudySettings(
        space=narrow(parsed, metrics=metrics),
        budget=parsed.budget(),
        corpus={"digest": "d", "about": "text", "paths": []},
    )
    folder = StudyFolder(Path("runs").absolute(), "mine")
    folder.path.mkdir(parents=True)
    study = Study.create(folder.open_storage(), "mine", settings)
    while len(study.records) < 5:
        number = study.propose().number
        if number < 3:
            for rung in study.rungs:
                while not study.report(
                    number, {"tokens": rung, "loss": (2.0, 1.0, 3.0)[number], "num_params": (1, 2, 3)[number]}
                ):
                    if study.records[number].has_ended:
                        break
                    study._resume(number)
        elif number == 3:
            study.finish(number, DIVERGED, "the training loss is nan", tokens=500)
    assert [study.records[n].outcome for n in range(5)] == ["finished"] * 3 + ["diverged", "running"]
    folder.checkpoints.mkdir()
    for number in range(5):
        (folder.checkpoints / checkpoint_name(number)).write_bytes(b"x" * 1024 * (number + 1))
    return folder


def clean(*options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["clean", "mine", *options], catch_exceptions=False)
    return result.exit_code, result.output


def names(folder: StudyFolder) -> list[str]:
    return sorted(path.name for path in folder.checkpoints.iterdir())


def test_what_has_ended_unfinished_and_what_crashes_left_is_deleted():
    folder = new_study()
    for name in ("trial-4.pt.77.tmp", "trial-4.hang", "trial-99.pt", "confirm-1-seed-1.pt", "confirm-1-seed-2.pt"):
        (folder.checkpoints / name).write_bytes(b"xy")
    folder.load().set_user_attr("confirmed 1 1", {})
    (folder.checkpoints / "notes.txt").write_text("of the user")
    (folder.checkpoints / "trial-8.pt").mkdir()
    status = CliRunner().invoke(app, ["status", "mine"]).output
    assert "checkpoints: 11 files, 15 KiB" in status.splitlines()
    before = names(folder)
    code, dry = clean("--dry-run")
    assert code == 0 and names(folder) == before
    assert "trial-3.pt  4 KiB  diverged" in dry and "mine: 5 files, 4.01 KiB would be freed" in dry
    code, done = clean()
    assert code == 0 and "mine: 5 files, 4.01 KiB freed" in done
    kept = ["notes.txt", "trial-8.pt", "confirm-1-seed-2.pt", *(f"trial-{number}.pt" for number in (0, 1, 2, 4))]
    assert names(folder) == sorted(kept)
    assert "mine: 0 files, 0 KiB freed" in clean()[1]


def test_all_deletes_finished_trials_too_but_for_the_best():
    folder = new_study()
    document = json.loads(clean("--all", "--json")[1])
    assert [(Path(file["file"]).name, file["bytes"]) for file in document["files"]] == [
        ("trial-0.pt", 1024),
        ("trial-2.pt", 3072),
        ("trial-3.pt", 4096),
    ]
    assert (document["bytes"], document["deleted"]) == (8192, True)
    assert names(folder) == ["trial-1.pt", "trial-4.pt"]


def test_all_keeps_the_whole_front():
    folder = new_study(metrics=("loss", "num_params"))
    assert clean("--all")[0] == 0
    assert names(folder) == ["trial-0.pt", "trial-1.pt", "trial-4.pt"]


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_nothing_is_deleted_while_a_driver_runs_the_study(options: tuple[str, ...]):
    folder = new_study()
    with folder.lock():
        code, said = clean(*options)
    assert code == 2 and "the study mine is being run by process" in said
    assert len(names(folder)) == 5


def test_a_checkpoint_folder_that_lies_elsewhere_is_refused():
    folder = new_study()
    folder.checkpoints.rename("elsewhere")
    folder.checkpoints.symlink_to(Path("elsewhere").absolute())
    code, said = clean()
    assert code == 2 and "leads out of the study's folder, to" in said
    assert len(list(Path("elsewhere").iterdir())) == 5
    assert "checkpoints: 5 files" in CliRunner().invoke(app, ["status", "mine"]).output


def test_a_link_to_a_file_elsewhere_is_left_alone_with_what_it_leads_to():
    folder = new_study()
    Path("precious.pt").write_bytes(b"x")
    (folder.checkpoints / checkpoint_name(3)).unlink()
    (folder.checkpoints / checkpoint_name(3)).symlink_to(Path("precious.pt").absolute())
    assert "0 files" in clean()[1]
    assert (folder.checkpoints / checkpoint_name(3)).is_symlink() and Path("precious.pt").exists()


def test_a_study_that_is_not_there_makes_no_folder():
    code, said = clean()
    assert code == 2 and "no study 'mine'" in said
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../mine", "a/b", "/etc", "a\0b", ".hidden", "a\nb", "mine/", "~", "a" * 101]
)
def test_a_name_cannot_lead_out_of_the_folder_of_studies(name: str):
    with pytest.raises(StudyError, match="is not a valid name for a study"):
        StudyFolder(Path("runs"), name)


def test_what_is_set_names_no_file_and_a_trial_is_a_number():
    folder = StudyFolder(Path("runs"), "mine")
    assert folder.checkpoints / checkpoint_name(7) == Path("runs/mine/checkpoints/trial-7.pt")
    (Path("space.yaml")).write_text(SPACE)
    for assignment in ("../../d_model=16", "/etc/passwd=1", "d_model=../../16"):
        result = CliRunner().invoke(app, ["run", "space.yaml", "--set", assignment], catch_exceptions=False)
        assert result.exit_code == 2 and "Traceback" not in result.output
    assert sorted(path.name for path in Path().iterdir()) == ["space.yaml"]


@pytest.mark.parametrize(
    ("count", "text"), [(1000, "0.977 KiB"), (1023 * 1024, "0.999 MiB"), (2**20, "1 MiB"), (2**30 - 1, "1 GiB")]
)
def test_a_size_has_never_four_digits(count: int, text: str):
    assert bytes_text(count) == text
