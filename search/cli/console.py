"""The console for people: rich's, but it prints user input as plain text.

Square brackets are not markup, `:smile:` is not an emoji, numbers have no colour. Control characters, which can only
come from names and messages, are printed as escapes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from trainer.checks import printable

PIPE_WIDTH = 250  # a pipe has no width: unless COLUMNS says one, its tables are this wide
UNLIMITED = 100_000  # characters, wider than any table


class PlainConsole(Console):
    """Prints text unchanged. If the output is not a terminal, long lines are not wrapped."""

    def __init__(self, *, to_stderr: bool = False):
        super().__init__(markup=False, emoji=False, highlight=False, stderr=to_stderr)
        if not self.is_terminal:
            self.soft_wrap = True  # a path cut in two cannot be copied
            if not os.environ.get("COLUMNS", "").isdecimal():
                self.width = PIPE_WIDTH

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich's `print`; each text is one line, optionally with a style."""
        super().print(*(Text(printable(o)) if isinstance(o, str) else o for o in objects), **options)

    def print_whole(self, table: Table) -> None:
        """Print a table at its full width: a narrow terminal wraps the lines, but rich would cut words and numbers."""
        self.print(_Whole(table), crop=False, soft_wrap=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """As rich's `render`, but only rich's own control codes reach the terminal; others are escaped."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            if control or text.isprintable() or text == "\n":
                yield segment
            else:
                yield Segment("\n".join(map(printable, text.split("\n"))), style)


@dataclass(frozen=True)
class _Whole:
    """A table as wide as its cells, independent of the width of the console."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        needed = console.measure(self.table, options=options.update(max_width=UNLIMITED)).maximum
        yield from console.render(self.table, options.update(max_width=max(options.max_width, needed)))
