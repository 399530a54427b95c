"""Every policy on every table with every seed, in one process or several: the same results either way."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from benchmarks.search.entrants import ENTRANTS, PARTS
from benchmarks.search.policy import Problem
from benchmarks.search.simulation import GUESS, Run, simulate
from benchmarks.search.table import Table

GUIDE_SPREAD = 0.05


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What holds for every run; budgets in units, a unit being the median cost of a full training."""

    num_workers: int
    budget: float
    readings: tuple[float, ...]  # the budgets at which regrets are read

    @classmethod
    def of(cls, num_workers: int, budget: float) -> Terms:
        usual = (b for b in (5.0, 10.0, 20.0, 50.0) if b < budget)
        return cls(num_workers=num_workers, budget=budget, readings=(*usual, budget))


@dataclass(frozen=True, kw_only=True)
class Result:
    """One run in figures."""

    table: str
    policy: str
    seed: int
    regrets: tuple[float, ...]  # of the hand-over, at each reading
    finished_regrets: tuple[float, ...]  # of the best trial that had finished, whatever was handed over
    num_trials: int
    num_finished: int
    num_stopped: int
    num_false_stops: int  # stopped, though its full value would have beaten the one handed over at the end
    below_median_share: float  # of the cost: spent on configurations whose full value is worse than the median
    thinking_seconds: float
    num_proposals: int


Play = Callable[[Table, str, int, Terms], Any]
"""A table, a policy's name, a seed and the terms -> the result of that run."""


def play(table: Table, policy: str, seed: int, terms: Terms) -> Result:
    """One run."""
    entrant = (ENTRANTS | PARTS)[policy]
    budget = terms.budget * entrant.handicap
    guided = {} if entrant.guide is None else {"presets": [_recommended(table, entrant.guide, seed)]}
    player = entrant.factory(Problem.of(table, budget), seed, **guided)
    run = simulate(table, player, num_workers=terms.num_workers, budget=budget, seed=seed)
    return Result(
        table=table.name,
        policy=policy,
        seed=seed,
        regrets=tuple(run.regret_at(reading * entrant.handicap) for reading in terms.readings),
        finished_regrets=tuple(_finished_regret(table, run, reading * entrant.handicap) for reading in terms.readings),
        num_trials=len(run.spent),
        num_finished=run.num_finished,
        num_stopped=len(run.unfinished),
        num_false_stops=_num_false_stops(table, run),
        below_median_share=_below_median_share(table, run),
        thinking_seconds=run.thinking_seconds,
        num_proposals=run.num_proposals,
    )


def contest(
    tables: list[Table],
    policies: list[str],
    seeds: range,
    terms: Terms,
    *,
    playing: Play = play,
    num_processes: int = 1,
    on_result: Callable[[Any], None] = lambda result: None,
) -> list[Any]:
    """All runs, by table, policy and seed; `on_result` hears of each as it comes.

    `playing` makes a run; its result has a table's name, a policy and a seed too.
    """
    jobs = [(name, i, seed) for name, seed, i in product(policies, seeds, range(len(tables)))]
    results = []
    for result in _run_all(playing, jobs, tables, terms, num_processes):
        results.append(result)
        on_result(result)
    order = {name: i for i, name in enumerate(policies)}
    return sorted(results, key=lambda r: (r.table, order[r.policy], r.seed))


def _recommended(table: Table, place: float, seed: int) -> np.ndarray:
    """One of the configurations around a place in the order of final values, 0 the best and 1 the worst; (d,)."""
    order = np.argsort(table.full_values, kind="stable")  # NaN last
    near = np.clip(place + np.array([-GUIDE_SPREAD, GUIDE_SPREAD]), 0, 1) * (len(order) - 1)
    return table.points[order[np.random.default_rng([seed, len(order)]).integers(int(near[0]), int(near[1]) + 1)]]


def _finished_regret(table: Table, run: Run, cost: float) -> float:
    return min((float(table.regrets[row]) for at, row in run.finished if at <= cost), default=GUESS)


def _num_false_stops(table: Table, run: Run) -> int:
    handed = np.inf if run.handed is None else np.nan_to_num(table.full_values[run.handed], nan=np.inf)
    return int((table.full_values[run.unfinished] < handed).sum())


def _below_median_share(table: Table, run: Run) -> float:
    wasted = sum(cost for row, cost in run.spent.items() if not table.full_values[row] <= table.median)
    return wasted / max(sum(run.spent.values()), 1e-12)


_SHARED: dict[str, Any] = {}  # in a worker process: what every job needs


def _run_all(playing: Play, jobs: list, tables: list[Table], terms: Terms, num_processes: int) -> Iterator[Any]:
    if num_processes == 1:
        yield from (playing(tables[i], name, seed, terms) for name, i, seed in jobs)
        return
    context = multiprocessing.get_context("spawn")  # threads of Ray and numpy do not survive a fork
    with context.Pool(num_processes, initializer=_share, initargs=(playing, tables, terms)) as pool:
        yield from pool.imap_unordered(_play_shared, jobs[::-1])  # the slow policies come last in the list


def _share(playing: Play, tables: list[Table], terms: Terms) -> None:
    _SHARED.update(playing=playing, tables=tables, terms=terms)


def _play_shared(job: tuple[str, int, int]) -> Any:
    name, i, seed = job
    return _SHARED["playing"](_SHARED["tables"][i], name, seed, _SHARED["terms"])
