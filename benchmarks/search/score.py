"""From runs to figures: equivalent random search, means over families, ranks, bootstrap intervals.

Equivalent random search: the budget at which the seed-mean curve of random search first has a method's value, over the
method's own budget. Where random search has exactly that value over a stretch of budgets (before its first trial has
finished, say), the budget of the stretch that is nearest to the method's own counts. Cut to 1/LIMIT and LIMIT.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.search.contest import Result, Terms
from benchmarks.search.simulation import random_curves
from benchmarks.search.table import Table, labels

LIMIT = 10.0  # random search is run to as many times the budget
NUM_RANDOM_SEEDS = 256
FIRST_RANDOM_SEED = 1_000_000  # none that a policy gets
NUM_RESAMPLES = 1000
SAME = 1e-12  # rounding


@dataclass(frozen=True, eq=False)
class Reference:
    """Random search on one table: its regret at each cost of `grid`, a row for each seed. A row never rises."""

    grid: np.ndarray
    curves: np.ndarray

    @classmethod
    def of(cls, table: Table, terms: Terms, num_seeds: int = NUM_RANDOM_SEEDS, num_points: int = 1200) -> Reference:
        budget = LIMIT * terms.budget
        grid = np.geomspace(min(terms.readings) / LIMIT / 2, budget, num_points)
        seeds = range(FIRST_RANDOM_SEED, FIRST_RANDOM_SEED + num_seeds)
        curves = random_curves(table, num_workers=terms.num_workers, budget=budget, grid=grid, seeds=seeds)
        return cls(grid, curves)

    def equivalents(self, means: np.ndarray, values: np.ndarray, budget: float) -> np.ndarray:
        """The equivalent random search of each of `values`, against its own row of `means` (or the only one)."""
        values = values[:, None]
        first = (means > values + SAME).sum(axis=1)  # the first place where random search is as good ...
        after = (means >= values - SAME).sum(axis=1)  # ... and the first where it is better
        ends = np.append(self.grid, np.inf)
        low = np.where(first == 0, 0.0, ends[first])
        return np.clip(np.clip(budget, low, ends[after]) / budget, 1 / LIMIT, LIMIT)


class Scores:
    """The figures of a contest. `regrets[policy]` is (tables, seeds, readings), `ratios[policy]` (tables, readings)."""

    def __init__(self, tables: list[Table], policies: list[str], results: list[Result], terms: Terms):
        self.tables, self.policies, self.terms = tables, policies, terms
        self.results = {name: [r for r in results if r.policy == name] for name in policies}
        family_labels = labels(tables)
        self.family_of = {table.name: family_labels[table.family] for table in tables}
        self.families = list(dict.fromkeys(self.family_of.values()))
        self.references = [Reference.of(table, terms) for table in tables]
        self.regrets = {
            name: np.array([[r.regrets for r in self.results[name] if r.table == t.name] for t in tables])
            for name in policies
        }
        self.ratios = {name: self._ratios(self.regrets[name]) for name in policies}

    @property
    def _places(self) -> range:
        return range(len(self.tables))

    def _ratios(self, regrets: np.ndarray) -> np.ndarray:
        """Of the seed-mean regrets on each table; (tables, seeds, readings) -> (tables, readings)."""
        means = [reference.curves.mean(axis=0, keepdims=True) for reference in self.references]
        return np.array([self._equivalents(i, means[i], regrets[i].mean(axis=0)) for i in self._places])

    def _equivalents(self, place: int, means: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(..., readings) -> the same, on the table at that place."""
        columns = np.moveaxis(np.atleast_2d(values), -1, 0)
        found = [
            self.references[place].equivalents(means, column, reading)
            for column, reading in zip(columns, self.terms.readings, strict=True)
        ]
        return np.moveaxis(np.array(found), 0, -1).reshape(values.shape)

    def family_ratios(self, policy: str) -> dict[str, np.ndarray]:
        """The geometric mean inside each family, at each reading."""
        return self._by_family(self.ratios[policy])

    def headline(self, policy: str) -> np.ndarray:
        """The geometric mean over families, at each reading."""
        return self._over_families(self.ratios[policy])

    def finished_headline(self, policy: str) -> np.ndarray:
        """The same of the best trial that had finished, where a policy hands over an unfinished one."""
        regrets = [[r.finished_regrets for r in self.results[policy] if r.table == t.name] for t in self.tables]
        return self._over_families(self._ratios(np.array(regrets)))

    def _by_family(self, ratios: np.ndarray) -> dict[str, np.ndarray]:
        inside = {family: [i for i in self._places if self._family(i) == family] for family in self.families}
        return {family: np.exp(np.log(ratios[places]).mean(axis=0)) for family, places in inside.items()}

    def _over_families(self, ratios: np.ndarray) -> np.ndarray:
        return np.exp(np.mean([np.log(inside) for inside in self._by_family(ratios).values()], axis=0))

    @cached_property
    def ranks(self) -> dict[str, np.ndarray]:
        """Each policy's mean rank over the tables, at each reading; 1 is best, equal ones share their places."""
        values = np.array([self.regrets[name].mean(axis=1) for name in self.policies])  # (policies, tables, readings)
        better = (values[None] < values[:, None] - SAME).sum(axis=1)
        equal = (np.abs(values[None] - values[:, None]) <= SAME).sum(axis=1)
        ranks = (better + (equal + 1) / 2).mean(axis=1)
        return dict(zip(self.policies, ranks, strict=True))

    @cached_property
    def _resampled(self) -> dict[str, np.ndarray]:
        """The logarithm of each policy's headline in every resample; (resamples, readings).

        Families are drawn with replacement, in each of them tables, and for each table the seeds of the policies and
        of random search. One resample is the same for all policies, so that they can be compared in pairs.
        """
        rng = np.random.default_rng(0)
        weights = self._table_weights(rng)
        logs = {name: np.zeros((NUM_RESAMPLES, len(self.terms.readings))) for name in self.policies}
        for place, reference in enumerate(self.references):
            means = _resampling(rng, len(reference.curves)) @ reference.curves
            num_seeds = len(self.regrets[self.policies[0]][place])
            seeds = _resampling(rng, num_seeds)
            for name in self.policies:
                ratios = self._equivalents(place, means, seeds @ self.regrets[name][place])
                logs[name] += weights[:, place, None] * np.log(ratios)
        return logs

    def _table_weights(self, rng: np.random.Generator) -> np.ndarray:
        """What each table weighs in each resample; (resamples, tables)."""
        weights = np.zeros((NUM_RESAMPLES, len(self.tables)))
        inside = [[i for i in self._places if self._family(i) == family] for family in self.families]
        for row in weights:
            for family in rng.integers(len(inside), size=len(inside)):
                places = inside[family]
                np.add.at(row, rng.choice(places, size=len(places)), 1 / len(places) / len(inside))
        return weights

    def interval(self, policy: str, over: str | None = None) -> np.ndarray:
        """The headline's 95 % interval at each reading, or that of its ratio to another policy's; (2, readings)."""
        logs = self._resampled[policy] - (self._resampled[over] if over else 0)
        return np.exp(np.quantile(logs, [0.025, 0.975], axis=0))

    def _family(self, place: int) -> str:
        return self.family_of[self.tables[place].name]

    def to_dict(self, baseline: str | None = None) -> dict:
        """All figures under their names; `baseline` is the policy that the others are compared with in pairs."""
        return {
            "policies": {name: self._policy(name) for name in self.policies},
            "families": {
                family: {name: self._read(self.family_ratios(name)[family]) for name in self.policies}
                for family in self.families
            },
            "advantage": {
                other: {
                    **self._read(self.headline(baseline) / self.headline(other)),
                    **self._read(self.interval(baseline, over=other).T.tolist(), "interval_"),
                }
                for other in self.policies
                if baseline in self.policies and other != baseline
            },
            "tables": {
                table.name: {
                    name: {
                        **self._read(self.ratios[name][i]),
                        **self._read(self.regrets[name][i].mean(axis=0), "regret_"),
                    }
                    for name in self.policies
                }
                for i, table in enumerate(self.tables)
            },
        }

    def _policy(self, name: str) -> dict:
        results = self.results[name]
        stopped = sum(r.num_stopped for r in results)
        at_limit = (self.ratios[name] >= LIMIT).sum(axis=0)
        return {
            **self._read(self.headline(name)),
            **self._read(self.ranks[name], "rank_"),
            **self._read(self.interval(name).T.tolist(), "interval_"),
            **self._read(self.finished_headline(name), "finished_"),
            **self._read(at_limit.tolist(), "tables_above_10_at_"),
            "false_stops": float(np.mean([r.num_false_stops for r in results])),
            "false_stop_share": sum(r.num_false_stops for r in results) / stopped if stopped else 0.0,
            "below_median_cost_share": float(np.mean([r.below_median_share for r in results])),
            "trials": float(np.mean([r.num_trials for r in results])),
            "finished": float(np.mean([r.num_finished for r in results])),
            "thinking_ms": 1e3 * sum(r.thinking_seconds for r in results) / sum(r.num_proposals for r in results),
        }

    def _read(self, figures: np.ndarray | list, prefix: str = "") -> dict:
        values = figures.tolist() if isinstance(figures, np.ndarray) else figures
        return {f"{prefix}{reading:g}": value for reading, value in zip(self.terms.readings, values, strict=True)}


def _resampling(rng: np.random.Generator, num: int) -> np.ndarray:
    """Weights that make means of resamples with replacement; (resamples, num)."""
    return rng.multinomial(num, np.full(num, 1 / num), size=NUM_RESAMPLES) / num
