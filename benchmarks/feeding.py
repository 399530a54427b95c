"""How many workers one driver feeds: the real search controller, and workers that only pass the time.

    python -m benchmarks.feeding [--workers 1,8,64,512,4096] [--minutes 1,10,60] [--seconds 40] [--json]

Workers train in simulated time: to the last rung it takes so many minutes, to each its share of the tokens, and a
report comes every ten seconds as from real ones. The driver's answers take the processor seconds that they took here,
one after another, and a worker waits for its answer in a queue. So the utilisation, the share of the workers' time that
is training, is what a driver as fast as this machine's core would reach; what Ray and the network take is not in it.

A cell begins in the midst of a search: all workers are busy, each somewhere between two rungs, and twice as many trials
have been started. That was reached by decisions at random, in no time; then the real strategy decides for `--seconds`
of processor time. `feeds` is how many workers a second of the driver lets train for a second, and `driver_ms_per_trial`
what it takes for as much training as one configuration to its end.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna

from benchmarks.large import RandomStrategy, make_study, measurement
from search.cli.garbage import collect_seldom
from search.storage.optuna_private import storage_of
from search.strategy.curves import Curve
from search.strategy.strategy import Continue, Start
from search.study.recorder import one_step
from search.study.study import Study
from search.worker.trial import SLICE_SECONDS

MIN_TRIALS = 200  # before anything is measured: the model has as much to look at as it ever will


class LateStrategy(RandomStrategy):
    """The real strategy once `decides`; at random before."""

    decides = False

    def next(self, curves: Sequence[Curve], *, can_start: bool) -> Start | Continue | None:
        if self.decides:
            return super(RandomStrategy, self).next(curves, can_start=can_start)
        return super().next(curves, can_start=can_start)


class Simulation:
    """A study, workers in simulated time, and a driver that answers them one after another."""

    def __init__(self, study: Study, num_workers: int, trial_seconds: float):
        self._study, self._num_workers, self._trial_seconds = study, num_workers, trial_seconds
        self._now = self._driver_free = 0.0
        self._waiting: list[tuple[float, int, int, int | None]] = []  # time, order, trial, rung; None: between rungs
        self._order = itertools.count()
        self._legs: dict[int, float] = {}  # seconds from each trial's last rung to its next
        self._is_free = False  # whether answers take no time
        self._spans: list[tuple[float, float]] = []  # in which a worker trains
        self._driver_seconds = 0.0
        self._proposals: list[float] = []
        self._reports: list[float] = []

    def warm_up(self) -> None:
        """All workers busy, and twice as many trials started; takes no simulated time of the driver."""
        self._is_free = True
        for _ in range(self._num_workers):
            self._start(0.0)
        while len(self._study.records) < max(MIN_TRIALS, 2 * self._num_workers):
            self._step()
        self._scatter()
        self._is_free = False

    def _scatter(self) -> None:
        """Each worker is somewhere on its way to a rung: those that began at once would all report at once."""
        rng, ends = random.Random(0), {number: at for at, _, number, rung in self._waiting if rung is not None}
        ahead = {number: at - self._now - rng.random() * self._legs[number] for number, at in ends.items()}
        moved = [(at - ahead[number], order, number, rung) for at, order, number, rung in self._waiting]
        self._waiting = [event for event in moved if event[0] >= self._now]
        heapq.heapify(self._waiting)
        self._spans = [(self._now, at - ahead[number]) for number, at in ends.items()]

    def run(self, seconds: float) -> dict[str, float]:
        """Go on until the driver has taken so much processor time; what that was like."""
        began, num_before = self._now, len(self._study.records)
        self._driver_free = began
        while self._driver_seconds < seconds:
            self._step()
        end = max(self._now, self._driver_free)
        trained = sum(max(0.0, min(end, last) - max(began, first)) for first, last in self._spans)
        num_trials = len(self._study.records) - num_before
        return {
            "trials": num_trials,
            "propose_ms": 1000 * statistics.fmean(self._proposals or [0.0]),
            "report_ms": 1000 * statistics.fmean(self._reports or [0.0]),
            "driver_ms_per_trial": 1000 * self._driver_seconds * self._trial_seconds / trained,
            "utilisation": trained / (end - began) / self._num_workers,
            "driver_load": self._driver_seconds / (end - began),
            "feeds": trained / self._driver_seconds,
        }

    def _step(self) -> None:
        """The next report, and what follows from it."""
        self._now, _, number, rung = heapq.heappop(self._waiting)
        record = self._study.records[number]
        if rung is None:
            self._answer(lambda: self._study.report(number, {"tokens": record.rung + 1, "tokens_per_second": 1.0}))
            return
        measured = measurement(record.values, rung)
        continues, until = self._answer(lambda: self._study.report(number, measured), self._reports)
        if continues:
            self._train(number, until)
        else:
            self._start(until)

    def _start(self, at: float) -> None:
        self._now = max(self._now, at)
        proposal, until = self._answer(self._study.propose, self._proposals)
        assert proposal is not None, "the study has ended"
        self._train(proposal.number, until)

    def _train(self, number: int, at: float) -> None:
        """Train from one rung to the next, with a report every ten seconds on the way."""
        before = self._study.records[number].rung
        rung = next(rung for rung in self._study.rungs if rung > before)
        seconds = self._legs[number] = self._trial_seconds * (rung - before) / self._study.rungs[-1]
        self._spans.append((at, at + seconds))
        for i in range(1, int(seconds / SLICE_SECONDS)):
            heapq.heappush(self._waiting, (at + i * SLICE_SECONDS, next(self._order), number, None))
        heapq.heappush(self._waiting, (at + seconds, next(self._order), number, rung))

    def _answer(self, ask: Callable[[], Any], costs: list[float] | None = None) -> tuple[Any, float]:
        """What the driver answers, and when; it is busy until then."""
        began = time.process_time()
        answer = ask()
        took = time.process_time() - began
        if self._is_free:
            return answer, self._now
        self._driver_seconds += took
        if costs is not None:
            costs.append(took)
        self._driver_free = max(self._driver_free, self._now) + took
        return answer, self._driver_free


def measure(num_workers: int, trial_minutes: float, seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="tinysearch-feeding-") as folder:
        study = make_study(Path(folder), 10**6, LateStrategy)
        simulation = Simulation(study, num_workers, 60 * trial_minutes)
        with one_step(storage_of(study.stored)):  # the disk is not the question
            simulation.warm_up()
        study._decisions._strategy.decides = True
        return {"workers": num_workers, "minutes": trial_minutes, **simulation.run(seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feeding", description=__doc__.splitlines()[0])
    parser.add_argument("--workers", default="1,8,64,512,4096")
    parser.add_argument("--minutes", default="1,10,60", help="of a trial that is trained to its end")
    parser.add_argument("--seconds", type=float, default=40.0, help="of the driver's processor time, for each cell")
    parser.add_argument("--json", action="store_true", help="print one JSON array and nothing else")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    collect_seldom()
    cells = itertools.product(map(int, options.workers.split(",")), map(float, options.minutes.split(",")))
    found = []
    for workers, minutes in cells:
        found.append(measure(workers, minutes, options.seconds))
        if not options.json:
            print("  ".join(f"{name} {value:,.4g}" for name, value in found[-1].items()), flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
