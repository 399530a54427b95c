"""The interface of a search strategy in a simulation: it proposes, gets values, and says what it would hand over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from benchmarks.search.table import Axis, Table

ETA = 3


@dataclass(frozen=True)
class Problem:
    """What a strategy may know of a table before it starts: everything but the results."""

    axes: tuple[Axis, ...]
    points: np.ndarray  # the configurations there are; for drawing at random among them
    num_rungs: int
    median_length: int  # rungs of a full training, in the middle
    budget: float  # full trainings
    restart: bool  # whether to go on from a rung costs the whole run again

    @classmethod
    def of(cls, table: Table, budget: float) -> Problem:
        length = int(np.median(table.lengths))
        return cls(table.axes, table.points, table.num_rungs, length, budget, table.restart)

    @property
    def num_configurations(self) -> int:
        """How many can be trained at all; a strategy proposes no more new ones."""
        return len(self.points)


@dataclass(frozen=True)
class Proposal:
    """A trial to run: a new one at a point of the unit cube, or, without a point, one that resumes where it is."""

    key: int
    point: np.ndarray | None = None


class Policy(Protocol):
    """A search strategy in one run. A trial is known by the key of its proposal; lower values are better."""

    @property
    def rungs(self) -> tuple[int, ...]:
        """The rungs at which a trial reports, counted from 1; its end is reported by `finished`, wherever it is."""

    def propose(self) -> Proposal | None:
        """What a free worker does next; None: nothing for now (it is asked again when something has happened)."""

    def given(self, key: int, point: np.ndarray) -> None:
        """Follows on each new trial's proposal: the trial trains the configuration at `point`, a recorded one."""

    def report(self, key: int, rung: int, value: float) -> bool:
        """A value at a rung, NaN if it diverged. Whether the trial continues; if not, `propose` may resume it."""

    def finished(self, key: int, rung: int, value: float) -> None:
        """The trial has trained its own full budget, `rung` rungs, and has ended with this value (maybe NaN)."""

    def incumbent(self) -> int | None:
        """The trial whose configuration would be handed over now, or None."""


def stopping_rungs(num_rungs: int, eta: int = ETA) -> tuple[int, ...]:
    """1, eta, eta squared and so on, below num_rungs: the end itself stops nothing."""
    rungs = [1]
    while rungs[-1] * eta < num_rungs:
        rungs.append(rungs[-1] * eta)
    return tuple(rung for rung in rungs if rung < num_rungs)
