"""How well a search with two metrics finds their front: tinysearch beside its peers on recorded learning curves.

    python -m benchmarks.search.pareto FOLDER [--json] [--workers 8] [--seeds 10] [--budget 50] [--policies all]
                                              [--tables GLOB] [--processes N]

The metrics are the loss and the logarithm of what a full training costs: its CPU seconds where the table has them, else
its cost on the table's clock. At a rung a policy gets the total that follows from the pace so far. A table
holds every configuration, so the front is known. A policy is scored by the hypervolume of what it has trained in full,
as a share of the front's, at 5, 10, 20 and 50 units. The part of the front below the median loss spans the box, and the
reference point lies a tenth of its sides beyond. Tables where that part has fewer than three configurations are left
out: there is little to choose there.

Everything else is as in `python -m benchmarks.search`: the clock, the workers, the configurations that are left, and
that a policy learns which configuration it was given. Figures are means over seeds and geometric means over families
of tables, with bootstrap intervals over families, tables and seeds.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.search.command import add_tables, options_of, parser_of, put_out, tables_of
from benchmarks.search.contest import Terms, contest
from benchmarks.search.entrants import TINYSEARCH
from benchmarks.search.pareto_policies import POLICIES
from benchmarks.search.policy import Problem
from benchmarks.search.simulation import simulate
from benchmarks.search.table import Table, labels
from search.strategy.pareto import hypervolume, undominated

MARGIN = 0.1  # of the reference point beyond the front's box
MIN_FRONT = 3
NUM_RESAMPLES = 1000
FLOOR = 1e-3  # of a share, so that geometric means have a value


@dataclass(frozen=True)
class Front:
    """A table's known front: both metrics of every configuration, and what the front is worth."""

    metrics: np.ndarray  # (n, 2): loss, logarithm of the cost; NaN where it diverged
    rows: np.ndarray  # of the front, below the median loss
    low: np.ndarray  # (2,), the best of each on the front
    reference: np.ndarray  # (2,)

    @classmethod
    def of(cls, table: Table) -> Front:
        expenses = table.full_costs if table.seconds is None else table.seconds
        metrics = np.column_stack([table.full_values, np.log(expenses)])
        rows = np.flatnonzero(undominated(metrics) & (table.full_values < table.median))
        low, high = metrics[rows].min(0), metrics[rows].max(0)
        return cls(metrics, rows, low, high + MARGIN * (high - low))

    def share(self, rows: list[int]) -> float:
        """The hypervolume of `rows` as a share of the whole front's."""
        return self._volume(np.asarray(rows, dtype=int)) / self._volume(self.rows)

    def _volume(self, rows: np.ndarray) -> float:
        values = (self.metrics[rows] - self.low) / (self.reference - self.low)
        return hypervolume(values[undominated(values)], np.ones(2))


@dataclass(frozen=True)
class Result:
    """One run in figures."""

    table: str
    policy: str
    seed: int
    shares: tuple[float, ...]  # of the front's hypervolume, at each reading
    num_trials: int
    num_finished: int
    num_unfinished_on_front: int  # of what the policy itself reports as its front; 0 unless it is wrong


def play(table: Table, policy: str, seed: int, terms: Terms) -> Result:
    """One run."""
    front = Front.of(table)
    player = POLICIES[policy](Problem.of(table, terms.budget), seed)

    def measured(row: int, rung: int) -> tuple[float, float]:
        if table.seconds is not None:
            expense = table.seconds[row]
        else:
            expense = table.costs[row, rung - 1] * (1.0 if rung == table.lengths[row] else table.num_rungs / rung)
        return float(table.values[row, rung - 1]), float(np.log(expense))

    run = simulate(table, player, num_workers=terms.num_workers, budget=terms.budget, seed=seed, measured=measured)
    done = {row for _, row in run.finished}
    return Result(
        table=table.name,
        policy=policy,
        seed=seed,
        shares=tuple(front.share([row for cost, row in run.finished if cost <= at]) for at in terms.readings),
        num_trials=len(run.spent),
        num_finished=run.num_finished,
        num_unfinished_on_front=sum(run.rows[key] not in done for key in player.front()),
    )


