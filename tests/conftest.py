"""What several test files need."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis  # noqa: F401  # it looks for what the garbage collector sees, so before anything is set apart
import pytest
import typer.testing

from benchmarks.postgres import Server, binaries, running_server
from tests.support.s3 import s3_environment

# What tests and the processes they start import is compiled once: some images ask Python to do so every time.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Nor are the commands put together for every one that a test runs.
typer.testing._get_command = functools.cache(typer.testing._get_command)


def pytest_configure() -> None:
    """Ctrl-C ends what tests start, also where these were started in the background, which ignores it.

    And what runs in Ray gets its share of the cores beside other tests: Ray makes its workers give way to all else.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("RAY_worker_niceness", "0")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The files that start Ray come first: where several processes take a file each, the short ones fill the end.

    The thorough tests run where `-m` names them.
    """
    if "thorough" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("thorough")])
        items[:] = [item for item in items if not item.get_closest_marker("thorough")]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


_num_modules = 0


def pytest_collection_finish() -> None:
    _set_imports_apart()


def pytest_runtest_logfinish() -> None:
    _set_imports_apart()


def _set_imports_apart() -> None:
    """Take what imports have made out of the garbage collector's sight.

    Every training run begins with a whole collection, which takes a second or two over all that the tests import.
    """
    global _num_modules
    if len(sys.modules) > _num_modules + 100:
        _num_modules = len(sys.modules)
        gc.collect()  # what is garbage now is not kept
        gc.freeze()


@pytest.fixture
def small_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the present one, with a cache of its own and a small text in `text`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TINYSEARCH_CACHE", str(tmp_path / "cache"))
    Path("text").mkdir()
    for i in range(12):
        Path(f"text/{i}.txt").write_text(f"The quick brown fox number {i} jumps over the lazy dog. " * 40)
    return tmp_path


@pytest.fixture(autouse=True)
def own_storage(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test uses the database of the person who runs it."""
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed is as wide as in a pipe. pytest reads `readline`, which reports 80 columns to its workers."""
    for name in ("COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def _server() -> Iterator[Server]:
    if binaries() is None:
        pytest.skip("no PostgreSQL on this machine: /usr/lib/postgresql is empty and `postgres` is not on the PATH")
    with running_server() as server:
        yield server


@pytest.fixture
def postgres(_server: Server) -> Server:
    """A PostgreSQL server that runs."""
    return _server


@pytest.fixture(scope="session")
def s3() -> dict[str, str]:
    """The environment of an S3 that tests may start: `s3_server` in tests/support/s3.py."""
    return s3_environment()


@pytest.fixture(scope="session")
def _ray(tmp_path_factory: pytest.TempPathFactory, s3: dict[str, str]) -> Iterator[dict[str, str]]:
    """Ray, started once, and the environment that its searches need."""
    from search.driver import cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYSEARCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        needed = {name: os.environ[name] for name in ("TINYSEARCH_CACHE", "RAY_AUTH_TOKEN")}
        for name, value in s3.items():
            patch.setenv(name, value)
        with cluster.local_ray(2, 0):
            patch.undo()
            yield needed


@pytest.fixture(scope="module")
def shared_ray(_ray: dict[str, str]) -> Iterator[None]:
    """Searches in this process run on one Ray that all tests share, which a process of its own starts anew each time.

    Their text is cached in one folder too, since Ray's workers have the environment in which it was started.
    """
    from search.driver import cluster

    assert cluster.ray.is_initialized(), "a test has ended the Ray that tests share; Tune would start another one"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in _ray.items():
            patch.setenv(name, value)
        patch.setattr(cluster, "local_ray", lambda *_: contextlib.nullcontext())
        yield
