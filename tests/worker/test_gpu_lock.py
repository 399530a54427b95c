"""Trials that share a GPU use a lock on it, so that each speed is its own; here the device is the CPU."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from search.worker import gpu_lock
from search.worker.gpu_lock import MIN_STEPS_ALONE, GpuLock, GpuLockError, steps_beside_others
from search.worker.messages import TrialReport, TrialRequest
from search.worker.trial import TrialRun
from search.worker.watchdog import trace_file
from tests.support.paths import ROOT
from tests.support.thorough import some_of
from trainer.checkpoint import load_checkpoint
from trainer.config import TrainConfig
from trainer.loop import TrainingRun
from trainer.measure import WARMUP_STEPS, Stopwatch

STEP = 64  # tokens
CONFIG = {"seq_len": 16, "batch_size": 4, "d_model": 16, "n_layers": 2, "eval_tokens": 256, "attn_layer_idx": 1}
Interval = tuple[str, float, float]  # of the monotonic clock, which all processes of a machine have in common


@pytest.fixture(autouse=True)
def own_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder for the locks that no other test has."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


OPENING = """
import json, sys, time
from pathlib import Path
from search.worker.gpu_lock import GpuLock

def wait_for(*names):
    while not all(Path(name).exists() for name in names):
        time.sleep(0.001)

device, intervals = GpuLock("cpu"), []
def hold(kind, seconds):
    with getattr(device, kind)():
        began = time.monotonic()
        time.sleep(seconds)
        intervals.append((kind, began, time.monotonic()))
"""


def processes(tmp_path: Path, *codes: str) -> list[subprocess.Popen]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen([sys.executable, "-c", OPENING + code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE)
        for code in codes
    ]


def outputs(started: list[subprocess.Popen]) -> list[Any]:
    """What each process printed, as JSON; none may fail or wait for ever."""
    try:
        found = [process.communicate(timeout=60)[0] for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert [process.returncode for process in started] == [0] * len(started)
    return [json.loads(text) for text in found]


def overlaps(one: list[Interval], other: list[Interval], kind: str) -> int:
    """How many of one's intervals of a kind overlap with any of the other's."""
    return sum(any(b < end and began < e for _, b, e in other) for name, began, end in one if name == kind)


def test_while_one_is_alone_no_other_has_the_device(tmp_path: Path):
    code = """
Path(f"{NAME}.ready").touch()
wait_for(*(f"{name}.ready" for name in range(3)))
for i in range(60):
    hold("exclusive" if i % 3 == NAME else "shared", 0.002)
print(json.dumps(intervals))
"""
    held = outputs(processes(tmp_path, *(f"NAME = {name}\n{code}" for name in range(3))))
    assert all(sum(kind == "exclusive" for kind, *_ in intervals) == 20 for intervals in held)
    for one in held:
        assert [overlaps(one, other, "exclusive") for other in held if other is not one] == [0, 0]


def test_two_who_train_have_the_device_at_once(tmp_path: Path):
    code = """
with device.shared():
    Path(f"{NAME}.here").touch()
    wait_for("0.here", "1.here")
print("true")
"""
    assert outputs(processes(tmp_path, *(f"NAME = {name}\n{code}" for name in range(2)))) == [True, True]


def test_a_process_that_measures_does_not_wait_for_others_that_begin_again_at_once(tmp_path: Path):
    """Of the two who train, each continues until the other has begun again, or cannot: the device is never free."""
    training = """
turn = num_after = 0
while num_after < 300 and not Path("measured").exists():
    with device.shared():
        Path(f"{NAME}.{turn}").touch()
        time.sleep(0.01)
        began = time.monotonic()
        while not Path(f"{1 - NAME}.{turn + NAME}").exists() and time.monotonic() < began + 1:
            time.sleep(0.001)
    turn, num_after = turn + 1, num_after + Path("waits").exists()
print(num_after)
"""
    measuring = """