def measure(
    tables: list[Table], policies: list[str], seeds: range, terms: Terms, num_processes: int = 1
) -> dict[str, Any]:
    """Everything there is to print, as one object. Tables without a front to speak of are left out and named."""
    chosen = [table for table in tables if len(Front.of(table).rows) >= MIN_FRONT]
    results = contest(chosen, policies, seeds, terms, playing=play, num_processes=num_processes)
    shares = {
        name: np.array([[r.shares for r in results if (r.table, r.policy) == (t.name, name)] for t in chosen])
        for name in policies
    }  # (tables, seeds, readings)
    names, readings = labels(chosen), [f"{at:g}" for at in terms.readings]
    family_of = [names[table.family] for table in chosen]
    means = {name: shares[name].mean(axis=1) for name in policies}
    resampled = _resampled(shares, family_of)
    heads = {name: np.exp(_over_families(np.log(np.maximum(means[name], FLOOR)), family_of)) for name in policies}

    def read(values: np.ndarray) -> dict[str, Any]:
        return dict(zip(readings, values.tolist(), strict=True))

    def interval(logs: np.ndarray) -> dict[str, Any]:
        return read(np.exp(np.quantile(logs, [0.025, 0.975], axis=0)).T)

    return {
        "policies": {
            name: {
                **read(heads[name]),
                "interval": interval(resampled[name]),
                "trials": float(np.mean([r.num_trials for r in results if r.policy == name])),
                "finished": float(np.mean([r.num_finished for r in results if r.policy == name])),
                "unfinished_on_front": sum(r.num_unfinished_on_front for r in results if r.policy == name),
            }
            for name in policies
        },
        "advantage": {
            name: {
                **read(heads[TINYSEARCH] / heads[name]),
                "interval": interval(resampled[TINYSEARCH] - resampled[name]),
            }
            for name in policies
            if TINYSEARCH in policies and name != TINYSEARCH
        },
        "tables": {
            table.name: {
                "front": len(Front.of(table).rows),
                **{name: read(means[name][i]) for name in policies},
            }
            for i, table in enumerate(chosen)
        },
        "left_out": [table.name for table in tables if table not in chosen],
        "families": list(dict.fromkeys(family_of)),
        "workers": terms.num_workers,
        "seeds": len(seeds),
        "budget": terms.budget,
    }


def _over_families(values: np.ndarray, family_of: list[str]) -> np.ndarray:
    """The mean inside each family and then over families of (tables, readings); (readings,)."""
    families = list(dict.fromkeys(family_of))
    inside = [values[[i for i, family in enumerate(family_of) if family == one]].mean(axis=0) for one in families]
    return np.mean(inside, axis=0)


def _resampled(shares: dict[str, np.ndarray], family_of: list[str]) -> dict[str, np.ndarray]:
    """The logarithm of each policy's headline, (resamples, readings); one resample is the same for all policies."""
    rng = np.random.default_rng(0)
    families = list(dict.fromkeys(family_of))
    num_tables, num_seeds, _ = next(iter(shares.values())).shape
    found: dict[str, list[np.ndarray]] = {name: [] for name in shares}
    for _ in range(NUM_RESAMPLES):
        weights = np.zeros(num_tables)
        for family in rng.integers(len(families), size=len(families)):
            places = [i for i, one in enumerate(family_of) if one == families[family]]
            np.add.at(weights, rng.choice(places, size=len(places)), 1 / len(places) / len(families))
        seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=num_tables) / num_seeds
        for name, values in shares.items():
            means = np.einsum("ts,tsr->tr", seeds, values)
            found[name].append(weights @ np.log(np.maximum(means, FLOOR)))
    return {name: np.array(rows) for name, rows in found.items()}


def shown(measured: dict[str, Any]) -> Any:
    """The figures, for people."""
    from rich.table import Table as Shown

    first = next(iter(measured["policies"].values()))
    readings = list(first["interval"])
    caption = f"{measured['seeds']} seeds, {measured['workers']} workers; left out: {len(measured['left_out'])} tables"
    table = Shown(title="share of the front's hypervolume by budget, with 95 % intervals", caption=caption)
    for column in ("", *readings, "trials", "finished", "unfinished on the front"):
        table.add_column(column, justify="right" if column else "left")
    for name, p in measured["policies"].items():
        cells = [f"{p[r]:.3f} ({p['interval'][r][0]:.2f}-{p['interval'][r][1]:.2f})" for r in readings]
        table.add_row(name, *cells, f"{p['trials']:.0f}", f"{p['finished']:.0f}", f"{p['unfinished_on_front']}")
    for name, by_policy in measured["tables"].items():
        table.add_section()
        for policy in measured["policies"]:
            cells = [f"{by_policy[policy][r]:.3f}" for r in readings]
            table.add_row(f"{name} ({by_policy['front']}): {policy}", *cells)
    return table


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("benchmarks.search.pareto", __doc__, seeds=10, policies=POLICIES)
    add_tables(parser)
    options = options_of(parser, arguments, {"all": list(POLICIES)}, POLICIES)
    tables, terms = tables_of(options), Terms.of(options.workers, options.budget)
    if not any(len(Front.of(table).rows) >= MIN_FRONT for table in tables):
        print(f"{options.folder}: no table has a front of at least {MIN_FRONT} configurations", file=sys.stderr)
        sys.exit(2)
    measured = measure(tables, options.policies, range(options.seeds), terms, options.processes)
    put_out(measured, [shown], as_json=options.json)


if __name__ == "__main__":
    main()
