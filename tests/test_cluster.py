"""A real Ray cluster of several nodes: a job's search runs over all of them, and outlives those that are lost."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import found_wrong, written_twice
from tests.raylets import CAN_UNSHARE, Cluster, running_cluster

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 240.0
RUNGS = [8_000, 24_000, 72_000]
SPACE = """
family: hybrid
budget: {trials: 12, min_tokens: 8K, max_tokens: 72K, eta: 3, eval_tokens: 1K}
parameters:
  d_model: {values: [32, 48, 64], default: 32}
  n_layers: {min: 2, max: 4, default: 2}
  n_heads: {value: 2}
  attn_layer_idx: {value: 1}
  seq_len: {value: 32}
  batch_size: {value: 4}
  learning_rate: {min: 1e-4, max: 1e-2, log: true, default: 1e-3}
presets:
  reference: {d_model: 48}
"""

pytestmark = [
    pytest.mark.slow,  # starts Ray, several times
    pytest.mark.skipif(not CAN_UNSHARE, reason="nodes on one machine take namespaces, which take root"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="ts-"))  # Ray's sockets want a short path
    (path / "space.yaml").write_text(SPACE)
    (path / "text.txt").write_text("\n".join(f"{i * i % 97} and {i % 13} make {i}" for i in range(4000)))
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Job:
    """A search that was submitted as a Ray job, under way in another thread."""

    def __init__(self, cluster: Cluster, folder: Path, *arguments: str):
        self._runs = folder / "runs"
        search = [sys.executable, "-m", "search.cli", "run", str(folder / "space.yaml"), "--data"]
        search += [str(folder / "text.txt"), "--address", "auto", "--runs", str(self._runs), *arguments]
        command = ["job", "submit", "--address", cluster.jobs, "--working-dir", str(ROOT), "--", *search]
        self._thread = threading.Thread(target=self._run, args=(cluster, command))
        self._thread.start()

    def _run(self, cluster: Cluster, command: list[str]) -> None:
        self.result = cluster.run(*command)

    def wait_for(self, what: str, is_so: Callable[[], bool]) -> None:
        """Wait while the job runs."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            assert self._thread.is_alive(), self.result.stdout + self.result.stderr
            assert time.monotonic() < give_up, f"waited in vain for {what}"
            time.sleep(0.5)

    def output(self) -> str:
        """All that the job said, once it has ended well."""
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "the job does not end"
        assert self.result.returncode == 0, self.result.stdout + self.result.stderr
        return self.result.stdout


def ask(folder: Path, command: str, study: str = "space") -> Any:
    """What a command of the tool tells of a study that other processes run."""
    from typer.testing import CliRunner

    from search.cli import app

    result = CliRunner().invoke(app, [command, study, "--json", "--runs", str(folder / "runs")])
    return json.loads(result.stdout) if result.exit_code == 0 else None


def hosts(folder: Path) -> set[str]:
    """Where trials were measured last."""
    return {trial["environment"]["host"] for trial in ask(folder, "trials") or () if trial["environment"]}


def test_a_search_uses_every_node_and_one_that_joins_and_outlives_one_that_is_killed(folder: Path):
    with running_cluster(folder) as cluster:
        for name in ("head", "first", "second"):
            cluster.start(name, num_cpus=int(name != "head"))
        assert cluster.run("status", "--address", f"127.0.0.1:{cluster.port}").returncode == 0
        job = Job(cluster, folder)
        job.wait_for("both nodes to train", lambda: hosts(folder) >= {"first", "second"})
        cluster.start("third", num_cpus=1)
        job.wait_for("the third to train", lambda: "third" in hosts(folder))
        cluster.kill("second")
        told = job.output()
    trials = ask(folder, "trials")
    assert ask(folder, "status")["complete"] and len(trials) == 12
    assert found_wrong(trials, RUNGS) == {"lost": 0, "double": 0, "running": 0}
    assert written_twice(folder / "runs" / "space" / "journal.log") == 0
    faults = [fault for trial in trials for fault in trial["faults"]]
    assert all(fault.startswith("worker lost: its machine ") for fault in faults)
    assert not any(trial["outcome"] == "failed" for trial in trials)
    assert told.index("from now on 3 trials at a time") < told.index("from now on 2 trials at a time")