wait_for("0.9", "1.9")
Path("waits").touch()
hold("exclusive", 0)
Path("measured").touch()
print("true")
"""
    alone, *turns_after = outputs(processes(tmp_path, measuring, *(f"NAME = {name}\n{training}" for name in (0, 1))))
    assert alone and max(turns_after) < 300


@pytest.mark.parametrize(
    ("kind", "other"), [("exclusive", "shared"), ("exclusive", "exclusive"), ("shared", "exclusive")]
)
def test_a_process_that_is_killed_leaves_the_device_to_the_others(tmp_path: Path, kind: str, other: str):
    (holder,) = processes(tmp_path, f"with device.{kind}():\n    print('here', flush=True)\n    time.sleep(1000)")
    assert holder.stdout.readline() == b"here\n"
    waiting = processes(tmp_path, f"Path('waits').touch()\nhold('{other}', 0)\nprint('true')")
    while not (tmp_path / "waits").exists():
        assert waiting[0].poll() is None
    holder.kill()
    holder.communicate()
    assert outputs(waiting) == [True]


def test_locks_lie_in_a_folder_of_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with GpuLock("cpu").exclusive():
        pass
    folder = tmp_path / f"tinysearch-turns-{os.getuid()}"
    assert sorted(p.name for p in folder.iterdir()) == ["cpu.device", "cpu.turnstile"]
    assert folder.stat().st_mode & 0o777 == 0o700
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    folder.rename(tmp_path / f"tinysearch-turns-{other}")
    with pytest.raises(GpuLockError, match=f"tinysearch-turns-{other} belongs to another user; delete it, or set"):
        GpuLock("cpu")


@pytest.mark.parametrize(
    ("left", "all_steps", "speed", "most", "expected"),
    [
        (1000, 1000, 10.0, math.inf, 970),  # three seconds
        (30, 1000, 10.0, math.inf, 0),
        (20, 1000, 10.0, math.inf, 0),  # what is left
        (1000, 1000, 1e6, math.inf, 750),  # a quarter
        (1000, 1000, 0.1, math.inf, 992),  # enough steps for a speed ...
        (24, 24, 1e6, math.inf, 16),  # ... also where they are more than a quarter
        (1000, 1000, 0.1, 40.0, 996),  # not so long that it would pass for a hang
        (1000, 1000, 0.1, 1.0, 999),
        (1, 1, 10.0, math.inf, 0),
    ],
)
def test_as_many_of_the_last_steps_are_trained_alone_as_a_speed_needs(left, all_steps, speed, most, expected):
    asked = {"left": left, "all_steps": all_steps, "steps_per_second": speed, "max_seconds": most}
    assert steps_beside_others(**asked, is_warm=True) == expected


def test_a_process_trains_its_first_steps_beside_others_where_there_are_enough():
    asked = {"all_steps": 1000, "steps_per_second": 0.0, "max_seconds": math.inf, "is_warm": False}
    assert [steps_beside_others(left=left, **asked) for left in (1, 2, 3, 4, 15, 16, 1000)] == [0, 1, 2, 3, 3, 8, 8]
    assert MIN_STEPS_ALONE + WARMUP_STEPS == 8


# What a trial makes of it.


def request(name: str, rungs: list[int], **changes: Any) -> TrialRequest:
    text = {"data": ("text",), "n_heads": 2, "num_threads": 1}
    train = TrainConfig.from_flat("hybrid", {**CONFIG, **text, "rungs": rungs}).to_dict()
    return TrialRequest(train=train, location="checkpoints", checkpoint=f"{name}.pt", **changes)


SHARED = {"exclusive": False, "measures_alone": True}


def trained(request: TrialRequest, *, is_lost: bool = False) -> tuple[list[dict[str, Any]], int]:
    """The measurement at each rung, and the number of reports; `is_lost`: each worker is, after its first news."""
    run, measured, num_reports = TrialRun(request), {}, 0
    while request.rungs[-1] not in measured:
        report = run.step()
        assert report.outcome is None and report.environment_error is None, report
        measurement = report.measurement
        if measurement is not None and measurement["tokens"] in measured:
            assert measurement["exclusive"] == measured[measurement["tokens"]]["exclusive"]
            continue  # reported again
        num_reports += 1
        if measurement is not None:
            measured[measurement["tokens"]] = measurement
        if is_lost:
            run.close()
            run = TrialRun(request)
    run.close()
    return list(measured.values()), num_reports


def state_of(request: TrialRequest) -> list[Any]:
    """The weights, the optimizer and the generator that a trial has ended with."""
    kept = load_checkpoint(Path(request.location, request.checkpoint))
    optimizer = [value for state in kept["optimizer"]["state"].values() for value in state.values()]
    return [*kept["model"].values(), *optimizer, kept["generators"][0], torch.tensor(kept["step_index"])]


def save_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a step or two, unless the machine is slow."""
    monkeypatch.setattr("search.worker.trial.SLICE_SECONDS", 0.003)
    monkeypatch.setattr("search.worker.trial.SAVE_SHARE", math.inf)


