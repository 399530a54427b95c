"""What training the leaders again with other seeds shows: means, spreads, and which differences are noise.

Each configuration is compared with the one with the best mean by Welch's interval, not by pairs of equal seeds. A seed
fixes the order of the text for all of them, but how much of it they share depends on their shapes; pairing needs every
seed of both, and halves the degrees of freedom. If a seed is good or bad for both, Welch's interval is too wide and
errs towards a tie (docs/results.md has both intervals for one study). Intervals are not widened for the number of rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import Any

from rich.table import Table

from search.confirm.cost import Cost
from search.confirm.noise import CONFIDENCE, MAX_SEEDS, Difference, deviation, seeds_to_separate
from search.report.overview import Overview
from search.report.texts import finite, is_number, tokens_text, value_text
from search.study.record import TrialRecord
from search.worker.messages import FAILED, FINISHED
from trainer.checks import printable

BEST, TIE, BEHIND = "best", "tie", "behind"
SEEDS_TO_START = 3  # one seed shows no noise, two hardly any
CHANGEABLE = {"device": "device", "torch": "torch", "code_digest": "trainer source"}
"""What may differ between runs so that they should not be compared: key of an environment -> its name."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trial's configuration, trained once more; `measurement` is from the last rung, empty if unfinished."""

    trial: int
    seed: int
    outcome: str
    reason: str = ""
    measurement: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration: its runs so far, and the difference of its mean from the leader's (None if unknown)."""

    rank: int = 0
    record: TrialRecord
    searched: float
    runs: Sequence[Run]
    values: Sequence[float]  # of the runs that finished
    difference: Difference | None = None
    verdict: str = ""  # BEST, TIE, BEHIND, or empty if it is unknown
    separated_by: Cost | None = None  # of a TIE, or of a possible one, if MAX_SEEDS would be enough

    @property
    def mean(self) -> float | None:
        return fmean(self.values) if self.values else None

    @property
    def lost(self) -> Counter[str]:
        """How many runs ended in each other way than finished. The mean of the rest flatters the configuration."""
        return Counter(run.outcome for run in self.runs if run.outcome != FINISHED)


