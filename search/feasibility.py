"""Which configurations may be launched: rules, buildability, and limits against the trainer's estimates.

A configuration that fails here is rejected inside the proposal loop and never costs a worker. Memory is an estimate: a
trial that was launched may take more than its limit by search/correction.py's MARGIN, and is infeasible where it does.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from search.configurations import Listing
from search.correction import MARGIN, correction
from search.document import SpaceError
from search.drawing import random_values
from search.expression import ExpressionError
from search.grammar import BudgetSpec, LimitSpec
from search.parameter import Values, shown
from search.space import Space, rungs_of
from search.text_units import TextUnits
from trainer.checks import ConfigError
from trainer.config import TrainConfig
from trainer.estimate import estimate

ESTIMATED = ("num_params", "peak_vram_bytes")
"""Measurements that trainer/estimate.py knows before a trial runs; limits on the others are checked at the rungs."""

SPARSE_SHARE = 0.05  # of a space that may be launched: with less, a proposal takes tens of draws


@dataclass(frozen=True)
class Feasibility:
    """The test that every proposal passes before it becomes a trial.

    `run` holds fields of TrainConfig that the search sets and no trial does, such as the machine's precision.
    """

    space: Space
    rungs: tuple[int, ...]
    limits: Mapping[str, LimitSpec]
    min_steps: int = 1
    run: Mapping[str, Any] = field(default_factory=dict)
    units: TextUnits | None = None  # of a study with several vocabularies
    peaks: list[tuple[int, int]] = field(default_factory=list)  # estimated and measured, of trials: see `learn`

    @classmethod
    def of(
        cls,
        space: Space,
        budget: BudgetSpec,
        run: Mapping[str, Any] | None = None,
        units: TextUnits | None = None,
    ) -> Feasibility:
        return cls(space, rungs_of(budget), space.limits(budget), budget.min_steps, run or {}, units)

    def learn(self, values: Values, measurement: Mapping[str, Any]) -> bool:
        """Correct later estimates of memory by a trial's measurement, unless its peak is an estimate itself.

        Returns whether it has: what may be launched can be other configurations from now on.
        """
        peak = measurement.get("peak_vram_bytes")
        if not peak or measurement.get("estimated", True):
            return False
        self.peaks.append((estimate(self.train_config(values)).peak_vram_bytes, peak))
        return True

    @property
    def correction(self) -> float:
        """What estimated memory is multiplied by: 1.0 before the first trial was measured."""
        return correction(self.peaks)

    def reasons_against(self, values: Values) -> list[str]:
        """Why a complete configuration must not be launched; empty where it may."""
        if broken := self.space.broken_rules(values):
            return [str(rule) for rule in broken]
        if outside := self.space.outside(values):
            return [f"{name} out of its range" for name in outside]
        try:
            config = self.train_config(values)
        except ConfigError as error:
            return [str(error)]
        if config.tokens_per_step * self.min_steps > config.budget_tokens:
            return [f"fewer than {self.min_steps} optimizer steps in {config.budget_tokens:,} tokens"]
        if not any(name in self.limits for name in ESTIMATED):
            return []
        found = estimate(config)
        estimates = {"num_params": found.num_params, "peak_vram_bytes": found.peak_vram_bytes * self.correction}
        return [r for name in ESTIMATED if (r := beyond(name, estimates[name], self.limits.get(name)))]

    def train_config(self, values: Values) -> TrainConfig:
        rungs = self.rungs if self.units is None else self.units.own_rungs(self.rungs, values["vocab_size"])
        return self.space.train_config(values, rungs=rungs, **self.run)


def beyond(name: str, value: float | None, limit: LimitSpec | None) -> str | None:
    """How a measurement breaks its limit, in words without the value (so that reasons can be counted), or None."""
    if limit is None or value is None:
        return None
    if limit.max is not None and value > limit.max:
        return f"{name} above {shown(limit.max)}"
    if limit.min is not None and value < limit.min:
        return f"{name} below {shown(limit.min)}"
    return None


def overrun(value: float, limit: LimitSpec) -> float:
    """By how much a value breaks its limit, relative to it; above 0 is infeasible, as in Optuna's constraints."""
    excesses = [-1.0]
    if limit.max is not None:
        excesses.append((value - limit.max) / max(abs(limit.max), 1e-12))
    if limit.min is not None:
        excesses.append((limit.min - value) / max(abs(limit.min), 1e-12))
    return max(excesses[1:], default=-1.0)


