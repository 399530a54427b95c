"""Progress of a search for people: a live table on a terminal, elsewhere a line for each trial that ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.report.faults import faults_line
from search.report.overview import Overview
from search.report.sentences import comparison_line, counts_line
from search.report.tables import TrialsTable
from search.report.texts import metric_text, seconds_text, tokens_text
from search.study.cost import seconds_left
from search.study.record import TrialRecord
from search.worker.messages import FINISHED, RUNNING, Event
from trainer.checks import counted

ROWS = 12


class Display:
    """Shows a search's progress from `overview()`, and receives each trial's events. Use as a context manager."""

    def __init__(self, overview: Callable[[], Overview], *, console: Console, max_seconds: float = math.inf):
        self._overview = overview
        self._console = console
        self._started = time.monotonic()
        self._max_seconds = max_seconds
        self._ended_before = sum(r.has_ended for r in overview().records)
        self._tokens_before, self._rungs_before = self._trained(overview())
        self._live = (
            Live(console=console, get_renderable=self._render, refresh_per_second=2, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def on_event(self, kind: Event, record: TrialRecord) -> None:
        if self._live is None and kind is Event.FAULT:
            self._console.print(f"trial {record.number}  {record.faults[-1]}")
        if self._live is not None or kind is not Event.ENDED:
            return
        overview = self._overview()
        measured = [f"{m.name} {metric_text(m.name, record.measured(m.name))}" for m in overview.metrics]
        parts = [
            f"trial {record.number}{f' ({record.preset})' if record.preset else ''}",
            f"{record.outcome} at {tokens_text(record.rung or record.tokens)} tokens",
            "  ".join(measured) if record.rung else "no measurement",
            f"{record.tokens_per_second:,.0f} tok/s" if record.tokens_per_second else "",
            record.reason if record.outcome not in ("stopped", "finished") else "",
            f"[{self._num_ended(overview)}{self._of_all(overview)}, {self._elapsed()}]",
        ]
        self._console.print("  ".join(filter(None, parts)))

    def on_slots(self, num_slots: int) -> None:
        if num_slots:
            text = f"from now on {counted(num_slots, 'trial')} at a time"
        else:
            text = "no machine is free for a trial: waiting for one"
        self._console.print(text, style="dim")

    def _render(self) -> Group:
        overview = self._overview()
        running = [r for r in overview.records if r.outcome == RUNNING]
        ended = [r for r in overview.ranked() if r.outcome != RUNNING]
        speed = sum(r.tokens_per_second or 0 for r in running)
        head = Table.grid(padding=(0, 2))
        head.add_row(
            Text(overview.name, style="bold"),
            ProgressBar(
                total=overview.num_trials if self._of_all(overview) else None,
                completed=self._num_ended(overview),
                width=24,
            ),
            Text(counts_line(overview.counts, overview.num_trials)),
        )
        times = f"{self._elapsed()} so far, {self._time_left(overview)}; {speed:,.0f} tokens/s in total"
        shown = running + ended[: max(3, ROWS - len(running))]
        table = TrialsTable(overview, shown, width=self._console.width)
        hidden = len(overview.records) - len(shown)
        return Group(
            head,
            Text(times, style="dim"),
            Text(comparison_line(overview)),
            *map(Text, filter(None, [faults_line(overview.records, overview.faults)])),
            table.rich(),
            *(Text(note, style="dim") for note in table.notes),
            Text(f"and {hidden} more: tinysearch trials {overview.name}" if hidden > 0 else "", style="dim"),
        )

    def _num_ended(self, overview: Overview) -> int:
        return sum(record.has_ended for record in overview.records)

    def _of_all(self, overview: Overview) -> str:
        return f"/{overview.num_trials:.0f}" if math.isfinite(overview.num_trials) else ""

    def _elapsed(self) -> str:
        return seconds_text(time.monotonic() - self._started)

    def _trained(self, overview: Overview) -> tuple[int, int]:
        """The tokens that all trials have trained, and how many rungs they have passed."""
        return sum(r.tokens for r in overview.records), sum(len(r.measurements) for r in overview.records)

    def _time_left(self, overview: Overview) -> str:
        so_far = time.monotonic() - self._started
        at_most = self._max_seconds - so_far
        expected = math.inf
        tokens, rungs = self._trained(overview)
        if rungs > self._rungs_before and tokens > self._tokens_before:
            expected = seconds_left(
                [r.tokens for r in overview.records if not r.has_ended or r.outcome == FINISHED],
                overview.num_trials - len(overview.records),
                overview.rungs,
                (tokens - self._tokens_before) / so_far,
            )
        if math.isinf(min(at_most, expected)):
            return "time left not known yet"
        return f"{seconds_text(at_most)} left" if at_most < expected else f"about {seconds_text(expected)} left"