@dataclass(frozen=True)
class Confirmation:
    """The chosen trials of a study, the seeds asked for, and the runs that exist of them."""

    overview: Overview
    chosen: Sequence[TrialRecord]
    seeds: Sequence[int]
    runs: Sequence[Run]

    @property
    def is_complete(self) -> bool:
        return len(self.runs) == len(self.chosen) * len(self.seeds)

    @property
    def failures(self) -> list[Run]:
        return [run for run in self.runs if run.outcome == FAILED]

    @cached_property
    def rows(self) -> list[Row]:
        """The best mean first. Configurations that did not train with every seed come last and never lead."""
        metric = self.overview.metric
        found = []
        for record in self.chosen:
            runs = sorted((run for run in self.runs if run.trial == record.number), key=lambda run: run.seed)
            values = [value for run in runs if is_number(value := run.measurement.get(metric))]
            searched = record.measured(metric)
            assert searched is not None
            found.append(Row(record=record, searched=searched, runs=runs, values=values))
        found.sort(key=self._order)
        can_lead = found[0].values and not found[0].lost
        leader = found[0] if can_lead else None
        guess = _guessed_deviation(found)
        return [self._compared(row, rank, leader, guess) for rank, row in enumerate(found, 1)]

    def _order(self, row: Row) -> tuple[bool, bool, float, int]:
        mean = row.mean or 0.0
        return not row.values, bool(row.lost), -mean if self.overview.maximize else mean, row.record.number

    def _compared(self, row: Row, rank: int, leader: Row | None, guess: float) -> Row:
        """The row with its rank; `guess` is the deviation used for rows with a single value."""
        difference, verdict, cost = None, "", None
        if row is leader:
            verdict = BEST
        elif leader is not None and row.values and not row.lost:
            difference = Difference.between(row.values, leader.values)
            verdict = {True: TIE, False: BEHIND, None: ""}[difference.is_tie]
            if difference.is_tie is not False:
                one, other = (_spread(values, guess) for values in (row.values, leader.values))
                seeds = seeds_to_separate(difference.value, one, other)
                cost = None if seeds is None else self._cost(seeds, [row, leader])
        return replace(row, rank=rank, difference=difference, verdict=verdict, separated_by=cost)

    @property
    def cost_of_spread(self) -> Cost | None:
        """What it would cost to see any noise at all; None if more than one seed was asked for."""
        return self._cost(SEEDS_TO_START, self.rows) if len(self.seeds) == 1 else None

    def _cost(self, seeds: int, rows: Sequence[Row]) -> Cost:
        missing = {row.record.number: max(0, seeds - len(row.runs)) for row in rows}
        seconds = [missing[row.record.number] * s for row in rows if (s := _seconds_of(row)) is not None]
        num_runs = sum(missing.values())
        total = sum(seconds) if len(seconds) == len(rows) else None
        return Cost(seeds, num_runs, num_runs * self.overview.rungs[-1], total)

    def to_dict(self) -> dict[str, Any]:
        """For scripts. Differences keep the metric's direction: for a loss, above 0 is worse than the leader."""
        return {
            "study": self.overview.name,
            "metric": self.overview.metric,
            "goal": "maximize" if self.overview.maximize else "minimize",
            "tokens": self.overview.rungs[-1],
            "seeds": list(self.seeds),
            "confidence": CONFIDENCE,
            "complete": self.is_complete,
            "cost_of_spread": None if self.cost_of_spread is None else asdict(self.cost_of_spread),
            "trials": [self._row_dict(row) for row in self.rows],
        }

    def _row_dict(self, row: Row) -> dict[str, Any]:
        difference = row.difference
        return {
            "rank": row.rank,
            "trial": row.record.number,
            "preset": row.record.preset or None,
            "searched": row.searched,
            "mean": row.mean,
            "deviation": deviation(row.values) if row.values else None,
            "difference": None if difference is None else difference.value,
            "interval": None if difference is None or difference.low is None else [difference.low, difference.high],
            "verdict": row.verdict or None,
            "equal": row.verdict == TIE and row.separated_by is None,
            "separated_by": None if row.separated_by is None else asdict(row.separated_by),
            "runs": [
                {
                    "seed": run.seed,
                    "outcome": run.outcome,
                    "reason": run.reason or None,
                    "measurements": {name: finite(value) for name, value in run.measurement.items()},
                }
                for run in row.runs
            ],
        }


