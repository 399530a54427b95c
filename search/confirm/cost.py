"""What more runs of some configurations would cost."""

from __future__ import annotations

from dataclasses import dataclass

from search.report.texts import seconds_text, tokens_text


@dataclass(frozen=True)
class Cost:
    """The cost of having `seeds` seeds of some configurations: the missing runs, one after another."""

    seeds: int
    runs: int
    tokens: int
    seconds: float | None  # None if no run has a time

    def __str__(self) -> str:
        took = "" if self.seconds is None else f", about {seconds_text(self.seconds)}"
        return f"{self.runs:,} more run{'' if self.runs == 1 else 's'}, {tokens_text(self.tokens)} tokens{took}"
