"""A strategy made of a sampler, which proposes new configurations, and a stopper, which stops and resumes trials."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search.strategy.choice import Choice, Continue, Sampler, SeenTrial, Stopper, Verdict, Wait
from search.strategy.curves import Curve
from search.strategy.strategy import Strategy


class CurvesStopper:
    """The model of learning curves as a stopper: a trial continues if that is worth more than a new configuration.

    The new configuration that it weighs is its own best one, not the sampler's.
    """

    def __init__(self, strategy: Strategy):
        self._strategy = strategy

    @property
    def state(self) -> dict[str, Any]:
        return self._strategy.state

    def restore(self, state: dict[str, Any]) -> None:
        self._strategy.restore(state)

    def judge(self, curves: Sequence[Curve], number: int) -> Verdict:
        return None

    def resume(self, curves: Sequence[Curve], *, can_start: bool) -> Continue | Wait | None:
        choice = self._strategy.next(curves, can_start=can_start)
        return choice if isinstance(choice, Continue) else None

    def why(self, curves: Sequence[Curve], number: int) -> str:
        return ""


class Combination:
    """What the study asks, as it asks `Strategy`."""

    def __init__(self, sampler: Sampler, stopper: Stopper):
        self._sampler, self._stopper = sampler, stopper

    @property
    def state(self) -> dict[str, Any]:
        parts = {"sampler": self._sampler.state, "stopping": self._stopper.state}
        return {name: state for name, state in parts.items() if state}

    def restore(self, state: dict[str, Any]) -> None:
        """As `Strategy.restore`."""
        self._sampler.restore(state.get("sampler", {}))
        self._stopper.restore(state.get("stopping", {}))

    def learn(self, trial: SeenTrial) -> None:
        self._sampler.learn(trial)

    def forget(self, number: int) -> None:
        self._sampler.forget(number)

    def judge(self, curves: Sequence[Curve], number: int) -> Verdict:
        return self._stopper.judge(curves, number)

    def why(self, curves: Sequence[Curve], number: int) -> str:
        return self._stopper.why(curves, number)

    def next(self, curves: Sequence[Curve], *, can_start: bool) -> Choice:
        """A paused trial to continue, else a new configuration, else nothing. Raises as `Sampler.propose`."""
        found = self._stopper.resume(curves, can_start=can_start)
        if isinstance(found, Continue) or not can_start:
            return found
        return self._sampler.propose(curves)
