"""What a search wastes on trials that diverge or do not fit, and whether it finds the best region beside them.

    python -m benchmarks.search.waste [--seeds 8] [--workers 8] [--trials 80] [--policies all] [--processes 1] [--json]

Three problems with known curves (problems.py): learning rates of which about 80 % diverge, the best ones at the edge;
sizes of which half are out of memory, the best ones at the edge; and the same sizes under a limit that a measurement
breaks at the first rung. Every seed moves the edge and the optimum. A slot is a launched trial, cost is in full
trainings. A slot is wasted where its trial ended diverged, out of memory or infeasible. A quarter of the slots goes by
the order of launch, a quarter of the cost by the time at which it was spent. The best region is the best 1 % of the
configurations that can be had; regret is 0 for the best of them and 1 for their median.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import product
from statistics import fmean
from typing import Any, Protocol

import numpy as np
import optuna

from benchmarks.search import peers
from benchmarks.search.command import options_of, parser_of, put_out
from benchmarks.search.controller import METRIC, Anything, space_of
from benchmarks.search.optuna_peers import OptunaTPE
from benchmarks.search.policy import ETA, Policy, Problem, Proposal
from benchmarks.search.problems import MEMORY_LIMIT, NUM_RUNGS, PROBLEMS, Landscape
from benchmarks.search.table import point
from search.space.spec import BudgetSpec, LimitSpec
from search.study.record import best_record
from search.study.settings import StudySettings
from search.study.study import Study
from search.worker.messages import INFEASIBLE

QUARTERS = 4
LAUNCH_COST = 0.01  # full trainings: what a trial costs that is out of memory at once
NOISE = 0.005  # standard deviation of a trial's loss, the same at all its rungs
MEASURED = "peak_vram_bytes"


class Player(Protocol):
    """A search strategy that hears of trials which are lost; otherwise as `benchmarks.search.policy.Policy`."""

    @property
    def rungs(self) -> tuple[int, ...]:
        """Where a trial reports, NUM_RUNGS included."""

    def propose(self) -> Proposal | None: ...
    def report(self, key: int, rung: int, loss: float, memory: float) -> bool:
        """A trial has reached a rung; returns whether it continues. Beyond a limit it does not, whatever the answer."""

    def lost(self, key: int, rungs_done: float, outcome: str) -> None:
        """A trial has diverged or was out of memory after so many rungs of training."""

    def incumbent(self) -> int | None:
        """The best finished trial, or None."""


class Controller:
    """The search controller as a search runs it."""

    def __init__(self, land: Landscape, num_trials: int, seed: int):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        limits = {MEASURED: LimitSpec(max=MEMORY_LIMIT)} if land.outcome == INFEASIBLE else {}
        budget = BudgetSpec(min_tokens=1, max_tokens=NUM_RUNGS, eta=ETA, trials=num_trials, limits=limits)
        settings = StudySettings(space=space_of(land.axes, []), budget=budget, seed=seed)
        feasibility = Anything.of(settings.space, budget)
        self.study = Study.create(optuna.storages.InMemoryStorage(), "waste", settings, feasibility=feasibility)
        self.rungs = self.study.rungs
        self._axes = land.axes

    def propose(self) -> Proposal | None:
        proposed = self.study.propose()
        if proposed is None:
            return None
        return Proposal(proposed.number, None if proposed.is_resumed else point(self._axes, proposed.values))

    def report(self, key: int, rung: int, loss: float, memory: float) -> bool:
        return self.study.report(key, {METRIC: loss, "tokens": rung, MEASURED: memory})

    def lost(self, key: int, rungs_done: float, outcome: str) -> None:
        self.study.finish(key, outcome, outcome, tokens=max(1, math.ceil(rungs_done)))

    def incumbent(self) -> int | None:
        best = best_record(self.study.records.values(), METRIC)
        return best.number if best else None


class Peer:
    """A policy of `benchmarks.search`: a lost trial is one that has finished with NaN."""

    def __init__(self, factory: Callable[[Problem, int], Policy], land: Landscape, num_trials: int, seed: int):
        points = land.sample(num_trials, seed)
        self._policy = factory(Problem(land.axes, points, NUM_RUNGS, NUM_RUNGS, float(num_trials), False), seed)
        self._is_limited = land.outcome == INFEASIBLE
        early = (1,) if self._is_limited else ()
        self._asked = self._policy.rungs
        self.rungs = tuple(sorted({*self._asked, *early, NUM_RUNGS}))

    def propose(self) -> Proposal | None:
        return self._policy.propose()

    def report(self, key: int, rung: int, loss: float, memory: float) -> bool:
        if rung == NUM_RUNGS or (self._is_limited and memory > MEMORY_LIMIT):
            self._policy.finished(key, rung, loss if rung == NUM_RUNGS else math.nan)
            return False
        return self._policy.report(key, rung, loss) if rung in self._asked else True

    def lost(self, key: int, rungs_done: float, outcome: str) -> None:
        self._policy.finished(key, max(1, math.ceil(rungs_done)), math.nan)

    def incumbent(self) -> int | None:
        return self._policy.incumbent()


PLAYERS: dict[str, Callable[[Landscape, int, int], Player]] = {
    "random": partial(Peer, peers.RandomSearch),
    "random_asha": partial(Peer, peers.RandomAsha),
    "tpe": partial(Peer, OptunaTPE),
    "tinysearch": Controller,
}


@dataclass
class Run:
    """What one player did; costs in full trainings."""

    is_wasted: list[bool] = field(default_factory=list)  # of each launched trial, in order
    spent: list[tuple[float, float, int]] = field(default_factory=list)  # consumed before, cost, trial
    handed: list[tuple[float, float]] = field(default_factory=list)  # consumed, true final loss of the hand-over
    num_finished: int = 0
    total: float = 0.0


def simulate(land: Landscape, player: Player, *, num_workers: int, seed: int) -> Run:
    """Asynchronous workers, each spending one unit of cost in one unit of time, until the player has nothing to do.

    A trial's curve is its configuration's and a little noise, the same for every player.
    """
    run, now, idle = Run(), 0.0, num_workers
    curves: dict[int, Any] = {}
    done: dict[int, int] = {}  # trial -> rungs
    events: list[tuple[float, int, int]] = []  # time, trial, rung that it reaches; 0: it is lost before
    noise = np.random.default_rng([seed, 3]).normal(0, NOISE, 100_000)

    def train_on(key: int) -> None:
        rung = next(r for r in player.rungs if r > done[key])
        cost, target = (rung - done[key]) / NUM_RUNGS, rung
        end = float(curves[key].end[0])
        if end * NUM_RUNGS < rung:
            cost, target = max(end - done[key] / NUM_RUNGS, LAUNCH_COST), 0
        run.spent.append((run.total, cost, key))
        heappush(events, (now + cost, key, target))

    while True:
        while idle and (proposal := player.propose()) is not None:
            key = proposal.key
            if proposal.point is not None:
                assert key == len(run.is_wasted), "trials are numbered as they are launched"
                run.is_wasted.append(False)
                curves[key], done[key] = land.curves(proposal.point[None]), 0
            idle -= 1
            train_on(key)
        if not events:
            return run
        time, key, rung = heappop(events)
        run.total += (time - now) * (len(events) + 1)
        now, curve = time, curves[key]
        if not rung:
            run.is_wasted[key] = True
            player.lost(key, float(curve.end[0]) * NUM_RUNGS, land.outcome)
            idle += 1
            continue
        done[key] = rung
        continues = player.report(key, rung, float(curve.loss(rung)[0]) + noise[key], float(curve.memory[0]))
        if land.outcome == INFEASIBLE and curve.memory[0] > MEMORY_LIMIT:
            assert not continues, "beyond the limit"
            run.is_wasted[key] = True
        run.num_finished += rung == NUM_RUNGS
        if continues and rung < NUM_RUNGS:
            train_on(key)
        else:
            idle += 1
        best = player.incumbent()
        if best is not None and done[best] == NUM_RUNGS:
            run.handed.append((run.total, float(curves[best].floor[0])))


def play(problem: str, player: str, seed: int, num_workers: int, num_trials: int) -> dict[str, Any]:
    """One run in figures; lists have an entry for each quarter."""
    land = PROBLEMS[problem](seed)
    run = simulate(land, PLAYERS[player](land, num_trials, seed), num_workers=num_workers, seed=seed)
    slots = [float(np.mean(part)) for part in np.array_split(run.is_wasted, QUARTERS)]
    cost, wasted = np.zeros(QUARTERS), np.zeros(QUARTERS)
    for before, spent, key in run.spent:
        quarter = min(int(QUARTERS * before / run.total), QUARTERS - 1)
        cost[quarter] += spent
        wasted[quarter] += spent * run.is_wasted[key]
    ends = [run.total * (i + 1) / QUARTERS for i in range(QUARTERS)]
    handed = [next((loss for at, loss in reversed(run.handed) if at <= end + 1e-9), math.inf) for end in ends]
    return {
        "problem": problem,
        "player": player,
        "seed": seed,
        "wasted_slots": slots,
        "wasted_cost": (wasted / np.maximum(cost, 1e-12)).tolist(),
        "regret": [land.regret(loss) for loss in handed],
        "in_best_region": [land.is_best_region(loss) for loss in handed],
        "infeasible_share": 1 - land.feasible_share,
        "cost": run.total,
        "finished": run.num_finished,
        "all_wasted_slots": float(np.mean(run.is_wasted)),
        "all_wasted_cost": float(wasted.sum() / cost.sum()),
    }


def measure(
    problems: list[str], players: list[str], seeds: range, num_workers: int, num_trials: int, num_processes: int = 1
) -> dict[str, Any]:
    """Means over seeds, by problem and player; `in_best_region` is the share of seeds."""
    jobs = [(*job, num_workers, num_trials) for job in product(problems, players, seeds)]
    runs = list(_run_all(jobs, num_processes))
    found: dict[str, dict[str, Any]] = {}
    for problem, player in product(problems, players):
        mine = [run for run in runs if (run["problem"], run["player"]) == (problem, player)]
        keys = [key for key in mine[0] if key not in ("problem", "player", "seed")]
        found.setdefault(problem, {})[player] = {
            key: np.mean([run[key] for run in mine], axis=0).tolist() for key in keys
        }
    return {"problems": found, "seeds": len(seeds), "workers": num_workers, "trials": num_trials, "runs": runs}


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("benchmarks.search.waste", __doc__, seeds=8, policies=PLAYERS)
    parser.add_argument("--trials", type=int, default=80, help="configurations launched in a run")
    options = options_of(parser, arguments, {"all": list(PLAYERS)}, PLAYERS)
    if options.trials < QUARTERS:
        parser.error(f"give at least {QUARTERS} trials")
    measured = measure(
        list(PROBLEMS), options.policies, range(options.seeds), options.workers, options.trials, options.processes
    )
    put_out(measured, [partial(_shown, problem=problem) for problem in PROBLEMS], as_json=options.json)


def _shown(measured: dict[str, Any], problem: str) -> Any:
    """One problem, for people: each column holds the four quarters."""
    from rich.table import Table

    players = measured["problems"][problem]
    lost = fmean(p["infeasible_share"] for p in players.values())
    table = Table(
        title=f"{problem}: {lost:.0%} of the space cannot be had",
        caption=f"{measured['trials']} trials, {measured['workers']} workers, means of {measured['seeds']} seeds",
    )
    columns = ("wasted slots by quarter", "of cost", "regret", "in best region", "wasted in all", "finished", "cost")
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    for name, p in players.items():
        shares = [" ".join(f"{x:4.0%}" for x in p[key]) for key in ("wasted_slots", "wasted_cost")]
        regrets = " ".join(f"{x:.2f}" for x in p["regret"])
        region = " ".join(f"{x:4.0%}" for x in p["in_best_region"])
        all_ = f"{p['all_wasted_slots']:.0%} slots, {p['all_wasted_cost']:.0%} cost"
        table.add_row(name, *shares, regrets, region, all_, f"{p['finished']:.0f}", f"{p['cost']:.1f}")
    return table


def _run_all(jobs: list[tuple], num_processes: int) -> Iterator[dict[str, Any]]:
    if num_processes == 1:
        yield from (play(*job) for job in jobs)
        return
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        yield from pool.starmap(play, jobs, chunksize=1)


if __name__ == "__main__":
    main()