@pytest.mark.usefixtures("small_text")
@pytest.mark.parametrize("is_lost", [False, True])
def test_a_trial_that_measures_alone_is_the_same_to_the_bit(is_lost: bool, monkeypatch: pytest.MonkeyPatch):
    rungs = [10 * STEP, 21 * STEP + 5, 50 * STEP]
    undisturbed = request("undisturbed", rungs)
    expected, _ = trained(undisturbed)
    monkeypatch.setattr("search.worker.trial.SHARED_SECONDS", 0.001)  # a step or two
    save_often(monkeypatch)
    shared = request("shared", rungs, **SHARED)
    found, num_reports = trained(shared, is_lost=is_lost)
    assert num_reports > len(rungs)  # and many of them were workers lost between two rungs
    for name in ("tokens", "loss", "bits_per_byte"):
        assert [m[name] for m in found] == [m[name] for m in expected]
    assert all(torch.equal(one, other) for one, other in zip(state_of(shared), state_of(undisturbed), strict=True))
    assert [m["exclusive"] for m in expected + found] == [True] * 6


class Witness:
    """Sees which turn a trial has while it uses the device, on a clock on which a step alone takes half the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, seconds: float = 2.0) -> None:
        self.turn, self.now, self.seen = "", 0.0, []
        witness = self

        def seeing(kind: str, turn: Any) -> Any:
            @contextlib.contextmanager
            def entered(self: GpuLock) -> Iterator[None]:
                assert not list(Path("checkpoints").glob("*.hang")), "a wait for a turn is watched"
                with turn(self):
                    witness.turn = kind
                    yield
                    witness.turn = ""

            return entered

        def noting(name: str, method: Any) -> Any:
            def noted(self: Any, *args: Any, **options: Any) -> Any:
                witness.seen.append((name, witness.turn))
                if name == "train_step":
                    assert trace_file(Path("checkpoints/shared.pt")).exists(), "training is not watched"
                    witness.now += seconds / 2 if witness.turn == "exclusive" else seconds
                return method(self, *args, **options)

            return noted

        for kind in ("shared", "exclusive"):
            monkeypatch.setattr(GpuLock, kind, seeing(kind, getattr(GpuLock, kind)))
        for name in ("__init__", "restore", "train_step", "_evaluate", "save"):
            monkeypatch.setattr(TrainingRun, name, noting(name, getattr(TrainingRun, name)))
        monkeypatch.setattr(Stopwatch, "_now", lambda _: witness.now)

    def steps(self) -> list[str]:
        return [turn for name, turn in self.seen if name == "train_step"]


@pytest.mark.usefixtures("small_text")
def test_the_speed_is_that_of_the_steps_alone_and_the_time_that_of_all(monkeypatch: pytest.MonkeyPatch):
    witness = Witness(monkeypatch)
    found, _ = trained(request("shared", [12 * STEP, 32 * STEP, 72 * STEP], **SHARED, hang_seconds=1000.0))
    legs = [(4, 8), (12, 8), (32, 8)]  # steps together, and alone
    assert witness.steps() == [
        turn for together, alone in legs for turn in ["shared"] * together + ["exclusive"] * alone
    ]
    assert [m["tokens_per_second"] for m in found] == [STEP / 1.0] * 3
    assert [m["train_seconds"] for m in found] == [16.0, 16.0 + 32.0, 16.0 + 32.0 + 72.0]


@pytest.mark.usefixtures("small_text")
def test_a_step_cut_short_by_a_rung_does_not_slow_it(monkeypatch: pytest.MonkeyPatch):
    """It takes as long as a whole one, for fewer tokens."""
    witness = Witness(monkeypatch)
    found, _ = trained(request("shared", [40 * STEP + STEP // 4], **SHARED, hang_seconds=1000.0))
    assert witness.steps().count("exclusive") > 1 and witness.steps()[-1] == "exclusive"
    assert [m["tokens_per_second"] for m in found] == [STEP / 1.0]


@pytest.mark.usefixtures("small_text")
def test_whatever_uses_the_device_has_a_turn_also_after_the_worker_was_lost(monkeypatch: pytest.MonkeyPatch):
    witness = Witness(monkeypatch)
    trained(request("shared", [12 * STEP, 32 * STEP], **SHARED, hang_seconds=1000.0), is_lost=True)
    assert set(witness.seen) == {
        *((name, "shared") for name in ("__init__", "restore", "train_step", "_evaluate", "save")),
        ("train_step", "exclusive"),
    }


@pytest.mark.usefixtures("small_text")
def test_no_checkpoint_lies_within_what_is_trained_alone(monkeypatch: pytest.MonkeyPatch):
    """So a worker that resumes from one measures no less."""
    witness = Witness(monkeypatch)
    save_often(monkeypatch)
    trained(request("shared", [40 * STEP], **SHARED, hang_seconds=1000.0))
    kinds = [turn if name == "train_step" else name for name, turn in witness.seen]
    first = kinds.index("exclusive")
    assert kinds[first : first + 10] == ["exclusive"] * 8 + ["_evaluate", "save"] and kinds.count("exclusive") == 8
    assert kinds[:first].count("save") > 1


@pytest.mark.usefixtures("small_text")
def test_where_the_speed_does_not_matter_nothing_is_trained_alone(monkeypatch: pytest.MonkeyPatch):
    witness = Witness(monkeypatch)
    found, num_reports = trained(request("shared", [12 * STEP, 32 * STEP], exclusive=False, hang_seconds=1000.0))
    assert witness.steps() == ["shared"] * 32 and num_reports == 2
    assert [m["exclusive"] for m in found] == [False] * 2
    assert [m["tokens_per_second"] for m in found] == [STEP / 2.0] * 2


@pytest.mark.usefixtures("small_text")
def test_a_trial_without_a_neighbour_takes_no_turns(tmp_path: Path):
    (measured,), _ = trained(request("own", [8 * STEP]))
    assert measured["exclusive"] and not list(tmp_path.glob("tinysearch-turns-*"))


@pytest.mark.usefixtures("small_text")
def test_between_rungs_the_last_speed_alone_is_reported_once_there_is_one(monkeypatch: pytest.MonkeyPatch):
    Witness(monkeypatch)
    save_often(monkeypatch)
    run = TrialRun(request("shared", [12 * STEP, 60 * STEP], **SHARED, hang_seconds=1000.0))
    speeds: dict[bool, set[float]] = {False: set(), True: set()}
    is_measured = False
    while (report := run.step()).tokens < 60 * STEP:
        is_measured = is_measured or report.measurement is not None
        if report.tokens:
            speeds[is_measured].add(report.tokens_per_second)
    assert speeds == {False: {STEP / 2.0}, True: {STEP / 1.0}}


@pytest.mark.usefixtures("small_text")
def test_without_locks_only_a_speed_that_matters_is_an_environment_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(gpu_lock, "fcntl", None)
    (measured,), _ = trained(request("one", [8 * STEP], exclusive=False))
    assert not measured["exclusive"]
    assert TrialRun(request("other", [8 * STEP], **SHARED)).step() == TrialReport(
        tokens=0, environment_error="trials that share a GPU cannot take turns on this system; give each of them one"
    )


SHARING = """
import contextlib
from search.worker.messages import TrialRequest
from search.worker.trial import TrialRun
from trainer.loop import TrainingRun

