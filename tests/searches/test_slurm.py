"""The Slurm script on three machines, which are namespaces of this one: real `ray symmetric-run`, real searches."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.report.overview import Overview
from search.storage.folder import StudyFolder
from tests.support.machines import NAMESPACES, can_make_machines, command, descendants
from tests.support.paths import ROOT

FAKE = ROOT / "tests" / "support" / "fake_slurm.py"
PROGRAMS = ("sbatch", "srun", "squeue", "scontrol", "scancel")
PATIENCE_SECONDS = 900  # on a machine that does other things too; alone it is a fraction

SPACE = """
family: hybrid
budget: {trials: 3, min_tokens: 4K, max_tokens: 36K, eta: 3, eval_tokens: 4K}
parameters:
  d_model: {values: [16, 32], default: 16}
  d_state: {value: 4}
  n_layers: {value: 2}
  attn_layer_idx: {value: 1}
  n_heads: {value: 2}
  seq_len: {value: 32}
  batch_size: {value: 8}
  learning_rate: {min: 1e-4, max: 3e-2, log: true, default: 1e-3}
presets:
  default: {learning_rate: 1e-3}
"""


pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(not can_make_machines(), reason="needs root on Linux, unshare and ip, to make three machines"),
    pytest.mark.usefixtures("small_text"),
]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The commands of a Slurm of three nodes on the PATH, and its folder. Everything in it ends with it."""
    folder, programs, plain = tmp_path / "slurm", tmp_path / "programs", tmp_path / "plain"
    for path in (folder, programs, plain):
        path.mkdir()
    for name in PROGRAMS:
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} {name} "$@"\n')
        (programs / name).chmod(0o755)
    # Ray without its dashboard, as tinysearch alone installs it: a dozen processes fewer.
    (plain / "aiohttp_cors.py").write_text("raise ModuleNotFoundError(name=__name__)\n")
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{plain}")
    Path("tiny.yaml").write_text(SPACE)
    machine = subprocess.Popen([*NAMESPACES, sys.executable, str(FAKE), "cluster", str(folder)])
    try:
        sockets = [folder / f"{name}.sock" for name in ("controller", "node0", "node1", "node2")]
        wait_for(lambda: all(socket.exists() for socket in sockets), machine)
        yield folder
    finally:
        machine.kill()  # the first process of the outer namespace dies with it, and all others with that
        machine.wait()


def wait_for(what, machine: subprocess.Popen | None = None) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert machine is None or machine.poll() is None, "the fake Slurm ended"
        if time.monotonic() > end:
            raise AssertionError(f"still not after {PATIENCE_SECONDS} s:\n{log_text()}")
        time.sleep(0.1)


def log_text() -> str:
    return "".join(file.read_text(errors="replace") for file in Path("runs").glob("*/slurm-*.log"))


def tinysearch(*arguments: str) -> str:
    command = [sys.executable, "-m", "search.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


def state() -> str:
    return subprocess.run(["squeue", "--states=all"], capture_output=True, text=True, check=True).stdout.strip()


def has_ended() -> bool:
    return state() in ("COMPLETED", "FAILED")


def stored() -> Overview:
    return Overview.stored(StudyFolder(Path("runs").absolute(), "tiny").load(), is_run=False)


def test_three_nodes_become_one_ray_that_searches_to_the_end(slurm: Path):
    tinysearch("submit", "tiny.yaml", "--to", "slurm", "--nodes", "3", "--cpus-per-node", "1", "--data", "text")
    wait_for(has_ended)
    log = log_text()
    assert state() == "COMPLETED", log
    assert log.count("On head node.") == 1 and log.count("On worker node.") == 2, log
    assert "3 trials up to 36,000 tokens; 3 trials at a time, 1 CPU core each" in log
    overview = stored()
    assert overview.is_complete and len(overview.records) == 3
    (job,) = json.loads(tinysearch("jobs", "--json"))
    assert (job["study"], job["state"]) == ("tiny", "COMPLETED")
    assert "trials at a time" in tinysearch("logs", "tiny")


def test_a_job_that_must_end_drains_is_queued_again_and_resumes(slurm: Path):
    """Slurm's notice before the time is up: the second start of the same script ends the study."""
    tinysearch(*("submit", "tiny.yaml", "--to", "slurm", "--data", "text", "--set", "d_model=32", "--trials", "4"))
    wait_for(lambda: "finished at" in log_text() or has_ended())
    subprocess.run(["scancel", "--batch", "--signal=TERM", "4711"], check=True)
    wait_for(has_ended)
    log = log_text()
    assert state() == "COMPLETED", log
    assert log.count("ending: every trial stops at its next checkpoint") == 1, log
    assert log.count("queued again; the study will resume from here") == 1, log
    assert log.count("4 trials up to 36,000 tokens") == 2, "appended to, not overwritten"
    overview = stored()
    assert overview.is_complete and len(overview.records) == 4
    assert not any(record.faults for record in overview.records)


def test_a_stopped_job_is_not_queued_again_and_resumes_when_submitted_again(slurm: Path):
    asked = ("submit", "tiny.yaml", "--to", "slurm", "--data", "text", "--trials", "4")
    tinysearch(*asked)
    wait_for(lambda: "finished at" in log_text() or has_ended())
    assert "its trials stop at their next checkpoint" in tinysearch("stop", "tiny")
    wait_for(has_ended)
    assert state() == "FAILED" and "interrupted; run the same command to resume" in log_text(), log_text()
    assert "queued again" not in log_text()
    assert not stored().is_complete
    tinysearch(*asked)
    wait_for(has_ended)
    assert state() == "COMPLETED" and stored().is_complete, log_text()
    assert len(json.loads(tinysearch("jobs", "tiny", "--json"))) == 2


def test_nothing_is_left_of_it(slurm: Path):
    """Not even what a job left running: the processes end with the namespace."""
    wait_for(lambda: (slurm / "node0.sock").exists())
    mine = os.getpid()
    (unshare,) = (pid for pid in descendants(mine) if command(pid).startswith("unshare --net --pid --mount --fork"))
    below = descendants(unshare)
    assert len(below) >= 7, "a controller, and three nodes of two processes or more"
    os.kill(unshare, signal.SIGKILL)
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() and "fake_slurm" in command(pid) for pid in below))
