"""Trials as the strategy sees them: a point and a learning curve each, one by one or as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np


@dataclass
class Curve:
    """A trial: its point in the unit cube, and its values; lower is better, NaN is a failure."""

    number: int
    point: np.ndarray
    values: dict[int, float] = field(default_factory=dict)  # index of the rung -> value
    is_running: bool = False
    is_paused: bool = False
    is_waiting: bool = False  # interrupted: it will run again

    @property
    def deepest(self) -> int:
        """The index of the deepest rung with a value; -1 before the first."""
        return max(self.values, default=-1)

    @property
    def is_pending(self) -> bool:
        """Whether it may still report, without anybody's decision."""
        return self.is_running or self.is_waiting


@dataclass(frozen=True)
class Curves:
    """n trials with m values in all, as arrays: fast enough for several passes over thousands of trials."""

    numbers: np.ndarray  # (n,)
    points: np.ndarray  # (n, d)
    is_running: np.ndarray  # (n,)
    is_paused: np.ndarray  # (n,)
    owners: np.ndarray  # (m,): index of the trial
    rungs: np.ndarray  # (m,): index of the rung
    values: np.ndarray  # (m,): NaN is a failure

    @classmethod
    def of(cls, curves: Sequence[Curve]) -> Curves:
        num_dims = len(curves[0].point) if curves else 0
        points = np.concatenate([curve.point for curve in curves]) if curves else np.zeros(0)
        shown = [curve.values for curve in curves]
        counts = [*map(len, shown)]
        return cls(
            numbers=np.array([curve.number for curve in curves], dtype=int),
            points=points.reshape(len(curves), num_dims),
            is_running=np.array([curve.is_running for curve in curves], dtype=bool),
            is_paused=np.array([curve.is_paused for curve in curves], dtype=bool),
            owners=np.repeat(np.arange(len(curves)), counts),
            rungs=np.array([*chain.from_iterable(shown)], dtype=int),
            values=np.array([*chain.from_iterable(map(dict.values, shown))], dtype=float),
        )

    def __len__(self) -> int:
        return len(self.numbers)

    @cached_property
    def deepest(self) -> np.ndarray:
        """The index of each trial's deepest rung with a value, (n,); -1 before the first."""
        deepest = np.full(len(self), -1)
        np.maximum.at(deepest, self.owners, self.rungs)
        return deepest

    @cached_property
    def has_failed(self) -> np.ndarray:
        """Which trials diverged or did not fit, (n,)."""
        failed = np.zeros(len(self), dtype=bool)
        failed[self.owners[~np.isfinite(self.values)]] = True
        return failed
