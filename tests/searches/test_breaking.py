"""A real search on a real Ray whose workers break in every way that a CPU allows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.worker.faults import HOST_OUT_OF_MEMORY, cause_of
from tests.support.paths import ROOT

pytestmark = pytest.mark.slow  # starts Ray, waits for a hang to be noticed, and starts nine workers again

DEADLINE_SECONDS = 900

WORKER = """
import os, signal, time
from pathlib import Path
import torch
from search.worker.trial import TrialRun

class BreakingTrial(TrialRun):
    def _advance(self, corpus):
        report = super()._advance(corpus)  # trained and saved, and not reported yet
        checkpoint = Path(self._request.location, self._checkpoint)
        number, mark = int(checkpoint.stem.removeprefix("trial-")), checkpoint.with_suffix(".broke")
        if number == 4:
            os._exit(3)
        if number < 4 and not mark.exists():
            mark.touch()
            if number == 1:
                time.sleep(10**6)
            if number == 2:
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")
            if number == 3:
                checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
            os.kill(os.getpid(), signal.SIGKILL)
        return report
"""
LATE_WORKER = """
import os, time
from pathlib import Path
from search.worker.trial import TrialRun

HERE = Path(__file__).parent
BEGUN, REPORTED = HERE / "begun", HERE / "reported"  # a file for each process, a line for each report
BEGUN.mkdir(exist_ok=True)
(BEGUN / str(os.getpid())).touch()
try:
    os.close(os.open(HERE / "first", os.O_CREAT | os.O_EXCL))
except FileExistsError:
    while not REPORTED.exists() or len(REPORTED.read_text().split()) < 3:
        time.sleep(0.1)

class LateTrial(TrialRun):
    def _advance(self, corpus):
        report = super()._advance(corpus)
        with REPORTED.open("a") as file:
            file.write(f"{os.getpid()}\\n")
        return report
"""
DRIVER = f"""
import ray, sys
from pathlib import Path
from rich.console import Console
import search.driver.launch as launch, search.driver.tune as tune
from search.driver.options import RunOptions
original = tune.run_trials
def with_breaking_workers(*arguments, **options):
    print("asks for a token:", ray._raylet.get_authentication_mode() == ray._raylet.AuthenticationMode.TOKEN)
    return original(*arguments, **options, worker=sys.argv[1])
tune.run_trials = with_breaking_workers
space = Path({str(ROOT / "spaces" / "smoke.yaml")!r})
options = RunOptions(space=space, name=sys.argv[2], data=(Path("text"),), parallel=2, hang_minutes=0.5)
launch.run_search(options, Console(width=250))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("breaking")
    (folder / "text").mkdir()
    for i in range(10):
        (folder / "text" / f"{i}.txt").write_text(" ".join(f"{(i + 3) * j % 97} and {j % 13}" for j in range(400)))
    (folder / "breaking.py").write_text(WORKER)
    (folder / "late.py").write_text(LATE_WORKER)
    return folder


def python(folder: Path, *arguments: str) -> str:
    environment = {
        **os.environ,
        "HOME": str(folder),
        "TINYSEARCH_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "COLUMNS": "200",
    }
    run = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_a_worker_that_rays_memory_monitor_ends_is_lost_like_any_other():
    from ray.exceptions import OutOfMemoryError, RayActorError

    from search.driver.tune import ActorManager

    class Manager(ActorManager):
        def __init__(self):
            self._failed_actor_ids = set()

        def _cleanup_actor(self, tracked_actor: Any) -> None:
            pass

    seen: list[Exception] = []
    actor = SimpleNamespace(actor_id="a", _on_error=None)
    task = SimpleNamespace(_tracked_actor=actor, _on_error=lambda _, error: seen.append(error))
    Manager()._actor_task_failed(task, OutOfMemoryError("1 worker(s) were killed"))  # Ray's own raises here
    assert isinstance(seen[0], RayActorError)
    assert cause_of(str(seen[0])) == HOST_OUT_OF_MEMORY


def test_every_trial_resumes_but_the_one_that_breaks_each_time_and_all_of_it_is_reported(folder: Path):
    output = python(folder, "-c", DRIVER, "breaking:BreakingTrial", "smoke")
    assert "asks for a token: True" in output
    assert "raylet" not in output, "Ray speaks up"
    assert not (folder / ".ray").exists(), "Ray wrote a token to the disk"
    trials = json.loads(python(folder, "-m", "search.cli", "trials", "smoke", "--json"))
    assert len(trials) == 8
    assert {t["outcome"] for t in trials if t["trial"] != 4} <= {"finished", "stopped"}
    faults = {t["trial"]: t["faults"] for t in trials if t["faults"]}
    lost, then = "worker lost: killed or crashed, last report at 0 tokens; ", "resumed from its checkpoint"
    assert faults == {
        0: [lost + then],
        1: [f"worker hung: no report for 0.5 min, last report at 0 tokens; {then}"],
        2: [f"CUDA error: device-side assert triggered, last report at 0 tokens; {then}"],
        3: [
            lost + then,
            "checkpoint damaged: the checkpoint is damaged or cut short; deleted, and trained again from the start",
        ],
        4: [lost + then] * 3 + [lost + "given up"],
    }
    assert (trials[4]["outcome"], trials[4]["reason"]) == (
        "failed",
        "its worker was lost 4 times, the last time: killed or crashed",
    )
    assert "breaking.py" in trials[1]["traceback"] and "in _advance" in trials[1]["traceback"]
    line = (
        "faults: 6 workers lost (trials 0, 3, 4), 1 worker hung (trial 1), 1 CUDA error (trial 2), "
        "1 checkpoint damaged (trial 3)"
    )
    assert line in python(folder, "-m", "search.cli", "status", "smoke").splitlines()
    assert not list(folder.glob("runs/smoke/checkpoints/*.hang"))


def test_a_worker_that_starts_late_is_waited_for_while_others_are_free_again_and_again(folder: Path):
    python(folder, "-c", DRIVER, "late:LateTrial", "late")
    begun = {path.name for path in (folder / "begun").iterdir()}
    assert begun == set((folder / "reported").read_text().split()) and len(begun) == 2
