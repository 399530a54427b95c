"""One table of recorded learning curves, read from an .npz file and checked.

Arrays: `U` (n, d) configurations in the unit cube; `Y` (n, R) the metric at rungs 1 to R, lower is better, NaN after
the last rung and where it diverged; `C` (n, R) the cumulative cost at each rung; `last` (n,) the index of each
configuration's last rung; `meta` JSON text, maybe with the CPU seconds of each full training. A configuration is known
by its row.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

ARRAYS = ("U", "Y", "C", "last", "meta")
META = ("name", "restart", "best", "median", "full_cost", "hps")


class TableError(ValueError):
    """A file is not a table of learning curves; the message says where and why."""


@dataclass(frozen=True)
class Axis:
    """One hyperparameter: a number from 0 to 1, or one of `num_levels` evenly spaced ones (0: any number)."""

    name: str
    num_levels: int = 0
    is_ordered: bool = True


def point(axes: tuple[Axis, ...], values: Mapping[str, Any]) -> np.ndarray:
    """Where a configuration lies in the unit cube: numbers from 0 to 1 as they are, levels by their number."""
    return np.array([values[axis.name] / max(axis.num_levels - 1, 1) for axis in axes], dtype=np.float64)


def values_at(axes: tuple[Axis, ...], at: np.ndarray) -> dict[str, float | int]:
    """The configuration at a place of the unit cube, as `point` reads it; levels snap to the nearest."""
    pairs = zip(axes, at.tolist(), strict=True)
    return {axis.name: round(x * (axis.num_levels - 1)) if axis.num_levels else x for axis, x in pairs}


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """A checked table. Costs are in units: 1 is the median cost of a full training."""

    name: str
    axes: tuple[Axis, ...]
    points: np.ndarray  # (n, d)
    values: np.ndarray  # (n, R), NaN wherever the value is not a finite number
    costs: np.ndarray  # (n, R), cumulative
    lengths: np.ndarray  # (n,), how many rungs each configuration has
    restart: bool  # each fidelity is a run of its own: going on from a rung pays for the whole run again
    best: float
    median: float
    seconds: np.ndarray | None = None  # (n,), of CPU time that each full training took, where that was recorded

    @property
    def num_configurations(self) -> int:
        return len(self.points)

    @property
    def num_rungs(self) -> int:
        return self.values.shape[1]

    @cached_property
    def family(self) -> str:
        """What the table shares with others of its kind: where it comes from and what was searched."""
        names = sorted(axis.name for axis in self.axes)
        return f"{self.name.partition(':')[0]} ({', '.join(names)})"

    @cached_property
    def full_values(self) -> np.ndarray:
        """Each configuration's value at its own full budget, NaN where it diverged; (n,)."""
        return self.values[np.arange(self.num_configurations), self.lengths - 1]

    @cached_property
    def full_costs(self) -> np.ndarray:
        return self.costs[np.arange(self.num_configurations), self.lengths - 1]

    @cached_property
    def regrets(self) -> np.ndarray:
        """Normalised regret of each configuration, cut at 1: the median is as good as a guess, and worse no better."""
        regrets = (self.full_values - self.best) / (self.median - self.best)
        return np.clip(np.nan_to_num(regrets, nan=1.0), 0.0, 1.0)


class Rows:
    """The configurations of a table that a run has not trained yet.

    Of equally near ones (a configuration that was recorded twice) chance decides, by the seed: in the table's own
    order the second would always come late.
    """

    def __init__(self, table: Table, seed: int):
        self._order = np.random.default_rng([seed, 1]).permutation(table.num_configurations)
        self._points = np.ascontiguousarray(table.points[self._order].T)  # (d, n): a row of numbers per axis
        self._penalty = np.zeros(table.num_configurations)
        self.num_left = table.num_configurations

    def take_nearest(self, point: np.ndarray) -> int:
        """The nearest row that is left, in the unit cube; it is not left any more."""
        offsets = self._points - np.asarray(point, dtype=np.float64)[:, None]
        place = int((np.einsum("dn,dn->n", offsets, offsets) + self._penalty).argmin())
        self._penalty[place] = np.inf
        self.num_left -= 1
        return int(self._order[place])


def read_tables(folder: str | Path, pattern: str = "*.npz") -> list[Table]:
    """The tables of a folder by file name. Raises TableError for the first that is none, or where there are none."""
    files = sorted(path for path in Path(folder).glob(pattern) if path.suffix == ".npz" and path.is_file())
    if not files:
        raise TableError(f"{folder}: no table {pattern}; give a folder of .npz files")
    tables = [read_table(file) for file in files]
    for name in {table.name for table in tables}:
        twice = [str(file) for file, table in zip(files, tables, strict=True) if table.name == name]
        if len(twice) > 1:
            raise TableError(f"{twice[1]}: meta.name: {name!r} is the name of {twice[0]} as well")
    return tables


def read_table(path: str | Path) -> Table:
    """Read and check one file. Raises TableError, naming the file, the part and what is wrong with it."""
    return _Reader(Path(path)).table()


def labels(tables: list[Table]) -> dict[str, str]:
    """A short readable name for each family: where it comes from, and where that is not enough, what else is shared."""
    by_source: dict[str, list[str]] = {}
    for table in tables:
        by_source.setdefault(table.name.partition(":")[0], []).append(table.family)
    found = {}
    for source, families in by_source.items():
        for family in dict.fromkeys(families):
            kinds = {t.name.partition(":")[2] for t in tables if t.family == family}
            heads = {re.split(r"[-_]", kind)[0] for kind in kinds}
            found[family] = source if len(set(families)) == 1 else f"{source}:{'+'.join(sorted(heads))}"
    if len(set(found.values())) < len(found):
        return {family: family for family in found}
    return found