alone, train_step = GpuLock.exclusive, TrainingRun.train_step
@contextlib.contextmanager
def noted(self):
    with alone(self):
        began = time.monotonic()
        yield
        intervals.append(("exclusive", began, time.monotonic()))
def slowly(self, num_tokens):
    began = time.monotonic()
    time.sleep(0.005)
    loss = train_step(self, num_tokens)
    intervals.append(("step", began, time.monotonic()))
    return loss
GpuLock.exclusive, TrainingRun.train_step = noted, slowly

request = TrialRequest.from_dict(json.loads(Path(f"{NAME}.json").read_text()))
run, measured = TrialRun(request), []
Path(f"{NAME}.ready").touch()
wait_for("one.ready", "two.ready")
while not measured or measured[-1]["tokens"] < request.rungs[-1]:
    if (measurement := run.step().measurement) is not None:
        measured.append(measurement)
print(json.dumps({"measured": measured, "intervals": intervals}))
"""


@pytest.mark.slow  # two processes that load torch
@pytest.mark.parametrize("both_measure", some_of([True, False], always=[True]))
def test_of_two_trials_on_one_device_none_trains_while_the_other_measures(small_text: Path, both_measure: bool):
    rungs = [20 * STEP, 40 * STEP, 80 * STEP]
    for name, measures_alone in (("one", True), ("two", both_measure)):
        asked = request(name, rungs, exclusive=False, measures_alone=measures_alone)
        Path(f"{name}.json").write_text(json.dumps(asked.to_dict()))
    one, two = outputs(processes(small_text, *(f"NAME = {name!r}\n{SHARING}" for name in ("one", "two"))))
    assert [m["exclusive"] for m in one["measured"]] == [True] * 3
    assert [m["exclusive"] for m in two["measured"]] == [both_measure] * 3
    assert [m["loss"] for m in one["measured"]] == [m["loss"] for m in two["measured"]]

    intervals = [one["intervals"], two["intervals"]]
    assert [sum(kind == "step" for kind, *_ in of) for of in intervals] == [80, 80]
    assert [sum(kind == "exclusive" for kind, *_ in of) for of in intervals] == [3, 3 * both_measure]
    steps = [[interval for interval in of if interval[0] == "step"] for of in intervals]
    assert overlaps(steps[0], steps[1], "step")  # they did train at once
    assert overlaps(intervals[0], steps[1], "exclusive") == overlaps(intervals[1], steps[0], "exclusive") == 0
