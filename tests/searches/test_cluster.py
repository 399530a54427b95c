"""A real Ray cluster of several nodes: a job's search uses all of them, and survives lost ones."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from typer.testing import CliRunner

from benchmarks.faults import SPACE, found_wrong, written_twice
from benchmarks.postgres import PASSWORD, Server, binaries
from search.cli.main import app
from search.worker.object_store import ObjectStore
from tests.support.paths import ROOT
from tests.support.raylets import CAN_UNSHARE, RAY, Cluster, running_cluster
from tests.support.s3 import BUCKET, s3_environment, s3_server

PATIENCE_SECONDS = 900.0  # a slow machine is not a fault
SHARED = f"s3://{BUCKET}/shared"
RUNGS = [8_000, 24_000, 72_000]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not CAN_UNSHARE, reason="nodes on one machine take namespaces, which take root"),
]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that all nodes share, with a space and a text."""
    path = Path(tempfile.mkdtemp(prefix="ts-"))  # Ray's sockets want a short path
    (path / "space.yaml").write_text(SPACE)
    (path / "text.txt").write_text("\n".join(f"{i * i % 97} and {i % 13} make {i}" for i in range(4000)))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def cluster(folder: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A head and two nodes of one core, whose jobs find an S3 in their environment, and a database if there is one.

    Each test has its own, because it starts and kills nodes.
    """
    environment = s3_environment()
    with s3_server(environment), running_cluster(folder) as cluster:
        cluster.environment.update(environment)
        if binaries() is not None:
            cluster.environment["OPTUNA_STORAGE"] = request.getfixturevalue("_server").new_database()
        for name in ("head", "first", "second"):
            cluster.start(name, num_cpus=int(name != "head"))
        yield cluster


class Job:
    """A search that was submitted as a Ray job and runs in another thread.

    The nodes share its folder, or nothing: then its record is in a database, its checkpoints and text in an S3, and
    what it has beside them on the head alone.
    """

    def __init__(self, cluster: Cluster, folder: Path, name: str, *, trials: int, shares_folder: bool):
        search = [sys.executable, "-m", "search.cli", "run", str(folder / "space.yaml")]
        search += ["--name", name, "--trials", str(trials), "--address", "auto"]
        if shares_folder:
            search += ["--data", str(folder / "text.txt"), "--runs", str(folder / "runs")]
            words = ["env", "-u", "OPTUNA_STORAGE", *search]
        else:
            own = cluster.own / name
            search += ["--data", str(own / "text.txt"), "--runs", str(own / "runs"), "--storage-path", SHARED]
            words = ["sh", "-c", f"mkdir {own} && cp {folder / 'text.txt'} {own} && exec {shlex.join(search)}"]
        command = ["job", "submit", "--address", cluster.jobs, "--working-dir", str(ROOT), "--", *words]
        self._thread = threading.Thread(target=self._run, args=(cluster, command))
        self._thread.start()

    def _run(self, cluster: Cluster, command: list[str]) -> None:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.result = cluster.run(*command)
            is_too_early = "No available agent" in self.result.stdout + self.result.stderr  # the head has just begun
            if not is_too_early or time.monotonic() > give_up:
                return
            time.sleep(2)

    def wait_for(self, what: str, is_so: Callable[[], bool]) -> None:
        """Wait while the job runs."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            assert self._thread.is_alive(), self.result.stdout + self.result.stderr
            assert time.monotonic() < give_up, f"timed out waiting for {what}"
            time.sleep(0.5)

    @property
    def is_running(self) -> bool:
        return self._thread.is_alive()

    def output(self) -> str:
        """All that the job said, once it has ended well."""
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive(), "the job does not end"
        assert self.result.returncode == 0, self.result.stdout + self.result.stderr
        return self.result.stdout


def ask(folder: Path, command: str, study: str, *, storage: str | None = None) -> Any:
    """What a command of the tool prints about a study that other processes run; None if there is none yet."""
    where = ["--runs", str(folder / "runs"), *(["--storage", storage] if storage else [])]
    result = CliRunner().invoke(app, [command, study, "--json", *where])
    return json.loads(result.stdout) if result.exit_code == 0 else None


def assert_strangers_are_refused(cluster: Cluster) -> None:
    """Those who have another token."""
    stranger = {**cluster.environment, "RAY_AUTH_TOKEN": "0" * 64}
    command = [str(RAY), "job", "list", "--address", cluster.jobs]
    answer = subprocess.run(command, env=stranger, capture_output=True, text=True, timeout=60)
    assert answer.returncode != 0 and "401" in answer.stderr + answer.stdout or "token" in answer.stderr.lower()


def use_its_storage(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let this process read the cluster's S3; returns the URL of its database."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, cluster.environment[name])
    return cluster.environment["OPTUNA_STORAGE"]


def hosts(folder: Path, study: str, **options: Any) -> set[str]:
    """Where trials were measured last."""
    trials = ask(folder, "trials", study, **options) or ()
    return {trial["environment"]["host"] for trial in trials if trial["environment"]}


def test_a_search_without_a_common_folder_uses_every_node_and_outlives_one_that_is_killed(
    cluster: Cluster, folder: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch
):
    assert_strangers_are_refused(cluster)
    storage = use_its_storage(cluster, monkeypatch)
    job = Job(cluster, folder, "alone", trials=8, shares_folder=False)
    job.wait_for("both nodes to train", lambda: hosts(folder, "alone", storage=storage) >= {"first", "second"})
    cluster.kill("second")
    output = job.output()
    assert "from now on 1 trial at a time" in output
    assert PASSWORD not in output and quote(PASSWORD, safe="") not in output
    assert ask(folder, "status", "alone", storage=storage)["complete"]
    trials = ask(folder, "trials", "alone", storage=storage)
    assert len(trials) == 8 and found_wrong(trials, RUNGS) == {"lost": 0, "double": 0, "running": 0}
    assert all(fault.startswith("worker lost: its machine ") for trial in trials for fault in trial["faults"])
    assert not any(trial["outcome"] == "failed" for trial in trials)
    assert not (folder / "runs").exists()


def test_two_searches_share_a_database_and_an_s3_but_no_folder_while_a_dashboard_reads_them(
    cluster: Cluster, folder: Path, postgres: Server, monkeypatch: pytest.MonkeyPatch
):
    storage = use_its_storage(cluster, monkeypatch)
    jobs = {name: Job(cluster, folder, name, trials=6, shares_folder=False) for name in ("one", "other")}
    for name, job in jobs.items():
        job.wait_for("a rung", lambda name=name: bool(hosts(folder, name, storage=storage)))
    with dashboard(storage, "one") as url:
        num_read = 0
        while any(job.is_running for job in jobs.values()):
            with urllib.request.urlopen(f"{url}/api/studies", timeout=60) as answer:
                assert {study["study_name"] for study in json.load(answer)["study_summaries"]} == set(jobs)
            num_read += 1
    assert num_read > 1
    for name, job in jobs.items():
        assert "1 trial at a time" in job.output()
        assert PASSWORD not in job.output() and quote(PASSWORD, safe="") not in job.output()
        assert ask(folder, "status", name, storage=storage)["complete"]
        trials = ask(folder, "trials", name, storage=storage)
        assert len(trials) == 6 and found_wrong(trials, RUNGS) == {"lost": 0, "double": 0, "running": 0}
        finished = {f"trial-{trial['trial']}.pt" for trial in trials if trial["outcome"] == "finished"}
        assert ObjectStore(SHARED).sizes(f"{name}/checkpoints").keys() == finished
    assert not (folder / "runs").exists()
    for node in ("first", "second"):
        assert len(list((folder / f"ray-{node}" / "cache").glob("*/train.bin"))) == 1  # its copy of the text


@contextlib.contextmanager
def dashboard(storage: str, study: str) -> Iterator[str]:
    """The address of the tool's own dashboard over a database."""
    command = [sys.executable, "-m", "search.cli", "dashboard", study, "--storage", storage, "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().split()[1].partition("/dashboard")[0]
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def test_a_search_uses_every_node_and_one_that_joins_and_outlives_one_that_is_killed(cluster: Cluster, folder: Path):
    assert cluster.run("status", "--address", f"127.0.0.1:{cluster.port}").returncode == 0
    job = Job(cluster, folder, "grows", trials=24, shares_folder=True)
    job.wait_for("both nodes to train", lambda: hosts(folder, "grows") >= {"first", "second"})
    cluster.start("third", num_cpus=1)
    job.wait_for("the third to train", lambda: "third" in hosts(folder, "grows"))
    cluster.kill("second")
    assert "from now on 3 trials at a time" in job.output()
    trials = ask(folder, "trials", "grows")
    assert ask(folder, "status", "grows")["complete"] and len(trials) == 24
    assert found_wrong(trials, RUNGS) == {"lost": 0, "double": 0, "running": 0}
    assert written_twice(folder / "runs" / "grows" / "journal.log") == 0
    assert all(fault.startswith("worker lost: its machine ") for trial in trials for fault in trial["faults"])
    assert not any(trial["outcome"] == "failed" for trial in trials)
