"""Asynchronous workers over one table, with a simulated clock.

A worker spends one unit of cost in one unit of simulated time, whatever it trains, so the workers progress together
and the cost counted is the sum over all of them. Cost is counted while it is consumed: a hand-over stands at the cost
that all workers together had consumed at that moment, running trials included.

A proposal becomes the nearest configuration that the run has not trained yet, and every policy gets that one's point
before anything else happens: the values that follow are of what was trained, which in a high
dimension, or late in a run, lies far from what was proposed, and a real search never confuses the two.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.search.policy import Policy, Proposal
from benchmarks.search.table import Rows, Table

GUESS = 1.0  # the regret of having nothing to hand over: the median's


@dataclass
class Run:
    """What one policy did on one table; costs in units."""

    costs: list[float] = field(default_factory=list)  # where the hand-over changed ...
    regrets: list[float] = field(default_factory=list)  # ... and its normalised regret from there on
    handed: int | None = None  # the row handed over at the end
    rows: dict[int, int] = field(default_factory=dict)  # key of a trial -> its row
    spent: dict[int, float] = field(default_factory=dict)  # row -> cost
    finished: list[tuple[float, int]] = field(default_factory=list)  # cost at which, and row, in order
    unfinished: list[int] = field(default_factory=list)  # rows stopped or paused, and not running at the end
    total: float = 0.0
    num_proposals: int = 0
    thinking_seconds: float = 0.0  # real time that the policy took, reports included

    @property
    def num_finished(self) -> int:
        return len(self.finished)

    def regret_at(self, cost: float) -> float:
        i = bisect.bisect_right(self.costs, cost)
        return self.regrets[i - 1] if i else GUESS


@dataclass(slots=True)
class _Trial:
    key: int
    row: int
    num_done: int = 0  # rungs
    target: int = 0
    started: float = 0.0  # the present segment, in simulated time


def simulate(
    table: Table,
    policy: Policy,
    *,
    num_workers: int,
    budget: float,
    seed: int = 0,
    measured: Callable[[int, int], Any] | None = None,
) -> Run:
    """Run until `budget` units are consumed, or until nothing is running and the policy proposes nothing.

    `measured` gives the value that a policy gets for a row at a rung (from 1), if it is not the table's value.
    """
    return _Simulation(table, policy, num_workers, seed, measured).run(budget)


class _Simulation:
    def __init__(self, table: Table, policy: Policy, num_workers: int, seed: int, measured: Callable | None):
        self.policy = policy
        self.measured = measured or (lambda row, rung: float(table.values[row, rung - 1]))
        self.points = table.points
        self.num_idle = num_workers
        self.lengths = table.lengths.tolist()
        self.costs = table.costs
        self.regrets = table.regrets
        self.restart = table.restart
        self.rows = Rows(table, seed)
        self.stops = _next_stops(policy.rungs, table.num_rungs)
        self.trials: dict[int, _Trial] = {}
        self.events: list[tuple[float, int, _Trial]] = []
        self.num_events = 0
        self.now = 0.0
        self.spent = [0.0] * table.num_configurations
        self.run_ = Run()

    def run(self, budget: float) -> Run:
        policy, run, events = self.policy, self.run_, self.events
        handed_key, handed_regret = None, GUESS
        unfinished: set[int] = set()
        while True:
            while self.num_idle:
                started = perf_counter()
                proposal = policy.propose()
                run.thinking_seconds += perf_counter() - started
                if proposal is None:
                    break
                run.num_proposals += 1
                self._start(proposal)
                unfinished.discard(proposal.key)
            if not events:
                break
            time, _, trial = events[0]
            consumed = run.total + (time - self.now) * len(events)
            if consumed > budget:
                break
            heappop(events)
            run.total, self.now = consumed, time
            self.spent[trial.row] += time - trial.started
            trial.num_done = rung = trial.target
            value = self.measured(trial.row, rung)
            started = perf_counter()
            if rung >= self.lengths[trial.row]:
                policy.finished(trial.key, rung, value)
                run.finished.append((consumed, trial.row))
                self.num_idle += 1
            elif policy.report(trial.key, rung, value):
                self._train_on(trial)
            else:
                unfinished.add(trial.key)
                self.num_idle += 1
            key = policy.incumbent()
            run.thinking_seconds += perf_counter() - started
            if key != handed_key:
                handed_key = key
                regret = GUESS if key is None else float(self.regrets[self.trials[key].row])
                if regret != handed_regret:
                    handed_regret = regret
                    run.costs.append(consumed)
                    run.regrets.append(regret)
        self._close(budget, handed_key, unfinished)
        return run

    def _start(self, proposal: Proposal) -> None:
        if proposal.point is None:
            trial = self.trials[proposal.key]
            assert trial.num_done < self.lengths[trial.row], "a finished trial cannot go on"
        else:
            assert self.rows.num_left, "every configuration has been trained"
            assert proposal.key not in self.trials, "two trials with one key"
            trial = _Trial(proposal.key, self.rows.take_nearest(proposal.point))
            self.trials[proposal.key] = trial
            started = perf_counter()
            self.policy.given(trial.key, self.points[trial.row].copy())
            self.run_.thinking_seconds += perf_counter() - started
        self.num_idle -= 1
        self._train_on(trial)

    def _train_on(self, trial: _Trial) -> None:
        row, done = trial.row, trial.num_done
        trial.target = target = min(self.stops[done], self.lengths[row])
        cost = float(self.costs[row, target - 1])
        if done and not self.restart:
            cost -= float(self.costs[row, done - 1])
        trial.started = self.now
        self.num_events += 1
        heappush(self.events, (self.now + cost, self.num_events, trial))

    def _close(self, budget: float, handed_key: int | None, unfinished: set[int]) -> None:
        """Count what the running trials have consumed when the budget ends."""
        run, left = self.run_, 0.0
        if self.events:
            left = (budget - run.total) / len(self.events)
            run.total = budget
        for _, _, trial in self.events:
            self.spent[trial.row] += self.now + left - trial.started
        run.handed = None if handed_key is None else self.trials[handed_key].row
        run.rows = {key: trial.row for key, trial in self.trials.items()}
        run.spent = {row: cost for row, cost in enumerate(self.spent) if cost}
        run.unfinished = sorted(self.trials[key].row for key in unfinished)


def _next_stops(rungs: tuple[int, ...], num_rungs: int) -> list[int]:
    """For each number of rungs done, the next at which a trial reports."""
    stops = sorted({*(rung for rung in rungs if rung < num_rungs), num_rungs})
    return [stops[bisect.bisect_right(stops, done)] for done in range(num_rungs)]


def random_curves(table: Table, *, num_workers: int, budget: float, grid: np.ndarray, seeds: range) -> np.ndarray:
    """Random search's regret at each cost of `grid`, a row for each seed: what `simulate` would find, only faster."""
    curves = np.empty((len(seeds), len(grid)))
    costs = table.full_costs.tolist()
    for i, seed in enumerate(seeds):
        order = random_order(table.num_configurations, seed)
        curves[i] = _random_curve(costs, table.full_values, table.regrets, order, num_workers, budget, grid)
    return curves


