"""A search as a job of a real Ray cluster that asks for a token, on a machine that is a namespace of this one."""

from __future__ import annotations

import json
import os
import secrets
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

RAY = Path(sys.executable).parent / "ray"
ADDRESS = "http://127.0.0.1:8265"
START = f"""
ip link set lo up
mkdir -p /tmp/ray && mount -t tmpfs tmpfs /tmp/ray && mount -t tmpfs tmpfs /dev/shm
exec {RAY} start --head --block --num-cpus=2 --num-gpus=0 --node-ip-address=127.0.0.1
"""
PATIENCE_SECONDS = 900

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.skipif(not can_make_machines(), reason="needs root on Linux, unshare and ip, to make a machine"),
    pytest.mark.usefixtures("small_text"),
]


class Machine:
    """Where the cluster runs; commands are run on it."""

    def __init__(self, pid: int):
        self._enter = ["nsenter", f"--target={pid}", "--net", "--pid", "--mount", f"--wdns={Path.cwd()}"]

    def tinysearch(self, *arguments: str, is_checked: bool = True, **environment: str) -> str:
        words = [*self._enter, sys.executable, "-m", "search.cli", *arguments]
        env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
        run = subprocess.run(words, capture_output=True, text=True, timeout=120, env=env)
        assert run.returncode == 0 or not is_checked, run.stderr
        return run.stdout + run.stderr

    def state(self, **environment: str) -> str:
        return json.loads(self.tinysearch("jobs", "--json", **environment))[-1]["state"]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    for module in ("aiohttp_cors", "colorful", "opencensus"):
        pytest.importorskip(module, reason="the job server needs ray[default]", exc_type=ImportError)
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("HOME", str(Path.cwd()))  # where Ray would look for another token
    monkeypatch.setenv("PATH", f"{RAY.parent}:{os.environ['PATH']}")
    with open("ray.log", "w") as log:
        environment = {**os.environ, "RAY_AUTH_MODE": "token"}
        cluster = subprocess.Popen([*NAMESPACES, "bash", "-ec", START], stdout=log, stderr=log, env=environment)
    try:
        wait_for(lambda: "Ray runtime started" in Path("ray.log").read_text() or cluster.poll() is not None)
        (first,) = (pid for pid in descendants(cluster.pid) if "start --head --block" in command(pid))
        yield Machine(first)
    finally:
        cluster.kill()  # its first process dies with it, and all others with that
        cluster.wait()


def wait_for(what) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not what():
        assert time.monotonic() < end, f"still not after {PATIENCE_SECONDS} s"
        time.sleep(1)  # each question is a process that imports Ray


def test_a_job_is_stopped_at_a_checkpoint_and_the_next_one_ends_its_study(machine: Machine):
    shared, text = Path("shared").absolute(), Path("text").absolute()
    asked = ("submit", str(ROOT / "spaces" / "smoke.yaml"), "--to", "ray", "--address", ADDRESS, "--trials", "24")
    asked = (*asked, "--cluster-runs", str(shared), "--data", str(text), "--set", "d_model=32")
    machine.tinysearch(*asked)
    wait_for(lambda: "finished at" in machine.tinysearch("logs"))
    assert machine.state(RAY_AUTH_TOKEN="wrong").endswith("Forbidden: Invalid authentication token")
    assert "stopped at their last checkpoint" in machine.tinysearch("stop", "smoke")
    assert machine.state() == "STOPPED"
    assert "interrupted; run the same command to resume" in machine.tinysearch("logs", "smoke")
    assert not stored(shared).is_complete
    machine.tinysearch(*asked)
    wait_for(lambda: machine.state() not in ("PENDING", "RUNNING"))
    assert machine.state() == "SUCCEEDED", machine.tinysearch("logs")
    overview = stored(shared)
    assert overview.is_complete and len(overview.records) == 24
    assert not any(record.faults for record in overview.records)


def stored(runs: Path) -> Overview:
    return Overview.stored(StudyFolder(runs, "smoke").load(), is_run=False)
