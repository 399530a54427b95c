"""A large study: what its commands, its search controller and many workers at once cost.

    python -m benchmarks.large [--trials 10000] [--workers 64] [--reports 2000] [--json]

The study is written by the controller itself, from made-up measurements, with a strategy that decides at random: the
real one would look at every curve for each of some twenty thousand decisions. Everything is then measured in fresh
processes, imports included, with the real strategy: `status`, `best` and `trials` as the command line runs them, and a
driver that opens the study, proposes, and continues. Last, a driver of a new study with many running trials gets their
reports as fast as it accepts them, and its journal is searched for reports that are missing or recorded twice.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from search.cli.garbage import collect_seldom
from search.space.loading import load_space
from search.storage.folder import StudyFolder
from search.storage.optuna_private import storage_of
from search.strategy.curves import Curve
from search.strategy.strategy import Continue, Start, Strategy
from search.study.recorder import one_step
from search.study.settings import StudySettings
from search.study.study import Proposal, Study

ROOT = Path(__file__).resolve().parent.parent
SPACE = ROOT / "spaces" / "hybrid.yaml"
NAME = "large"
GOES_ON = 0.4  # chance of a paused trial, of the latest, to go on
STEPS_AT_ONCE = 50  # of the driver that writes the study, in one write
NUM_MORE = 20  # steps of a trial and the next proposal, with which the driver continues
ENVIRONMENT = {"host": "node-17", "device": "NVIDIA H100 80GB HBM3", "num_threads": 4, "python": "3.12.4"}


class RandomStrategy(Strategy):
    """Decides without looking at the curves, in no time."""

    def next(self, curves: Sequence[Curve], *, can_start: bool) -> Start | Continue | None:
        latest = curves[-STEPS_AT_ONCE:]
        rng = np.random.default_rng([self._seed, len(curves), sum(len(curve.values) for curve in latest)])
        paused = [curve for curve in latest if curve.is_paused]
        if paused and rng.random() < GOES_ON:
            return Continue(paused[rng.integers(len(paused))].number)
        return Start(self._candidates.random(rng)) if can_start else None


def make_study(runs: Path, num_trials: int, strategy: type[Strategy] = Strategy) -> Study:
    """A new study of the hybrid guide's full budget."""
    space = load_space(SPACE)
    settings = StudySettings(
        space=space,
        budget=space.budget().model_copy(update={"trials": num_trials}),
        run={"token_dtype": "uint16", "eval_tokens": 131_072, "precision": "fp32"},
        corpus={"digest": "d", "about": "no text", "paths": []},
    )
    folder = StudyFolder(runs, NAME)
    folder.path.mkdir(parents=True, exist_ok=True)
    return Study.create(folder.open_storage(), NAME, settings, strategy=strategy)


def fill(study: Study) -> None:
    """Run the study to its end, one trial after another."""
    is_left = True
    while is_left:
        with one_step(storage_of(study.stored)):  # many steps in one write: the disk is not the question
            for _ in range(STEPS_AT_ONCE):
                proposal = study.propose()
                is_left = proposal is not None and take_on(study, proposal)
                if not is_left:
                    break


def take_on(study: Study, proposal: Proposal) -> bool:
    """Report at each rung, until the search controller has another use for the worker; True."""
    for rung in study.rungs:
        if rung > study.records[proposal.number].rung:
            if not study.report(proposal.number, measurement(proposal.values, rung)):
                break
    return True


def measurement(values: dict[str, Any], tokens: int) -> dict[str, Any]:
    """What a worker with a GPU would report; its peak corrects the estimates of memory."""
    loss = 2 + abs(math.log10(values["learning_rate"]) + 3) + (tokens / 1e6) ** -0.3 + values["d_model"] ** -0.5
    return {
        "tokens": tokens,
        "loss": loss,
        "bits_per_byte": loss / math.log(2),
        "tokens_per_second": 1e7 / values["d_model"],
        "peak_vram_bytes": 2**24 * values["d_model"],
        "num_params": 10**4 * values["d_model"],
        "train_seconds": tokens * values["d_model"] / 1e7,
        "estimated": False,
        "exclusive": True,
        "environment": dict(ENVIRONMENT),
    }


def run_command(runs: Path, *arguments: str) -> dict[str, float]:
    """Seconds and peak memory of a command of the tool, in a process of its own."""
    command = [sys.executable, "-m", "search.cli", *arguments, "--runs", str(runs)]
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
    return {"seconds": time.perf_counter() - started, **_usage(usage)}


