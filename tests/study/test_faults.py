"""Faults during a trial: a trial whose worker is lost resumes, one that keeps breaking ends, and all is reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import InMemoryStorage
from typer.testing import CliRunner

from search.cli.main import app
from search.driver.bridge import Bridge
from search.driver.launch import run_search
from search.driver.options import RunOptions
from search.report.faults import faults_line
from search.report.overview import Overview
from search.space.loading import parse_space
from search.storage.folder import StudyError, StudyFolder
from search.study.record import TrialRecord
from search.study.settings import StudySettings
from search.study.study import Study
from search.study.verdict import StudyFailed
from search.worker.faults import cause_of, loss
from search.worker.messages import FAILED, OUT_OF_MEMORY, RUNNING, WAITING, TrialReport, TrialRequest

SPACE = """
family: hybrid
budget: {trials: 8, min_tokens: 1000, max_tokens: 9000, eta: 3}
parameters:
  d_model: {values: [16, 32, 64], default: 32}
  n_layers: {min: 2, max: 6, default: 3}
presets:
  guide: {d_model: 32}
"""

# As Ray 2.60 says it, cut in the middle.
KILLED = """1 (occurred at 2026-11-23_11-39-42)
The actor died unexpectedly before finishing this task.
	class_name: with_resources.<locals>.ResourceTrainable
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker \
unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed \
by the OOM killer due to high memory usage, (2) ray stop --force was called
"""
UNAVAILABLE = """1 (occurred at 2026-11-23_15-43-01)
The actor d5bb4ad5e51c5f71c29e2cbe02000000 is unavailable: The actor is temporarily unavailable: RpcError: RPC error: \
Socket closed rpc_code: 14. The task may or may not have been executed on the actor.
"""
EXITED = """1 (occurred at 2026-11-23_11-39-50)
The actor died unexpectedly before finishing this task.
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker exits \
unexpectedly. Worker exits with an exit code 3.
"""
OUT_OF_HOST_MEMORY = """2 (occurred at 2026-11-23_11-40-50)
OutOfMemoryError: 1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2) \
was 2.36GB used / 23.54GB limit (0.100356)
"""
CUDA_ERROR = """1 (occurred at 2026-11-23_11-39-46)
[36mray::ResourceTrainable.train()[39m (pid=17357, ip=192.0.2.2)
torch.AcceleratorError: CUDA error: device-side assert triggered

The above exception was the direct cause of the following exception:

  File "search/driver/tune.py", line 158, in step
search.worker.trial.BrokenProcess: CUDA error: device-side assert triggered
"""
NODE_DIED = "1 (occurred)\nThe actor is dead because its node has died. Node Id: 7193abd7\n"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (KILLED, "killed or crashed"),
        (EXITED, "ended with exit code 3"),
        (OUT_OF_HOST_MEMORY, "the host ran out of memory"),
        (CUDA_ERROR, "CUDA error: device-side assert triggered"),
        (NODE_DIED, "its machine was lost"),
        ("1 (occurred)\nThe actor is dead because its owner has died. Owner Id: 01 Owner worker ...", "Ray has ended"),
        ("1 (occurred)\nImportError: no module 'x'\n\n", "ImportError: no module 'x'"),
        ("", "cause unknown"),
    ],
)
def test_what_ray_says_of_a_lost_worker_is_a_cause_in_a_few_words(error: str, cause: str):
    assert cause_of(error) == cause


def test_a_loss_is_a_sentence_that_begins_with_its_kind():
    assert loss("killed or crashed", 144_000, "resumed from its checkpoint") == (
        "worker lost: killed or crashed, last report at 144,000 tokens; resumed from its checkpoint"
    )
    assert loss("CUDA error: x", 0, "started again") == "CUDA error: x, last report at 0 tokens; started again"
    assert loss("ImportError: x", 5, "given up").startswith("worker lost: ImportError: x, last")


def test_faults_are_counted_by_kind_with_their_trials():
    records = [TrialRecord(number, {}) for number in range(8)]
    assert faults_line(records) == ""
    records[3].faults = ["worker lost: killed, after 7 tokens", "worker lost: killed, after 9 tokens"]
    records[4].faults = ["checkpoint damaged: cut short"]
    records[7].faults = ["worker lost: killed, after 7 tokens"]
    line = "faults: 3 workers lost (trials 3, 7), 1 checkpoint damaged (trial 4)"
    assert faults_line(records) == line
    assert faults_line(records, ["no answer for 3 s"]) == f"{line}, no answer for 3 s"
    assert faults_line([], ["first", "no answer for 3 s"]) == "faults: no answer for 3 s (and 1 before)"


class Driver:
    """What Ray is to the bridge, without Ray: one trial at a time, called in Ray's order."""

    def __init__(self, folder: Path):
        space = parse_space(SPACE)
        settings = StudySettings(
            space=space, budget=space.budget(), corpus={"digest": "d", "about": "text", "paths": []}
        )
        self.storage = InMemoryStorage()
        self.study = Study.create(self.storage, "study", settings)
        self.events: list[tuple[str, int]] = []
        self.slots: list[int] = []
        self.folder = folder
        self.bridge = Bridge(self.study, 2, self.request_for, self, "module:class")

    def request_for(self, number: int, values: dict[str, Any]) -> TrialRequest:
        train = {"rungs": self.study.rungs}
        return TrialRequest(train=train, location=str(self.folder), checkpoint=f"trial-{number}.pt", hang_seconds=90.0)

    def on_event(self, kind: str, record: TrialRecord) -> None:
        self.events.append((kind, record.number))

    def on_slots(self, num_slots: int) -> None:
        self.slots.append(num_slots)

    def lose_all(self, trial_id: str, *errors: str) -> None:
        """Lose a worker for each error; Ray gives the trial up after the last."""
        for error in errors:
            self.bridge.on_worker_lost(trial_id, error)
        self.bridge.on_end(trial_id, worker_lost=True)

    def stored(self, number: int) -> TrialRecord:
        return TrialRecord.of(self.study._study.get_trials()[number])


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path)


def report(tokens: int, **more: Any) -> TrialReport:
    measurement = {"tokens": tokens, "loss": 3.0, "tokens_per_second": 1.0}
    return TrialReport(tokens=tokens, measurement=measurement, **more)


def test_a_trial_whose_worker_is_lost_resumes_and_its_record_has_the_fault(driver: Driver):
    driver.bridge.suggest("a")
    assert driver.bridge.on_report("a", report(1000))
    driver.bridge.on_worker_lost("a", KILLED)
    (driver.folder / "trial-0.pt").touch()
    driver.bridge.on_worker_lost("a", CUDA_ERROR)
    assert driver.bridge.on_report("a", report(1000))  # from its checkpoint
    assert driver.bridge.on_report("a", report(3000))
    assert driver.study.records[0].outcome == RUNNING
    assert driver.stored(0).faults == [
        "worker lost: killed or crashed, last report at 1,000 tokens; started again",
        "CUDA error: device-side assert triggered, last report at 1,000 tokens; resumed from its checkpoint",
    ]
    assert driver.events.count(("fault", 0)) == 2
    assert driver.bridge.fatal is None


def test_a_trial_whose_workers_keep_being_lost_fails_with_the_last_reason(driver: Driver):
    driver.bridge.suggest("a")
    driver.lose_all("a", OUT_OF_HOST_MEMORY, KILLED, KILLED, EXITED)
    record = driver.stored(0)
    assert (record.outcome, record.reason) == (
        FAILED,
        "its worker was lost 4 times, the last time: ended with exit code 3",
    )
    assert len(record.faults) == 4 and record.faults[-1].endswith("; given up")
    assert driver.events[-1] == ("ended", 0)


def test_a_trial_for_which_no_slot_is_left_waits_at_its_next_report(driver: Driver):
    driver.bridge.suggest("a"), driver.bridge.suggest("b")
    assert driver.bridge.is_full
    driver.bridge.on_slots(1)
    assert not driver.bridge.on_report("a", report(1000))
    driver.bridge.on_end("a", worker_lost=False)
    assert (driver.stored(0).outcome, driver.stored(0).rung, driver.slots) == (WAITING, 1000, [1])
    assert driver.bridge.on_report("b", TrialReport(tokens=500)) and driver.bridge.is_full
    driver.bridge.on_slots(1)  # no news
    driver.bridge.on_slots(2)
    assert driver.slots == [1, 2] and not driver.bridge.is_full
    assert driver.bridge.suggest("c")["request"]["checkpoint"] == "trial-0.pt"


def test_a_trial_that_ray_gives_up_too_early_resumes_as_another_of_rays(driver: Driver):
    driver.bridge.suggest("a")
    assert driver.bridge.num_losses_left("a") == 3
    driver.lose_all("a", KILLED, UNAVAILABLE)
    assert driver.stored(0).outcome == WAITING
    assert driver.bridge.suggest("b") is not None and driver.bridge.num_losses_left("b") == 1
    assert driver.bridge.on_report("b", report(1000))
    driver.lose_all("b", KILLED, KILLED)
    record = driver.stored(0)
    assert (record.outcome, record.reason) == (FAILED, "its worker was lost 4 times, the last time: killed or crashed")
    assert [fault.rpartition("; ")[2] for fault in record.faults] == ["started again"] * 3 + ["given up"]
    assert record.faults[1].startswith("worker lost: its machine does not answer, last report at 0 tokens")
    assert driver.bridge.suggest("c") is not None and driver.study.records[1].outcome == RUNNING


def test_a_trial_for_which_the_host_ran_out_of_memory_twice_in_the_end_is_out_of_memory(driver: Driver):
    driver.bridge.suggest("a")
    driver.lose_all("a", KILLED, KILLED, OUT_OF_HOST_MEMORY, OUT_OF_HOST_MEMORY)
    assert (driver.stored(0).outcome, driver.stored(0).reason) == (OUT_OF_MEMORY, "the host ran out of memory twice")
    assert driver.study._study.get_trials()[0].constraints["memory"] > 0  # the sampler learns it
    driver.bridge.suggest("b")
    driver.lose_all("b", OUT_OF_HOST_MEMORY, OUT_OF_HOST_MEMORY, OUT_OF_HOST_MEMORY, KILLED)
    assert driver.stored(1).outcome == FAILED


def test_a_worker_that_hung_leaves_where_it_did_with_its_trial(driver: Driver):
    trace = TrialRequest.from_dict(driver.bridge.suggest("a")["request"]).trace_path
    trace.write_text("Timeout!\n  File x.py in waits_for_ever\n")
    driver.bridge.on_worker_lost("a", EXITED)
    record = driver.stored(0)
    assert record.faults == ["worker hung: no report for 1.5 min, last report at 0 tokens; started again"]
    assert "waits_for_ever" in record.traceback and not trace.exists()
    trace.write_text("")  # one that was killed otherwise
    driver.bridge.on_worker_lost("a", KILLED)
    assert driver.stored(0).faults[1].startswith("worker lost: killed or crashed")


def test_what_a_worker_repaired_itself_is_reported(driver: Driver):
    driver.bridge.suggest("a")
    driver.bridge.on_report("a", report(1000, fault="checkpoint damaged: cut short; trained again"))
    assert driver.stored(0).faults == ["checkpoint damaged: cut short; trained again"]
    assert driver.stored(0).rung == 1000


def test_a_trial_trained_again_records_no_rung_twice(driver: Driver):
    driver.bridge.suggest("a")
    for tokens in (1000, 3000, 1000, 3000):  # its checkpoint was damaged after the second
        measured = report(tokens)
        measured.measurement["loss"] = 3.0 if tokens not in driver.study.records[0].measurements else 2.0
        assert driver.bridge.on_report("a", measured)
    assert [m["loss"] for m in driver.stored(0).measurements.values()] == [3.0, 3.0]
    assert not driver.bridge.on_report("a", report(9000))
    assert driver.stored(0).outcome == "finished"


def test_an_environment_error_stops_the_search_and_its_trials_wait(driver: Driver):
    driver.bridge.suggest("a"), driver.bridge.suggest("b")
    assert not driver.bridge.on_report("a", TrialReport(tokens=0, environment_error="text: no such file or folder"))
    assert isinstance(driver.bridge.fatal, StudyError)
    assert str(driver.bridge.fatal) == "text: no such file or folder; then the same command resumes"
    assert not driver.bridge.on_report("b", report(1000))  # reported, and stopped
    driver.bridge.on_end("b", worker_lost=False)
    driver.bridge.release_all()
    assert driver.stored(0).outcome == WAITING and not driver.stored(1).has_ended
    assert driver.stored(1).rung == 1000
    assert driver.bridge.suggest("c") is None


def test_a_storage_that_fails_ends_the_search_with_its_first_word(driver: Driver, monkeypatch: pytest.MonkeyPatch):
    driver.bridge.suggest("a"), driver.bridge.suggest("b")

    asked: list[Any] = []

    def fail(*args: Any, **kwargs: Any) -> None:
        asked.append(args)
        raise StudyError(f"no space {len(asked)}")

    for name in ("report", "release", "note_fault", "finish"):
        monkeypatch.setattr(driver.study, name, fail)
    assert not driver.bridge.on_report("a", report(1000))
    driver.bridge.on_worker_lost("a", KILLED)
    driver.bridge.on_end("a", worker_lost=True)
    driver.bridge.release_all()
    assert str(driver.bridge.fatal) == "no space 1" and len(asked) == 4
    assert ("ended", 0) not in driver.events  # else its checkpoint would be deleted


def test_a_fault_of_a_trial_that_has_ended_is_nobodys(driver: Driver):
    driver.bridge.suggest("a")
    driver.study.finish(0, FAILED, "a bug")
    driver.study.note_fault(0, "worker lost: killed")
    driver.bridge.on_worker_lost("unknown", KILLED)
    assert driver.stored(0).faults == []


def test_a_study_that_ended_for_failures_says_so_readably_and_resumes_with_other_trials(driver: Driver):
    for trial_id in "ab":
        driver.bridge.suggest(trial_id)
        driver.bridge.on_report(trial_id, TrialReport(tokens=0, outcome=FAILED, reason="KeyError: 'x'"))
    driver.bridge.suggest("c")
    bug = TrialReport(tokens=0, outcome=FAILED, reason="KeyError: 'y'", traceback="Traceback:\n  the last\n")
    driver.bridge.on_report("c", bug)
    assert isinstance(driver.bridge.fatal, StudyFailed)
    assert str(driver.bridge.fatal).splitlines() == [
        "3 trials in a row failed; the last: KeyError: 'y'",
        "Traceback:",
        "  the last",
        "fix the cause; the same command then resumes",
    ]
    again = Study(driver.study._study, driver.study.settings)
    proposal = again.propose()
    assert proposal.number == 3
    again.report(3, report(1000).measurement)
    assert again.records[3].rung == 1000 and not Overview.of(again).is_complete


def tinysearch(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_status_and_trials_show_the_faults(small_text: Path):
    space = parse_space(SPACE)
    settings = StudySettings(space=space, budget=space.budget(), corpus={"digest": "d", "about": "text", "paths": []})
    study_folder = StudyFolder(Path("runs").absolute(), "mine")
    study_folder.path.mkdir(parents=True)
    study = Study.create(study_folder.open_storage(), "mine", settings)
    study.propose()
    assert "faults" not in tinysearch("status", "mine")
    study.note_fault(0, "worker lost: killed, after 7 tokens", traceback="where it was")
    study._study.set_user_attr("faults", ["the database did not answer for 3 s"])
    line = "faults: 1 worker lost (trial 0), the database did not answer for 3 s"
    assert line in tinysearch("status", "mine").splitlines()
    document = json.loads(tinysearch("status", "mine", "--json"))["faults"]
    assert document == {
        "study": ["the database did not answer for 3 s"],
        "trials": {"0": ["worker lost: killed, after 7 tokens"]},
    }
    shown = tinysearch("trials", "mine").splitlines()
    assert "trial 0: worker lost: killed, after 7 tokens" in shown
    assert "the study: the database did not answer for 3 s" in shown
    (trial,) = json.loads(tinysearch("trials", "mine", "--json"))
    assert (trial["faults"], trial["traceback"]) == (["worker lost: killed, after 7 tokens"], "where it was")


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan"), float("inf"), 0.4])
def test_an_invalid_time_to_wait_is_refused(minutes: float):
    with pytest.raises(ValueError, match="--hang-minutes .*: give 0.5 to 43,200 minutes"):
        run_search(RunOptions(space=Path("none.yaml"), hang_minutes=minutes), None)
