"""Problems of which much cannot be had, with curves that are formulas, so that the best region is known.

A configuration is a point of the unit cube. Its loss falls along a power law towards a floor of its own, and some end
early: their learning rate is beyond an edge, or they are too large. As in real trainings the best configurations lie
next to those that cannot be had. Each seed moves the edge and the optimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from benchmarks.search.table import Axis
from search.worker.messages import DIVERGED, INFEASIBLE, OUT_OF_MEMORY

NUM_RUNGS = 27
NUM_SAMPLED = 20_000
BEST_SHARE = 0.01  # of the configurations that can be had: the best region
NEVER = np.inf
NUM_DECADES = 5.0  # of learning rates
MEMORY_LIMIT = 1.0


@dataclass(frozen=True)
class Curves:
    """Of n configurations: what they reach, how slowly, and when they end early; training in shares of a full one."""

    floor: np.ndarray  # (n,)
    slowness: np.ndarray  # (n,), the loss that is left after the first rung
    end: np.ndarray  # (n,), the share of the training after which the trial is lost; NEVER where it is not
    memory: np.ndarray  # (n,), in units of the limit

    def loss(self, rung: int) -> np.ndarray:
        """After so many of NUM_RUNGS rungs, (n,), as if no trial were lost."""
        return self.floor + self.slowness * (rung**-0.4 - NUM_RUNGS**-0.4)


@dataclass(frozen=True)
class Landscape:
    """One problem with one seed; lower is better."""

    axes: tuple[Axis, ...]
    outcome: str  # how a lost trial ends
    curves: Callable[[np.ndarray], Curves]  # points (n, d) -> n curves

    def sample(self, num: int, seed: int) -> np.ndarray:
        """Configurations at random, (num, d): levels as their numbers from 0 to 1."""
        drawn = np.random.default_rng([seed, num]).random((num, len(self.axes)))
        levels = np.array([axis.num_levels for axis in self.axes])
        snapped = np.minimum(np.floor(drawn * levels), levels - 1) / np.maximum(levels - 1, 1)
        return np.where(levels > 0, snapped, drawn)

    @cached_property
    def _ends(self) -> np.ndarray:
        """The sorted final losses of those of a dense sample that are not lost."""
        curves = self.curves(self.sample(NUM_SAMPLED, 0))
        return np.sort(curves.floor[curves.end == NEVER])

    @property
    def feasible_share(self) -> float:
        return len(self._ends) / NUM_SAMPLED

    def is_best_region(self, floor: float) -> bool:
        return bool(floor <= np.quantile(self._ends, BEST_SHARE))

    def regret(self, floor: float) -> float:
        """0 for the best of the sample, 1 for the median of those that can be had, never more."""
        best, median = self._ends[0], np.median(self._ends)
        return float(np.clip((floor - best) / (median - best), 0, 1))


def diverging(seed: int) -> Landscape:
    """Learning rates over five decades; about four of them diverge, the later the nearer to the edge.

    The edge moves with batch size, warm-up and width. The best rate lies a seventh of a decade below it.
    """
    rng = np.random.default_rng([seed, 1])
    shift, batch, decay, noise = rng.uniform(-0.15, 0.15), *rng.uniform(0.3, 0.7, 2), rng.integers(2**31)
    axes = (Axis("learning_rate"), Axis("batch_size", 8), Axis("warmup"), Axis("width", 6), Axis("weight_decay"))

    def curves(points: np.ndarray) -> Curves:
        u_rate, u_batch, u_warmup, u_width, u_decay = points.T
        edge = 1.0 + shift + 0.7 * (u_batch - 0.5) + 0.4 * (u_warmup - 0.5) - 0.6 * (u_width - 0.5)
        beyond = NUM_DECADES * u_rate - edge
        below = np.maximum(0, -0.15 - beyond)
        floor = 3 + 0.5 * np.where(below > 0, below**2 / (0.5 + below), 2 * np.minimum(beyond + 0.15, 0.15) ** 2)
        floor += 0.5 * (u_batch - batch) ** 2 + 0.2 * (u_decay - decay) ** 2 - 0.15 * u_width + 0.1 * u_warmup**2
        chance = np.abs(np.sin(1e4 * points @ np.arange(1, 6) + noise))  # each configuration's own
        end = np.where(beyond > 0, 0.9 * np.exp(-3 * np.maximum(beyond, 0)) * (0.3 + 0.7 * chance), NEVER)
        return Curves(floor, 1.5 + 0.6 * below + 0.2 * u_warmup, end, np.zeros(len(points)))

    return Landscape(axes, DIVERGED, curves)


def out_of_memory(seed: int) -> Landscape:
    """Width, depth and batch size, of which half are out of memory at launch; the loss falls with width and depth."""
    return Landscape(_SIZES, OUT_OF_MEMORY, lambda points: _sized(points, seed, 0.0))


def limit(seed: int) -> Landscape:
    """The same sizes; here they train, and the memory measured at the first rung is beyond the limit."""
    return Landscape(_SIZES, INFEASIBLE, lambda points: _sized(points, seed, 1 / NUM_RUNGS))


_SIZES = (Axis("width"), Axis("depth", 8), Axis("batch_size", 6), Axis("learning_rate"), Axis("dropout"))


def _sized(points: np.ndarray, seed: int, lost_at: float) -> Curves:
    rng = np.random.default_rng([seed, 2])
    shift, batch, rate, dropout = rng.uniform([-0.08, 0.3, 0.4, 0.1], [0.08, 0.6, 0.7, 0.4])
    u_width, u_depth, u_batch, u_rate, u_dropout = points.T
    memory = np.exp(2.0 * (u_width + 0.7 * u_depth + 0.8 * u_batch - 1.25 + shift))
    floor = 4 - 0.6 * u_width - 0.4 * u_depth + 0.6 * (u_batch - batch) ** 2
    floor += 1.2 * (u_rate - rate + 0.3 * (u_width - 0.5)) ** 2 + 0.2 * (u_dropout - dropout) ** 2
    end = np.where(memory > MEMORY_LIMIT, lost_at, NEVER)
    return Curves(floor, 1.2 + 0.5 * u_width - 0.4 * u_rate, end, memory)


PROBLEMS: dict[str, Callable[[int], Landscape]] = {
    "diverging": diverging,
    "out of memory": out_of_memory,
    "limit": limit,
}
