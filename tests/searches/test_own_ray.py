"""A search without --address starts its own Ray, whatever else runs, or was left behind, on the machine."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from search.driver import cluster, scratch
from search.driver.scratch import scratch_folder
from search.storage.folder import StudyError
from tests.support.paths import ROOT

SEEN = """
import json, os, ray
from search.driver import cluster
with cluster.local_ray(1, 0):
    seen = [[node.cpus for node in cluster.nodes()], sorted(set(cluster.OF_ANOTHER_RAY) & set(os.environ))]
    mode = ray._raylet.get_authentication_mode() == ray._raylet.AuthenticationMode.TOKEN
print(json.dumps([*seen, "RAY_ADDRESS" in os.environ, mode]))
"""


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No variable names a place, and one usual place is there."""
    for name in scratch.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(scratch, "SOCKET_BYTES", 300)  # pytest's own folders are long
    return tmp_path


@pytest.mark.slow
def test_what_belongs_to_another_ray_is_ignored_and_ray_asks_for_a_token_that_is_never_written(tmp_path: Path):
    left = tmp_path / "ray"
    (left / "session_latest").mkdir(parents=True)
    (left / "ray_current_cluster").write_text("192.0.2.1:6379")
    foreign = {
        "RAY_ADDRESS": "192.0.2.1:6379",
        "RAY_NAMESPACE": "theirs",
        "RAY_REDIS_ADDRESS": "192.0.2.1:1",
        "RAY_CLIENT_MODE": "1",
        "RAY_JOB_CONFIG_JSON_ENV_VAR": '{"runtime_env": {"working_dir": "gcs://_ray_pkg_gone.zip"}, "metadata": {}}',
        "RAY_OVERRIDE_RESOURCES": '{"CPU": 7}',
        "RAY_AUTH_TOKEN": "",
        "TMPDIR": str(tmp_path),
        "HOME": str(tmp_path),
    }
    environment = {**os.environ, **foreign, "PYTHONPATH": str(ROOT)}
    run = subprocess.run([sys.executable, "-c", SEEN], env=environment, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[[1.0], [], true, true]"
    assert not (tmp_path / ".ray").exists()


def test_ray_is_given_a_new_folder_that_is_gone_afterwards(nowhere: Path):
    with scratch_folder([str(nowhere)]) as first, scratch_folder([str(nowhere)]) as second:
        assert first != second and first.parent == second.parent == nowhere
    assert list(nowhere.iterdir()) == []


@pytest.mark.parametrize("variable", scratch.VARIABLES)
def test_a_variable_says_where_unless_its_folder_does_not_do(
    variable: str, nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
):
    there = tmp_path_factory.mktemp("t")
    monkeypatch.setenv(variable, str(there))
    with scratch_folder([str(nowhere)]) as folder:
        assert folder.parent == there
    too_long = there / ("long" * 60)
    too_long.mkdir()
    for unfit in (too_long, there / "missing"):
        monkeypatch.setenv(variable, str(unfit))
        with scratch_folder([str(nowhere)]) as folder:
            assert folder.parent == nowhere
    assert list(too_long.iterdir()) == []


def test_where_no_folder_does_each_is_named_with_its_fault_and_the_remedy(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TMPDIR", "/nowhere/at/all")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(StudyError) as refused, scratch_folder([str(nowhere)]):
        pass
    message = str(refused.value)
    assert "TMPDIR=/nowhere/at/all (No such file or directory)" in message
    assert f"{nowhere} (the disk is full)" in message and "set TMPDIR to one" in message
    assert list(nowhere.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "raise the limit with `ulimit -n 8192`"),
        (OSError(errno.EACCES, "Permission denied", "/tmp/ts-x"), "/tmp/ts-x: Permission denied"),
        (Exception("The current node timed out during startup.\nmore"), "timed out during startup."),
    ],
)
def test_what_keeps_ray_from_starting_is_one_sentence(error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch):
    def init(**options: object) -> None:
        raise error

    monkeypatch.setattr(cluster.ray, "init", init)
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: None)  # it would end the Ray that tests share
    with pytest.raises(StudyError, match="Ray does not start on this machine: ") as refused, cluster.local_ray(1, 0):
        pass
    assert str(refused.value).endswith(sentence)


def test_the_object_store_is_on_the_disk_where_shared_memory_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def small(path: object) -> object:
        return shutil._ntuple_diskusage(64 * 2**20, 0, 64 * 2**20)

    monkeypatch.setattr(shutil, "disk_usage", small)
    assert cluster._store_folder(tmp_path) == str(tmp_path)


def test_no_address_names_ray_of_this_machine_twice():
    with pytest.raises(StudyError, match="leave --address out"), cluster.ray_cluster("local"):
        pass
