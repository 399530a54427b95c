"""How well the search finds good configurations: tinysearch beside its peers on recorded learning curves.

    python -m benchmarks.search FOLDER [--json] [--workers 8] [--seeds 30] [--budget 50] [--policies all]
                                       [--tables GLOB] [--processes N]

FOLDER holds tables of real training runs (table.py says which format). Workers share a simulated clock, the cost that
all of them have consumed, in units of a full training. At 5, 10, 20 and 50 units each policy hands over a configuration
and is scored by its equivalent random search: 3 is as good as random search with three times the budget, below 1 is
worse than random. The best trial that had finished is scored beside it, since most policies hand over unfinished ones.
A trial trains the nearest configuration of the table that is left, and every policy learns which one it was, as in a
real search. Figures are geometric means over families of tables with bootstrap intervals over families,
tables and seeds. Time to think is reported and not charged.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib.metadata import version
from typing import Any

from benchmarks.search.command import add_tables, options_of, parser_of, put_out, tables_of
from benchmarks.search.contest import Result, Terms, contest
from benchmarks.search.entrants import ENTRANTS, PARTS, TINYSEARCH
from benchmarks.search.score import Scores
from benchmarks.search.table import Table

STUDY_SIZES = (200, 2000)


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of("benchmarks.search", __doc__, seeds=30, policies=[*ENTRANTS, "parts", *PARTS])
    add_tables(parser)
    groups = {"all": list(ENTRANTS), "parts": [TINYSEARCH, *PARTS]}
    options = options_of(parser, arguments, groups, ENTRANTS | PARTS)
    tables, terms = tables_of(options), Terms.of(options.workers, options.budget)
    measured = measure(tables, options.policies, range(options.seeds), terms, options.processes)
    put_out(measured, (headline, by_family), as_json=options.json)


def measure(tables: list[Table], policies: list[str], seeds: range, terms: Terms, num_processes: int) -> dict[str, Any]:
    """Everything there is to print, as one object."""
    progress = _Progress(len(tables) * len(policies) * len(seeds))
    results = contest(tables, policies, seeds, terms, num_processes=num_processes, on_result=progress.add)
    progress.end("scoring")
    scores = Scores(tables, policies, results, terms)
    measured = scores.to_dict(baseline=TINYSEARCH)
    if TINYSEARCH in policies:
        from benchmarks.search.proposing import propose_ms

        progress.end("timing proposals")
        widest = max(tables, key=lambda table: len(table.axes))
        measured["propose_ms"] = {str(size): propose_ms(widest, size) for size in STUDY_SIZES}
    return {
        **measured,
        "workers": terms.num_workers,
        "seeds": len(seeds),
        "budget": terms.budget,
        "cpu_cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("optuna", "ray")}},
    }


def headline(measured: dict[str, Any]) -> Any:
    """The policies, for people."""
    from rich.table import Table as Shown

    policies = measured["policies"]
    readings = _readings(measured)
    caption = f"{len(measured['tables'])} tables of {len(measured['families'])} families, {measured['seeds']} seeds, "
    caption += f"{measured['workers']} workers"
    if "propose_ms" in measured:
        times = ", ".join(f"{ms:.0f} ms with {size} trials" for size, ms in measured["propose_ms"].items())
        caption += f"; tinysearch proposes in {times}"
    shown = Shown(title="equivalent random search by budget, with 95 % intervals", caption=caption)
    last = readings[-1]
    between = list(dict.fromkeys([readings[len(readings) // 3], last]))
    finished = f"finished only, {' / '.join(between)}"
    for column in (
        "",
        *readings,
        finished,
        f"rank at {last}",
        "trials",
        "false stops",
        "cost below median",
        "ms a proposal",
    ):
        shown.add_column(column, justify="right" if column else "left")
    for name, p in policies.items():
        ratios = [f"{p[r]:.2f} ({p[f'interval_{r}'][0]:.1f}-{p[f'interval_{r}'][1]:.1f})" for r in readings]
        rest = [" / ".join(f"{p[f'finished_{r}']:.2f}" for r in between)]
        rest += [f"{p[f'rank_{last}']:.1f}", f"{p['trials']:.0f}", f"{p['false_stops']:.1f}"]
        rest += [f"{p['below_median_cost_share']:.0%}", f"{p['thinking_ms']:.1f}"]
        shown.add_row(name, *ratios, *rest)
    return shown


def by_family(measured: dict[str, Any]) -> Any:
    """The families, for people: each policy's ratio at a middle reading and at the last."""
    from rich.table import Table as Shown

    readings = _readings(measured)
    shown_readings = list(dict.fromkeys([readings[len(readings) // 3], readings[-1]]))
    shown = Shown(title=f"by family, at {' / '.join(shown_readings)}")
    for column in ("", *measured["families"]):
        shown.add_column(column, justify="right" if column else "left")
    for name in measured["policies"]:
        ratios = [family[name] for family in measured["families"].values()]
        shown.add_row(name, *(" / ".join(f"{r[reading]:.2f}" for reading in shown_readings) for r in ratios))
    return shown


def _readings(measured: dict[str, Any]) -> list[str]:
    first = next(iter(measured["families"].values()))
    return list(next(iter(first.values())))


class _Progress:
    """Lines on stderr: how many runs are done, every few seconds."""

    def __init__(self, num_runs: int, every_seconds: float = 10.0):
        self.num_runs, self.num_done = num_runs, 0
        self.every, self.started = every_seconds, time.monotonic()
        self.shown = self.started

    def add(self, result: Result) -> None:
        self.num_done += 1
        now = time.monotonic()
        if now - self.shown >= self.every or self.num_done == self.num_runs:
            self.shown = now
            left = (now - self.started) / self.num_done * (self.num_runs - self.num_done)
            print(f"{self.num_done}/{self.num_runs} runs, about {left:.0f} s left", file=sys.stderr, flush=True)

    def end(self, next_: str) -> None:
        print(f"{next_} after {time.monotonic() - self.started:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
