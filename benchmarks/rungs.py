"""How well a rung's loss predicts the final loss: cosine, warmup-stable-decay, and averaged weights with each.

    python -m benchmarks.rungs --out FILE [--json] [--configurations 24] [--families all] [--seed 0] [--minutes M]

Draws configurations of each family's space at a small scale (scale.py) and trains each once with every contender: the
same configuration, seed, text, warm-up and min_lr, only the schedule and the averaging differ. Results are appended to
FILE; the same command resumes from there, and with --minutes stops in between and shows what there is.

For each contender and rung below the last: Spearman's rank correlation of the rung's loss with the final loss, and the
share of the best third at the rung that ends in the best third; both against the contender's own final loss and that of
the cosine run. A diverged training has an infinite loss. Intervals are of a bootstrap over configurations (95 %), drawn
alike for all contenders.

Another default than cosine is supported where its correlation with its own final loss, the mean over rungs and
families, is higher by an interval above 0, and the mean final loss of its best third is not worse by an interval
above 0.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale import NUM_PARTS, SCALES
from benchmarks.trainings import Job, curves_of

ETA = 3
COSINE = "cosine"
EMA_SHARE = 0.1  # the mean age of a plain average over the last fifth, which is how long wsd decays
CONTENDERS: dict[str, dict[str, Any]] = {
    COSINE: {"schedule": "cosine"},
    "wsd": {"schedule": "wsd"},
    "cosine averaged": {"schedule": "cosine", "ema_share": EMA_SHARE},
    "wsd averaged": {"schedule": "wsd", "ema_share": EMA_SHARE},
}
EVAL_TOKENS = 4096
NUM_RESAMPLES = 1000
CONFIDENCE = 0.95

Losses = dict[str, np.ndarray]  # by contender: (n, rungs), one row a configuration, the same in each


def main(arguments: list[str] | None = None) -> None:
    options = _parsed(arguments)
    try:
        curves = curves_of(
            jobs(options.families, options.configurations, options.seed), options.out, max_seconds=60 * options.minutes
        )
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    losses = {family: _losses(curves, family, options) for family in options.families}
    if any(len(next(iter(of.values()))) < 3 for of in losses.values()):
        print("fewer than three configurations are trained with every contender; run it again", file=sys.stderr)
        sys.exit(1)
    measured = {**compare(losses, options.seed), **_circumstances(options)}
    if options.json:
        print(json.dumps(measured))
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
    for shown in tables(measured):
        console.print(shown)
    console.print("supported as default instead of cosine:", ", ".join(measured["supported"]) or "none")


def jobs(families: list[str], num_configurations: int, seed: int) -> list[Job]:
    """All trainings, those of one configuration together, so that an interruption leaves whole configurations."""
    drawn = {family: SCALES[family].draw(num_configurations, seed) for family in families}
    found = []
    for number in range(num_configurations):
        for family in families:
            scale, values = SCALES[family], drawn[family][number]
            for contender, changes in CONTENDERS.items():
                run = {"seed": seed, "eval_tokens": EVAL_TOKENS, **changes}
                config = scale.train_config(values, rungs(scale.grid), **run)
                found.append(Job(f"{family} {seed} {number} {contender}", values, config))
    return found


def rungs(grid: tuple[int, ...]) -> tuple[int, ...]:
    """Of the ends of equal parts, those that are eta apart."""
    return tuple(tokens for part, tokens in enumerate(grid, start=1) if part in {ETA**i for i in range(len(grid))})


def compare(losses: dict[str, Losses], seed: int) -> dict[str, Any]:
    """Every statistic as [value, low, high]: by family, contender and rung, and over families."""
    rng = np.random.default_rng(seed)
    samples = {
        family: rng.integers(0, len(of[COSINE]), (NUM_RESAMPLES, len(of[COSINE]))) for family, of in losses.items()
    }

    def with_interval(statistic: Callable[[dict[str, np.ndarray]], float]) -> list[float]:
        whole = statistic({family: np.arange(len(of[COSINE])) for family, of in losses.items()})
        resampled = [statistic({family: rows[i] for family, rows in samples.items()}) for i in range(NUM_RESAMPLES)]
        tail = (1 - CONFIDENCE) / 2
        return [whole, *(float(q) for q in np.nanquantile(resampled, [tail, 1 - tail]))]

    families: dict[str, Any] = {}
    for family, of in losses.items():
        num_early = of[COSINE].shape[1] - 1
        families[family] = {
            "configurations": len(of[COSINE]),
            "diverged": {name: int(np.isinf(values[:, -1]).sum()) for name, values in of.items()},
            "contenders": {
                name: [
                    {
                        f"{label}_{target}": with_interval(
                            lambda rows, f=family, n=name, r=rung, t=target, m=measure: _at(
                                losses[f], n, r, t, m, rows[f]
                            )
                        )
                        for label, measure in (("correlation", spearman), ("overlap", overlap))
                        for target in ("own", "cosine")
                    }
                    for rung in range(num_early)
                ]
                for name in of
            },
        }
    overall = {
        name: {
            "correlation": with_interval(lambda rows, n=name: _correlation(losses, n, rows)),
            "correlation_gain": with_interval(
                lambda rows, n=name: _correlation(losses, n, rows) - _correlation(losses, COSINE, rows)
            ),
            "correlation_cosine": with_interval(lambda rows, n=name: _correlation(losses, n, rows, target="cosine")),
            "best_third_change": with_interval(lambda rows, n=name: _best_third_change(losses, n, rows)),
        }
        for name in CONTENDERS
    }
    supported = [
        name
        for name, of in overall.items()
        if name != COSINE and of["correlation_gain"][1] > 0 and of["best_third_change"][1] <= 0
    ]
    return {"families": families, "overall": overall, "supported": supported}


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of (n,) with (n,), equal values sharing their mean rank; NaN where either is all the same."""
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale else math.nan


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Which share of the lowest third of (n,) is in the lowest third of the other (n,) as well."""
    size = max(1, len(a) // 3)
    lowest = [set(np.argsort(values, kind="stable")[:size].tolist()) for values in (a, b)]
    return len(lowest[0] & lowest[1]) / size


def _ranks(values: np.ndarray) -> np.ndarray:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[places]


def _at(of: Losses, name: str, rung: int, target: str, measure: Callable[..., float], rows: np.ndarray) -> float:
    final = of[name if target == "own" else COSINE][rows, -1]
    return measure(of[name][rows, rung], final)


def _correlation(losses: dict[str, Losses], name: str, rows: dict[str, np.ndarray], target: str = "own") -> float:
    """The mean over the rungs before the last and over families."""
    found = [
        _at(of, name, rung, target, spearman, rows[family])
        for family, of in losses.items()
        for rung in range(of[name].shape[1] - 1)
    ]
    known = [correlation for correlation in found if not math.isnan(correlation)]
    return statistics.fmean(known) if known else math.nan


def _best_third_change(losses: dict[str, Losses], name: str, rows: dict[str, np.ndarray]) -> float:
    """The mean final loss of a contender's best third less that of cosine's best third, in nats per byte."""

    def best_third(values: np.ndarray) -> float:
        return float(np.sort(values)[: max(1, len(values) // 3)].mean())

    return float(
        np.mean([best_third(of[name][rows[f], -1]) - best_third(of[COSINE][rows[f], -1]) for f, of in losses.items()])
    )


def _losses(curves: dict[str, Any], family: str, options: argparse.Namespace) -> Losses:
    """Of the configurations that every contender has trained."""
    names = [
        [f"{family} {options.seed} {number} {contender}" for contender in CONTENDERS]
        for number in range(options.configurations)
    ]
    whole = [row for row in names if all(name in curves for name in row)]
    return {
        contender: np.array([curves[row[i]].losses for row in whole]).reshape(len(whole), -1)
        for i, contender in enumerate(CONTENDERS)
    }


def _circumstances(options: argparse.Namespace) -> dict[str, Any]:
    from importlib.metadata import version

    return {
        "scales": {family: SCALES[family].describe() for family in options.families},
        "rungs": {family: rungs(SCALES[family].grid) for family in options.families},
        "seed": options.seed,
        "ema_share": EMA_SHARE,
        "eval_tokens": EVAL_TOKENS,
        "cpu_cores": os.cpu_count(),
        "platform": platform.machine(),
        "versions": {"python": platform.python_version(), "torch": version("torch")},
    }


def tables(measured: dict[str, Any]) -> list[Any]:
    """The measurement for people."""
    from rich.table import Table

    def cell(triple: list[float]) -> str:
        value, low, high = triple
        return f"{value:.2f} ({low:.2f} to {high:.2f})"

    by_rung = Table(
        title="rank correlation of a rung's loss with the final loss: its own, and that of the cosine run (95 %)",
        caption="overlap: the share of the best third at the rung that ends in the best third",
    )
    for column in ("family", "contender", "budget", "own", "cosine's", "overlap own", "overlap cosine's"):
        by_rung.add_column(column)
    for family, of in measured["families"].items():
        for name, at_rungs in of["contenders"].items():
            for rung, found in enumerate(at_rungs):
                part = f"1/{NUM_PARTS // ETA**rung}"
                cells = [found[key] for key in ("correlation_own", "correlation_cosine")]
                overlaps = [f"{found[key][0]:.2f}" for key in ("overlap_own", "overlap_cosine")]
                by_rung.add_row(family, name, part, *map(cell, cells), *overlaps)
        by_rung.add_section()
    counts = ", ".join(f"{of['configurations']} of {family}" for family, of in measured["families"].items())
    overall = Table(title="over rungs and families (95 %)", caption=f"{counts}; nats: of the best third, less cosine's")
    for column in ("contender", "own final", "gain over cosine", "cosine's final", "nats per byte"):
        overall.add_column(column)
    for name, of in measured["overall"].items():
        keys = ("correlation", "correlation_gain", "correlation_cosine", "best_third_change")
        overall.add_row(name, *(cell(of[key]) for key in keys))
    return [by_rung, overall]


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rungs", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one for each training; resumes from there")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--configurations", type=int, default=24, help="of each family")
    parser.add_argument("--families", default="all", help=f"all, or some of {','.join(SCALES)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no training after so many")
    options = parser.parse_args(arguments)
    options.families = list(SCALES) if options.families == "all" else options.families.split(",")
    if unknown := [name for name in options.families if name not in SCALES]:
        parser.error(f"unknown family {unknown[0]!r}. Known: {', '.join(SCALES)}")
    if options.configurations < 3:
        parser.error("give at least three configurations")
    return options


if __name__ == "__main__":
    main()
