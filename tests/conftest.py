"""What several test files need."""

from __future__ import annotations

import functools
import gc
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis  # noqa: F401  # it looks for what the garbage collector sees, so before anything is set apart
import pytest
import typer.testing

from benchmarks.postgres import Server, binaries, running_server

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