def largest_peak(space: Space, budget: BudgetSpec, run: Mapping[str, Any], *, num_samples: int = 500) -> float:
    """Bytes of the largest estimated peak memory of a sample and the presets, of what may be launched, with a margin.

    0.0 where nothing of these may be.
    """
    feasibility = Feasibility.of(space, budget, run)
    rng = np.random.default_rng(0)
    found = [space.complete(preset.values) for preset in space.presets.values()]
    for _ in range(num_samples):
        with contextlib.suppress(ExpressionError):
            found.append(random_values(space, rng))
    launched = [values for values in found if not feasibility.reasons_against(values)]
    peaks = [estimate(feasibility.train_config(values)).peak_vram_bytes for values in launched]
    return max(peaks, default=0.0) * (1 + MARGIN)


@dataclass(frozen=True)
class Assessment:
    """What a sample of a space's configurations showed: the share that may be launched, and why the others may not."""

    share: float
    num_sampled: int
    reasons: dict[str, int]  # the most frequent first; a configuration may have several
    num_launchable: int | None = None  # in all, where they can be listed and are no more than were drawn

    @property
    def warning(self) -> str:
        """What to do where hardly anything may be launched; empty where enough may."""
        if self.share >= SPARSE_SHARE:
            return ""
        reason, count = next(iter(self.reasons.items()))
        return (
            f"below {SPARSE_SHARE:.0%} proposals are slow to find; narrow the ranges or loosen the limits: "
            f"most are rejected for {reason} ({count / self.num_sampled:.1%})"
        )


def assess(space: Space, budget: BudgetSpec, *, num_samples: int = 2000, seed: int = 0) -> Assessment:
    """Draw configurations at random and count; list those of a small space, too.

    Raises SpaceError for a rule, or a space, that nothing satisfies.
    """
    feasibility = Feasibility.of(space, budget)
    rng = np.random.default_rng(seed)
    reasons: Counter[str] = Counter()
    satisfied = [False] * len(space.rules)
    num_feasible = 0
    for _ in range(num_samples):
        try:
            values = random_values(space, rng)
        except ExpressionError as error:
            reasons.update([str(error)])
            continue
        for j, rule in enumerate(space.rules):
            satisfied[j] = satisfied[j] or not rule.require.names <= values.keys() or rule.holds(values)
        against = feasibility.reasons_against(values)
        reasons.update(against)
        num_feasible += not against
    presets = [space.complete(preset.values) for preset in space.presets.values()]
    listing = Listing.of(space, feasibility.reasons_against, at_most=num_samples)
    is_hopeless = num_feasible == 0 and not listing.configurations
    is_hopeless = is_hopeless and all(feasibility.reasons_against(values) for values in presets)
    faults = [
        space.document.fault(rule.path, f"no configuration satisfies {rule}; {num_samples:,} were drawn")
        for rule, ok in zip(space.rules, satisfied, strict=True)
        if not ok and is_hopeless
    ]
    if not faults and is_hopeless:
        most = "; ".join(f"{reason} ({count:,} times)" for reason, count in reasons.most_common(3))
        faults = [space.document.fault((), f"none of {num_samples:,} configurations drawn can be launched: {most}")]
    if faults:
        raise SpaceError(space.document.source, faults)
    num_launchable = len(listing.configurations) if listing.is_whole else None
    return Assessment(num_feasible / num_samples, num_samples, dict(reasons.most_common()), num_launchable)
