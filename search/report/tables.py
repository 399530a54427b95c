"""The table of a study's trials: as many columns as fit, first those in which trials differ, and notes on the rest.

A column with the same value for every trial is left out and noted once below. Of the others the metrics and the
learning rate come first; those that do not fit are counted and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.table import Table
from rich.text import Text

from search.report.overview import Overview
from search.report.texts import bytes_text, metric_text, tokens_text, value_text
from search.study.record import TrialRecord
from search.worker.messages import FINISHED, RUNNING, WAITING
from trainer.checks import counted, printable, unknown_name

STYLES = {FINISHED: "green", RUNNING: "cyan", WAITING: "cyan", "stopped": "dim", "failed": "bold red"}
STYLE_OF_OTHERS = "yellow"
MAX_TABLE_ROWS = 500  # for rich
GAP = 2  # characters between two columns
ALL = "all"
HEADINGS = {"tokens_per_second": "tok/s", "peak_vram_bytes": "peak memory", "num_params": "params"}
"""Measurements in every table, and their headings."""


@dataclass(frozen=True)
class Column:
    """One column: its name for `--columns`, its heading, and a cell for each trial."""

    name: str
    heading: str
    cells: list[str]
    rank: int  # lower ranks are shown first
    is_parameter: bool = False

    @property
    def width(self) -> int:
        return max(map(len, (self.heading, *self.cells)))

    @property
    def is_same(self) -> bool:
        return self.rank > 0 and len(self.cells) > 1 and len(set(self.cells)) == 1


def columns_asked(asked: str | None) -> tuple[str, ...] | None:
    """The names in `--columns NAME,...`; None if the option was not given."""
    return None if asked is None else tuple(word.strip() for word in asked.split(","))


def check_columns(asked: Sequence[str] | None, metrics: Iterable[str], parameters: Iterable[str]) -> None:
    """Raises ValueError for a name that is not a column of such a study."""
    known = {ALL, "tokens", *HEADINGS, *HEADINGS.values(), *metrics, *parameters}
    for name in asked or ():
        if name not in known:
            raise ValueError(f"--columns {','.join(asked or ())}: {unknown_name('column', name, known)}")


class TrialsTable:
    """A row for each trial, and the notes below the table."""

    def __init__(
        self,
        overview: Overview,
        records: Iterable[TrialRecord],
        *,
        width: int | None = None,
        asked: Sequence[str] | None = None,
    ):
        """As many columns as fit in `width` (None: all), or those `asked` for, whatever their width.

        Raises ValueError for a name that is not a column.
        """
        check_columns(asked, (metric.name for metric in overview.metrics), overview.parameters)
        self.records = list(records)
        self._columns, self._same, self._hidden = _chosen(_all_columns(overview, self.records, asked), width, asked)
        self.width = _width(self._columns)

    @property
    def notes(self) -> list[str]:
        """What the table does not show: `the same in all: n_heads 4`, `3 columns hidden: a, b, c; --columns all`."""
        notes = []
        if same := [f"{column.heading} {column.cells[0]}" for column in self._same if column.cells[0] not in ("", "-")]:
            notes.append(f"the same in all: {', '.join(same)}")
        if hidden := self._hidden:
            named = ", ".join(column.heading for column in hidden)
            notes.append(f"{counted(len(hidden), 'column')} hidden: {named}; --columns all shows every one")
        return notes

    def rich(self, title: str | None = None) -> Table:
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for column in self._columns:
            justify: Literal["left", "right"] = "left" if column.name == "state" else "right"
            style = "dim" if column.is_parameter else None
            table.add_column(column.heading, justify=justify, style=style, no_wrap=True)
        for i, record in enumerate(self.records):
            table.add_row(
                *(
                    Text(column.cells[i], style=STYLES.get(record.outcome, STYLE_OF_OTHERS))
                    if column.name == "state"
                    else Text(column.cells[i])
                    for column in self._columns
                )
            )
        return table

    def lines(self, title: str) -> Iterator[str]:
        """Without colours: rich takes a millisecond per row, and there may be ten thousand."""
        yield title
        for i in range(-1, len(self.records)):
            cells = ((column, column.heading if i < 0 else column.cells[i]) for column in self._columns)
            aligned = (c.ljust(col.width) if col.name == "state" else c.rjust(col.width) for col, c in cells)
            yield (" " * GAP).join(aligned)


def _chosen(
    columns: list[Column], width: int | None, asked: Sequence[str] | None
) -> tuple[list[Column], list[Column], list[Column]]:
    """The columns to show, in order; those with the same value in all trials; and the hidden ones."""
    if asked is not None:
        if ALL in asked:
            return columns, [], []
        order = {name: position for position, name in enumerate(asked)}
        named = [c for c in columns if c.rank == 0 or c.name in order or c.heading in order]
        return sorted(named, key=lambda c: order.get(c.name, order.get(c.heading, -1))), [], []
    if width is None or _width(columns) <= width:
        return columns, [], []
    same = [column for column in columns if column.is_same]
    differing = [column for column in columns if not column.is_same]
    shown: list[Column] = []
    for column in sorted(differing, key=lambda column: column.rank):
        if column.rank == 0 or _width([*shown, column]) <= width:
            shown.append(column)
    hidden = [column for column in differing if column not in shown]
    return [column for column in differing if column in shown], same, hidden


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width for column in columns) + GAP * (len(columns) - 1)


def _all_columns(overview: Overview, records: list[TrialRecord], asked: Sequence[str] | None) -> list[Column]:
    """Every possible column: the measurements, then the parameters in the order of the space."""
    marked = {record.number for record in overview.front} if len(overview.metrics) > 1 else set()
    marked |= {overview.best.number} if overview.best is not None else set()
    own = [m.name for i, m in enumerate(overview.metrics) if i == 0 or m.name not in HEADINGS]
    columns = [
        Column("trial", "trial", [f"{r.number}{'*' if r.number in marked else ''}" for r in records], 0),
        Column("state", "state", [r.outcome + (f" ({printable(r.preset)})" if r.preset else "") for r in records], 0),
        Column("tokens", "tokens", [tokens_text(max(r.tokens, r.rung)) for r in records], 2),
        *(
            Column(name, name, [metric_text(name, r.measured(name)) if r.rung else "-" for r in records], min(i, 1))
            for i, name in enumerate(own)
        ),
        Column("tokens_per_second", "tok/s", [_speed(r) for r in records], 6),
        Column("peak_vram_bytes", "peak memory", [_memory(r) for r in records], 7),
        Column("num_params", "params", [tokens_text(r.measured("num_params")) for r in records], 5),
    ]
    parameters = [
        name for name in overview.parameters if name in overview.searched or (asked is not None and name in asked)
    ]
    for position, name in enumerate(parameters):
        rank = 3 if "learning_rate" in name else 4 if position == 0 else 8 + position
        columns.append(Column(name, name, [value_text(r.values.get(name)) for r in records], rank, is_parameter=True))
    return columns


def _memory(record: TrialRecord) -> str:
    return bytes_text(record.measured("peak_vram_bytes")) + ("~" if record.measured("estimated") else "")


def _speed(record: TrialRecord) -> str:
    """Tokens per second, marked if other trials used the device too, so that it cannot be compared."""
    is_shared = record.measured("exclusive") is False
    return f"{record.tokens_per_second:,.0f}" + ("~" if is_shared else "") if record.tokens_per_second else "-"