class _Reader:
    def __init__(self, path: Path):
        self.path = path

    def table(self) -> Table:
        arrays = self._arrays()
        meta = self._meta(arrays["meta"])
        points, values, costs = (self._matrix(arrays, name) for name in ("U", "Y", "C"))
        n, num_rungs = values.shape
        self._check(points.shape[0] == n, "U", f"has {points.shape[0]} rows, but Y has {n}")
        self._check(costs.shape == values.shape, "C", f"is {costs.shape}, but Y is {values.shape}")
        self._check(n > 0 and num_rungs > 0, "Y", f"is {values.shape}: there is nothing in it")
        axes = self._axes(meta, points.shape[1])
        bad = np.argwhere(~((points >= -1e-6) & (points <= 1 + 1e-6)))
        self._check(not len(bad), "U", lambda: f"row {bad[0][0]}: {axes[bad[0][1]].name} is not in 0 to 1")
        last = arrays["last"]
        self._check(last.shape == (n,) and last.dtype.kind in "iu", "last", f"is not {n} whole numbers")
        bad = np.flatnonzero((last < 0) | (last >= num_rungs))
        self._check(not len(bad), "last", lambda: f"row {bad[0]}: {last[bad[0]]} is no rung from 0 to {num_rungs - 1}")
        lengths = last.astype(np.int64) + 1
        self._check_costs(costs, lengths)
        numbers = {key: self._number(meta, key) for key in ("best", "median", "full_cost")}
        self._check(numbers["median"] > numbers["best"], "meta.median", "is not above meta.best")
        self._check(numbers["full_cost"] > 0, "meta.full_cost", "is not positive")
        self._check(isinstance(meta["restart"], bool), "meta.restart", "is neither true nor false")
        self._check(isinstance(meta["name"], str) and meta["name"] != "", "meta.name", "is no name")
        return Table(
            name=meta["name"],
            axes=axes,
            points=np.clip(points, 0, 1),
            values=np.where(np.isfinite(values), values, np.nan),
            costs=costs / numbers["full_cost"],
            lengths=lengths,
            restart=meta["restart"],
            best=numbers["best"],
            median=numbers["median"],
            seconds=self._seconds(meta.get("cpu_seconds"), n),
        )

    def _arrays(self) -> dict[str, np.ndarray]:
        try:
            with open(self.path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
                missing = [name for name in ARRAYS if name not in file]
                self._check(not missing, "", f"has no {', '.join(missing)}")
                return {name: file[name] for name in ARRAYS}
        except TableError:
            raise
        except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
            raise TableError(f"{self.path}: cannot be read as .npz: {error}") from None

    def _meta(self, array: np.ndarray) -> dict[str, Any]:
        try:
            meta = json.loads(str(array))
        except json.JSONDecodeError as error:
            raise TableError(f"{self.path}: meta: is not JSON: {error}") from None
        self._check(isinstance(meta, dict), "meta", "is not a JSON object")
        missing = [key for key in META if key not in meta]
        self._check(not missing, "meta", f"has no {', '.join(missing)}")
        return meta

    def _matrix(self, arrays: dict[str, np.ndarray], name: str) -> np.ndarray:
        array = arrays[name]
        self._check(array.ndim == 2 and array.dtype.kind in "fiu", name, f"is no matrix of numbers: {array.shape}")
        return array.astype(np.float64)

    def _number(self, meta: dict[str, Any], key: str) -> float:
        value = meta[key]
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)
        self._check(is_number, f"meta.{key}", f"is {value!r}, not a number")
        return float(value)

    def _seconds(self, given: Any, n: int) -> np.ndarray | None:
        if given is None:
            return None
        is_list = isinstance(given, list) and len(given) == n and all(isinstance(s, (int, float)) for s in given)
        self._check(is_list and min(given) > 0, "meta.cpu_seconds", f"is no list of {n} positive numbers")
        return np.array(given, dtype=np.float64)

    def _axes(self, meta: dict[str, Any], num_axes: int) -> tuple[Axis, ...]:
        hps = meta["hps"]
        is_list = isinstance(hps, list) and all(isinstance(hp, dict) and isinstance(hp.get("name"), str) for hp in hps)
        self._check(is_list, "meta.hps", "is not a list of objects with a name")
        self._check(len(hps) == num_axes, "meta.hps", f"names {len(hps)} hyperparameters, but U has {num_axes} columns")
        self._check(len({hp["name"] for hp in hps}) == len(hps), "meta.hps", "gives a name twice")
        axes = []
        for hp in hps:
            values = hp.get("values")
            num_levels = len(values) if isinstance(values, list) and len(values) > 1 else 0
            axes.append(Axis(hp["name"], num_levels, hp.get("type") != "categorical"))
        return tuple(axes)

    def _check_costs(self, costs: np.ndarray, lengths: np.ndarray) -> None:
        """Positive and never falling; surrogates of recorded times have rungs that cost nothing."""
        within = np.arange(costs.shape[1]) < lengths[:, None]
        steps = np.diff(costs, axis=1, prepend=0)
        bad = np.argwhere(within & ~(np.isfinite(costs) & (costs > 0) & (steps >= 0)))
        self._check(not len(bad), "C", lambda: f"row {bad[0][0]}, rung {bad[0][1] + 1}: is not positive, or falls")

    def _check(self, is_sound: Any, part: str, wrong: Any) -> None:
        if not is_sound:
            words = wrong() if callable(wrong) else wrong
            raise TableError(f"{self.path}: {part}: {words}" if part else f"{self.path}: {words}")
