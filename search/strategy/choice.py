"""What a strategy decides, and the two parts that it may be made of: a sampler proposes, a stopper stops early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from search.space.parameter import Values
from search.strategy.curves import Curve

CURVES = "curves"
RANDOM = "random"


@dataclass(frozen=True)
class Origin:
    """Who proposed a configuration, and what had to be done until it could be launched."""

    by: str
    asks: int = 1  # how often the sampler was asked
    moved: str = ""  # how its proposal was changed; empty if it was not
    attrs: Mapping[str, Any] = field(default_factory=dict)  # what the sampler wrote about the trial, by Optuna's keys


@dataclass(frozen=True)
class Start:
    """Train a new configuration."""

    values: dict[str, Any]
    origin: Origin = Origin(CURVES)


@dataclass(frozen=True)
class Continue:
    """Train a paused trial to its next rung."""

    number: int


@dataclass(frozen=True)
class Wait:
    """Nothing now, but paused trials may continue once a running one has reported."""


Choice = Start | Continue | Wait | None
"""None: nothing is left to start, and no paused trial will continue."""


@dataclass(frozen=True)
class GoOn:
    """A trial at a rung trains on."""


@dataclass(frozen=True)
class Stop:
    """A trial at a rung ends there."""

    reason: str


Verdict = GoOn | Stop | None
"""None: the trial pauses, unless `resume` chooses it."""


class State(StrEnum):
    """The state of a trial as a sampler sees it."""

    RUNNING = "running"  # or interrupted
    PAUSED = "paused"  # or stopped, or finished at an earlier last rung: its value at its deepest rung counts
    FINISHED = "finished"
    WASTED = "wasted"  # diverged, out of memory or beyond a limit
    FAILED = "failed"


@dataclass(frozen=True)
class SeenTrial:
    """A trial as a sampler sees it."""

    number: int
    values: Values  # the complete configuration
    state: State
    measured: Mapping[int, tuple[float, ...]]  # tokens of a rung -> a value for each metric, as it was measured
    attrs: Mapping[str, Any] = field(default_factory=dict)  # `Origin.attrs` of its proposal


class Stateless:
    """A part of a strategy that keeps nothing: what it needs is stored with the trials."""

    @property
    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Does nothing."""


class Sampler(Protocol):
    """Proposes new configurations."""

    @property
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...

    def learn(self, trial: SeenTrial) -> None:
        """Take note of a trial's current state."""

    def forget(self, number: int) -> None:
        """Drop a trial that another one continues."""

    def propose(self, curves: Sequence[Curve]) -> Start:
        """A configuration that may be launched and is new. Raises NothingFeasible, NothingNew or SamplerError."""


class Stopper(Protocol):
    """Decides which trials train on from a rung, and which do not."""

    @property
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...

    def judge(self, curves: Sequence[Curve], number: int) -> Verdict:
        """Whether the trial that is now at its deepest rung, which is not the last, trains on."""

    def resume(self, curves: Sequence[Curve], *, can_start: bool) -> Continue | Wait | None:
        """A paused trial to continue. Without one, Wait or None say whether one may continue later.

        `can_start`: a new configuration may be started instead.
        """

    def why(self, curves: Sequence[Curve], number: int) -> str:
        """Why this trial does not train on from its deepest rung, in words; empty for the study's own words."""
