"""Searches as tests run them: in this process on a Ray that tests share, or by the command in another process."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from search.driver import tune
from tests.support.paths import ROOT, SMOKE

QUICK = SMOKE.read_text(encoding="utf-8").replace("min_tokens: 4K, max_tokens: 36K", "min_tokens: 1K, max_tokens: 9K")
"""The text of the smoke test's space, but for a quarter of the training."""
SLOW = """
family: hybrid
budget: {trials: 6, min_tokens: 8K, max_tokens: 48K, eta: 10, eval_tokens: 1K}
parameters:
  d_model: {values: [32, 64], default: 32}
  n_layers: {value: 4}
  n_heads: {value: 2}
  seq_len: {value: 32}
  batch_size: {value: 4}
  learning_rate: {min: 1e-4, max: 1e-2, log: true, default: 1e-3}
presets:
  reference: {d_model: 64}
"""
"""A space whose trials take seconds; with a fixed learning rate it has two configurations."""
PATIENCE_SECONDS = 900  # for what should end by itself; a slow machine is no fault


def use_worker(worker: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have searches in this process train with another worker, such as one of tests/support/workers.py."""
    monkeypatch.setattr(
        tune, "run_trials", functools.partial(tune.run_trials, worker=f"tests.support.workers:{worker}")
    )


def write_text(folder: Path) -> None:
    """A small text in `folder`/text."""
    (folder / "text").mkdir()
    for i in range(10):
        words = " ".join(f"{(i + 3) * j % 97} and {j % 13}" for j in range(400))
        (folder / "text" / f"{i}.txt").write_text(words)


def command(*arguments: object) -> list[str]:
    """The command in a process of its own."""
    return [sys.executable, "-m", "search.cli", *map(str, arguments)]


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Of such a process: this checkout, a cache in `folder`, and a wide terminal."""
    own = {"TINYSEARCH_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return {**os.environ, **own, **variables}


@contextlib.contextmanager
def driver(folder: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A search in a process of its own; ended, with all that it started, when the block ends."""
    process = subprocess.Popen(
        command("run", *arguments),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        kill([*children, process])
        process.communicate(timeout=30)


def kill(processes: list[Any]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            process.kill()


def wait_for(condition: Callable[[], bool], what: str, process: subprocess.Popen[str]) -> None:
    """Wait while the process runs."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, f"the search ended before {what}: {process.stdout.read()}"
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.3)


def states_in_journal(journal: Path) -> dict[int, int]:
    """Each trial's last state, as the journal has it: 0 running, 1 complete, 2 pruned, 3 fail, 4 waiting."""
    states = {}
    for line in journal.read_text().splitlines():
        entry = json.loads(line)
        if entry["op_code"] == 6:
            states[entry["trial_id"]] = entry["state"]
    return states