def confirmation_table(confirmation: Confirmation, parameters: Sequence[str] = ()) -> Table:
    """A row for each configuration, with these of its parameters. The search's own value is in no mean."""
    overview = confirmation.overview
    title = f"{overview.name}: {overview.metric} after {tokens_text(overview.rungs[-1])} tokens"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in ("rank", "trial"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("preset")
    for heading in ("searched", "mean", "sd"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("seeds")
    table.add_column(f"from the best, {CONFIDENCE:.0%}")
    table.add_column("", no_wrap=True)
    for name in parameters:
        table.add_column(name, justify="right", style="dim", no_wrap=True)
    for row in confirmation.rows:
        table.add_row(
            str(row.rank),
            str(row.record.number),
            printable(row.record.preset),
            number_text(row.searched),
            number_text(row.mean),
            number_text(deviation(row.values) if row.values else None),
            _seeds_text(row, len(confirmation.seeds)),
            difference_text(row.difference),
            row.verdict,
            *(value_text(row.record.values.get(name)) for name in parameters),
            style={BEST: "bold", TIE: "cyan"}.get(row.verdict),
        )
    return table


def closing_lines(confirmation: Confirmation) -> list[str]:
    """The result in sentences, what it would cost to know more, and reasons not to trust it."""
    rows, overview, num_seeds = confirmation.rows, confirmation.overview, len(confirmation.seeds)
    leader = rows[0] if rows[0].verdict == BEST else None
    lines = [
        f"trial {run.trial}, seed {run.seed} {run.outcome}: {run.reason}" for run in confirmation.runs if run.reason
    ]
    if leader is None and confirmation.runs:
        lines.append("none of these configurations trained with every seed")
    if leader is not None:
        spread = deviation(leader.values)
        lines.append(
            f"best: trial {leader.record.number}, {overview.metric} {number_text(leader.mean)}"
            + (f" ± {number_text(spread)}" if spread is not None else "")
            + f" after {tokens_text(overview.rungs[-1])} tokens"
            + (f"; {_tied(rows)}" if num_seeds > 1 and len(rows) > 1 else "")
        )
        reference = next((row for row in rows if row.record is overview.reference), None)
        if reference is not None and reference.difference is not None:
            inside = {True: ", inside the noise", False: ", outside the noise", None: ""}[reference.difference.is_tie]
            lines.append(f"{overview.named(reference.record.preset)}: {difference_text(reference.difference)}{inside}")
        lines += [_separation_line(row, leader) for row in rows if row.verdict == TIE]
    if (cost := confirmation.cost_of_spread) is not None:
        lines.append(f"one seed shows no noise, so no ties can be seen; give --seeds {cost.seeds}: {cost}")
        if leader is not None and len(rows) > 1 and rows[1].difference is not None:
            lines.append(_separation_line(rows[1], leader, ", going by how far runs lie from the search's"))
    lines.append(f"the searched {overview.metric} chose these trials and so flatters them: it is in no mean")
    if changed := _changed(confirmation):
        lines.append(f"not all of these figures can be compared: search and runs differ in {', '.join(changed)}")
    if not confirmation.is_complete:
        lines.append("interrupted; run the same command to resume")
    return lines


def _separation_line(row: Row, leader: Row, how_known: str = "") -> str:
    """How many seeds would separate a tie, and what they cost; or that no number will."""
    both = f"trials {leader.record.number} and {row.record.number}"
    if (cost := row.separated_by) is None:
        return f"{both}: more than {MAX_SEEDS:,} seeds to separate them: treat them as equal{how_known}"
    return f"{both}: about {cost.seeds} seeds of both would separate them{how_known}: {cost}"


def _spread(values: Sequence[float], guess: float) -> float:
    """The values' standard deviation; `guess` for a single value."""
    found = deviation(values)
    return guess if found is None else found


def _guessed_deviation(rows: Sequence[Row]) -> float:
    """From the search's value and one run of each configuration: two seeds, the first of them flattered."""
    squares = [(row.values[0] - row.searched) ** 2 / 2 for row in rows if row.values]
    return math.sqrt(fmean(squares)) if squares else 0.0


def _seconds_of(row: Row) -> float | None:
    """How long a run of a configuration takes: the mean of its runs, or its time in the search; None if unknown."""
    known = [s for run in row.runs if is_number(s := run.measurement.get("train_seconds"))]
    searched = row.record.measured("train_seconds")
    return fmean(known) if known else searched if is_number(searched) else None


def number_text(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:,.0f}"


def difference_text(difference: Difference | None) -> str:
    """`+0.0312 [-0.0101, +0.0725]`, or without an interval, `+0.0312`."""
    if difference is None:
        return "-"
    value, low, high = (
        "" if x is None else ("" if x < 0 else "+") + number_text(x)
        for x in (difference.value, difference.low, difference.high)
    )
    return f"{value} [{low}, {high}]" if low else value


def _seeds_text(row: Row, num_seeds: int) -> str:
    """`3`; `2 of 3` while runs are missing; `2 of 3, 1 diverged`."""
    lost = "".join(f", {count} {outcome}" for outcome, count in row.lost.items())
    return str(num_seeds) if len(row.values) == num_seeds else f"{len(row.values)} of {num_seeds}{lost}"


def _tied(rows: Sequence[Row]) -> str:
    tied = [str(row.record.number) for row in rows if row.verdict == TIE]
    if not tied:
        return "no other is inside the noise"
    return f"inside the noise: trial{'s' if len(tied) > 1 else ''} {', '.join(tied)}"


def _changed(confirmation: Confirmation) -> list[str]:
    """What differs between the runs and the search, in words."""
    environments: list[Mapping[str, Any]] = [record.environment for record in confirmation.chosen]
    environments += [run.environment for run in confirmation.runs if run.environment]
    return [
        name
        for key, name in CHANGEABLE.items()
        if len({environment[key] for environment in environments if key in environment}) > 1
    ]
