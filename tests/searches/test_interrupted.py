"""A search in a process of its own that is interrupted in every way: the same command resumes it, and loses nothing."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.searches import PATIENCE_SECONDS, SLOW, driver, kill, states_in_journal, wait_for, write_text
from tests.support.tool import printed_json, succeeds

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_ray")]

ASKED = ("slow.yaml", "--data", "text", "--name", "study", "--cpus-per-trial", "1")
ALONE = ("--parallel", "1")  # a worker fewer to start
JOURNAL = Path("runs/study/journal.log")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the present one, with a small text and a space whose trials take seconds."""
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path)
    Path("slow.yaml").write_text(SLOW)
    return tmp_path


def rungs_written() -> int:
    return JOURNAL.read_text(errors="ignore").count('"rung ') if JOURNAL.exists() else 0


def more_rungs(num_rungs: int) -> Callable[[], bool]:
    """Whether this many rungs have been written from now on."""
    before = rungs_written()
    return lambda: rungs_written() >= before + num_rungs


def assert_complete(before: dict[int, dict]) -> None:
    """Every trial has ended, once, every rung below its deepest was measured, and none of those `before` again."""
    found = printed_json("trials", "study")
    assert [t["trial"] for t in found] == list(range(6))
    assert {t["outcome"] for t in found} <= {"finished", "stopped"}
    assert set(states_in_journal(JOURNAL).values()) <= {1, 2}
    for trial in found:
        deepest = max(map(int, trial["measurements"]))
        assert sorted(map(int, trial["measurements"])) == [r for r in (8_000, 48_000) if r <= deepest]
        for rung, measured in before.get(trial["trial"], {}).items():
            assert trial["measurements"][rung] == measured


def workers_of(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """Those that train now; between two trials Ray may start another."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "Trainable" in " ".join(process.cmdline()):
                found.append(process)
    return found


def measured() -> dict[int, dict]:
    return {t["trial"]: t["measurements"] for t in printed_json("trials", "study")}


def test_a_search_that_is_interrupted_in_every_way_loses_nothing(folder: Path):
    # Ctrl-C drains.
    with driver(folder, *ASKED) as process:
        wait_for(more_rungs(1), "first rung", process)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, output
    assert "interrupted; run the same command to resume" in output
    states = states_in_journal(JOURNAL)
    assert 0 not in states.values(), "a trial is left RUNNING"
    assert 4 in states.values(), "no trial waits"
    drained = measured()

    # A search survives the loss of a worker; a second Ctrl-C ends it at once.
    with driver(folder, *ASKED, *ALONE) as process:
        wait_for(more_rungs(1), "rung after Ctrl-C", process)
        wait_for(lambda: bool(workers_of(process)), "worker", process)
        workers_of(process)[0].kill()
        time.sleep(3)
        assert process.poll() is None, "the driver did not survive the loss of a worker"
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130, output

    # A driver is killed.
    with driver(folder, *ASKED, *ALONE) as process:
        wait_for(more_rungs(1), "rung after a second Ctrl-C", process)
        everything = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait(timeout=30)
        kill(everything)  # without its driver a local Ray ends by itself, in its own time
    status = printed_json("status", "study")
    assert status["driver"] is None and status["counts"]["running"] == 0
    killed = measured()

    succeeds("run", *ASKED, *ALONE)
    assert_complete(drained)
    assert_complete(killed)
