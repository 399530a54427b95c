"""Records a table of learning curves for `benchmarks.search`: random configurations of a family's space, trained.

    python -m benchmarks.record OUT_FOLDER --family hybrid [--configurations 200] [--seed 0] [--minutes M]

Configurations are drawn and trained at a small scale (scale.py), measured at 27 equal parts of the budget. Each
training is appended to OUT_FOLDER/<family>.jsonl; the same command resumes from there, and with --minutes stops in
between. Then OUT_FOLDER/<family>.npz holds what is trained so far, in the format of benchmarks/search/table.py:

- `U` (n, d) float32: the searched parameters in the unit cube; log axes applied, levels evenly spaced. A parameter that
  a configuration does not have lies at its default.
- `Y` (n, 27) float32: held-out loss in nats per byte, NaN from where the training diverged.
- `C` (n, 27) float64: training tokens so far; after a divergence those it had.
- `last` (n,) int32: 26, the last rung.
- `meta`: JSON; beside what every table has, the scale, the versions and the CPU seconds of each training.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale import NUM_PARTS, SCALES, Scale
from benchmarks.trainings import Curve, Job, curves_of
from search.space.parameter import Parameter, Value, Values
from search.space.space import Space, extremes

EVAL_TOKENS = 1024  # the same for all: 27 evaluations must not cost more than the training
MAX_LEVELS = 32  # of a range of whole numbers; one with more is an axis without levels


def main(arguments: list[str] | None = None) -> None:
    options = _parsed(arguments)
    scale = SCALES[options.family]
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        curves = curves_of(
            jobs(scale, options.configurations, options.seed),
            options.out / f"{scale.family}.jsonl",
            max_seconds=60 * options.minutes,
        )
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    if len(curves) < 2:
        print("fewer than two configurations are trained; run it again", file=sys.stderr)
        sys.exit(1)
    path = options.out / f"{scale.family}.npz"
    np.savez_compressed(path, **table(scale, list(curves.values()), options.seed))
    print(f"{path}: {len(curves)} configurations")


def jobs(scale: Scale, num_configurations: int, seed: int) -> list[Job]:
    return [
        Job(
            f"{scale.family} {seed} {number}",
            values,
            scale.train_config(values, scale.grid, seed=seed, eval_tokens=EVAL_TOKENS),
        )
        for number, values in enumerate(scale.draw(num_configurations, seed))
    ]


def table(scale: Scale, curves: list[Curve], seed: int) -> dict[str, Any]:
    """The arrays of the .npz file."""
    columns = columns_of(scale.space)
    losses = np.array([curve.losses for curve in curves])
    losses[~np.isfinite(losses)] = np.nan
    tokens = np.array([[min(t, curve.diverged_tokens or t) for t in curve.rungs] for curve in curves], dtype=np.float64)
    meta = {
        "name": f"tinysearch:{scale.family}",
        "metric": "nats_per_byte",
        "cost": "tokens",
        "restart": False,
        "R": NUM_PARTS,
        "n": len(curves),
        "best": float(np.nanmin(losses[:, -1])),
        "median": float(np.nanmedian(losses[:, -1])),
        "worst": float(np.nanmax(losses[:, -1])),
        "full_cost": float(np.median(tokens[:, -1])),
        "hps": [column.to_dict() for column in columns],
        "scale": scale.describe(),
        "seed": seed,
        "eval_tokens": EVAL_TOKENS,
        "cpu_seconds": [round(curve.cpu_seconds, 2) for curve in curves],
        "median_cpu_seconds": statistics.median(curve.cpu_seconds for curve in curves),
        "platform": platform.machine(),
        "versions": {"python": platform.python_version(), "torch": version("torch")},
    }
    return {
        "U": np.array([[column.place(curve.values) for column in columns] for curve in curves], dtype=np.float32),
        "Y": losses.astype(np.float32),
        "C": tokens,
        "last": np.full(len(curves), NUM_PARTS - 1, dtype=np.int32),
        "meta": json.dumps(meta),
    }


@dataclass(frozen=True, kw_only=True)
class Column:
    """A searched parameter as an axis of the unit cube: by its levels, or by its range where it has none."""

    name: str
    type: str
    levels: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    default: Value | None = None  # where a configuration does not have it

    def place(self, values: Values) -> float:
        value: Any = values.get(self.name, self.default)
        if self.levels:
            return self.levels.index(value) / (len(self.levels) - 1)
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return (value - low) / (high - low)

    def to_dict(self) -> dict[str, Any]:
        ends = {} if self.levels else {"low": self.low, "high": self.high}
        return {"name": self.name, "type": self.type, "values": list(self.levels), "log": self.log, **ends}


def columns_of(space: Space) -> list[Column]:
    defaults = space.complete({})
    return [
        _column(space, parameter, defaults.get(name, parameter.default)) for name, parameter in space.searched.items()
    ]


def _column(space: Space, parameter: Parameter, default: Any) -> Column:
    if not parameter.is_range:
        kind = "ordinal" if all(isinstance(choice, (int, float)) for choice in parameter.choices) else "categorical"
        return Column(name=parameter.name, type=kind, levels=parameter.choices, default=default)
    low, high = extremes(space, parameter)
    log = parameter.log
    if parameter.type is int and not log:
        levels = tuple(range(int(low), int(parameter.on_grid(low, high)) + 1, int(parameter.step or 1)))
        if len(levels) <= MAX_LEVELS:
            return Column(name=parameter.name, type="ordinal", levels=levels, default=default)
    kind = parameter.type.__name__
    return Column(name=parameter.name, type=kind, low=low, high=high, log=log, default=default)


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record", description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT_FOLDER", help="of the table and of its trainings, one a line")
    parser.add_argument("--family", required=True, choices=SCALES)
    parser.add_argument("--configurations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no training after so many")
    options = parser.parse_args(arguments)
    if options.configurations < 2:
        parser.error("give at least two configurations")
    return options


if __name__ == "__main__":
    main()