def drive(runs: Path) -> dict[str, float]:
    """Open the study as a driver does, and go on with it."""
    collect_seldom()
    started = time.perf_counter()
    stored = StudyFolder(runs, NAME).load()
    settings = StudySettings.of(stored)
    study = Study(stored, settings, trials=len(stored.get_trials(deepcopy=False)) + NUM_MORE)
    opened = time.perf_counter()
    proposal = study.propose()
    proposed = time.perf_counter()
    seconds = []
    while len(seconds) < NUM_MORE and proposal is not None:
        began = time.perf_counter()
        take_on(study, proposal)
        proposal = study.propose()
        seconds.append(time.perf_counter() - began)
    return {
        "open_seconds": opened - started,
        "first_proposal_seconds": proposed - opened,
        "step_median_seconds": statistics.median(seconds),
        "step_max_seconds": max(seconds),
        **_usage(resource.getrusage(resource.RUSAGE_SELF)),
    }


def crowd(runs: Path, num_workers: int, num_reports: int) -> dict[str, float]:
    """Reports of many running trials, a third of them at a rung, as fast as the controller takes them."""
    study = make_study(runs, num_trials=num_reports)
    busy: dict[int, dict[str, Any]] = {}
    reported: Counter[tuple[int, int]] = Counter()
    started, num_told = time.perf_counter(), 0
    while num_told < num_reports:
        while len(busy) < num_workers and (proposal := study.propose()) is not None:
            busy[proposal.number] = proposal.values
        for number, values in list(busy.items()):
            rung = next(rung for rung in study.rungs if rung > study.records[number].rung)
            for tokens in (rung // 3, rung // 2):
                study.report(number, {"tokens": tokens, "tokens_per_second": 1.0})
            reported[number, rung] += 1
            num_told += 3
            if not study.report(number, measurement(values, rung)):
                del busy[number]
    seconds = time.perf_counter() - started
    kept = reports_in(StudyFolder(runs, NAME).journal)
    return {
        "workers": num_workers,
        "reports": num_told,
        "rungs": reported.total(),
        "reports_per_second": num_told / seconds,
        "lost": (reported - kept).total(),
        "twice": (kept - reported).total(),
    }


def reports_in(journal: Path) -> Counter[tuple[int, int]]:
    """How often the journal has each (trial, rung)."""
    found: Counter[tuple[int, int]] = Counter()
    for line in journal.read_text(encoding="utf-8").splitlines():
        for name in (entry := json.loads(line)).get("user_attr", ()):
            if name.startswith("rung ") and "trial_id" in entry:
                found[entry["trial_id"], int(name.removeprefix("rung "))] += 1
    return found


def measure(num_trials: int, num_workers: int, num_reports: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="tinysearch-large-") as folder:
        runs = Path(folder) / "runs"
        started = time.perf_counter()
        with StudyFolder(runs, NAME).lock():  # as a driver, which leaves a snapshot of the journal
            fill(make_study(runs, num_trials, RandomStrategy))
        journal = StudyFolder(runs, NAME).journal
        measured: dict[str, Any] = {
            "num_trials": num_trials,
            "written_seconds": time.perf_counter() - started,
            "journal_bytes": journal.stat().st_size,
            "journal_entries": journal.read_bytes().count(b"\n"),
        }
        for command in ("status", "best", "trials"):
            measured[command] = run_command(runs, command, NAME)
        measured["driver"] = _in_a_fresh_process(drive, runs)
        measured["crowd"] = _in_a_fresh_process(crowd, Path(folder) / "crowd", num_workers, num_reports)
    return {**measured, "cpu_cores": os.cpu_count(), "load": os.getloadavg()[0]}


def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def _in_a_fresh_process(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    with multiprocessing.get_context("spawn").Pool(1, _quiet) as pool:
        return pool.apply(function, arguments)


def _usage(usage: resource.struct_rusage) -> dict[str, float]:
    return {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_mib": usage.ru_maxrss / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--reports", type=int, default=2000, help="of the many workers at once")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    _quiet()
    measured = measure(options.trials, options.workers, options.reports)
    if options.json:
        print(json.dumps(measured))
        return
    for name, value in measured.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {number:,.3g}" for key, number in value.items())
        print(f"{name:>16}  {value}")


if __name__ == "__main__":
    main()