def random_order(num_configurations: int, seed: int) -> np.ndarray:
    """In which random search with that seed takes the rows."""
    return np.random.default_rng([seed, num_configurations]).permutation(num_configurations)


def _random_curve(costs, full_values, regrets, order, num_workers, budget, grid) -> np.ndarray:
    """Best finished so far, by consumed cost. While rows are left every worker is busy: consumed = workers x time."""
    ends: list[tuple[float, int]] = []  # (time, place in the order)
    times, rows = [], []
    consumed = now = 0.0
    next_ = 0
    rows_in_order = order.tolist()
    while True:
        while len(ends) < num_workers and next_ < len(rows_in_order):
            heappush(ends, (now + costs[rows_in_order[next_]], next_))
            next_ += 1
        if not ends:
            break
        num_busy = len(ends)
        time, place = heappop(ends)
        consumed += (time - now) * num_busy
        now = time
        if consumed > budget:
            break
        times.append(consumed)
        rows.append(rows_in_order[place])
    if not rows:
        return np.full(len(grid), GUESS)
    values = np.nan_to_num(full_values[rows], nan=np.inf)
    best = np.minimum.accumulate(values)
    firsts = np.maximum.accumulate(np.where(values <= best, np.arange(len(rows)), 0))
    found = np.where(np.isfinite(best), regrets[np.asarray(rows)[firsts]], GUESS)
    at = np.searchsorted(times, grid, side="right")
    return np.concatenate([[GUESS], found])[at]
