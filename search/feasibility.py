"""Which configurations may be launched: rules, buildability, and limits against the trainer's estimates.

A configuration that fails here is rejected inside the proposal loop and never costs a worker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from search.document import SpaceError
from search.drawing import random_values
from search.expression import ExpressionError
from search.grammar import BudgetSpec, LimitSpec
from search.parameter import Values, shown
from search.space import Space, rungs_of
from trainer.checks import ConfigError
from trainer.estimate import estimate

ESTIMATED = ("num_params", "peak_vram_bytes")
"""Measurements that trainer/estimate.py knows before a trial runs; limits on the others are checked at the rungs."""


@dataclass(frozen=True)
class Feasibility:
    """The test that every proposal passes before it becomes a trial."""

    space: Space
    rungs: tuple[int, ...]
    limits: Mapping[str, LimitSpec]
    min_steps: int = 1

    @classmethod
    def of(cls, space: Space, budget: BudgetSpec) -> Feasibility:
        return cls(space, rungs_of(budget), space.limits(budget), budget.min_steps)

    def reasons_against(self, values: Values) -> list[str]:
        """Why a complete configuration must not be launched; empty where it may."""
        if broken := self.space.broken_rules(values):
            return [str(rule) for rule in broken]
        if outside := self.space.outside(values):
            return [f"{name} out of its range" for name in outside]
        try:
            config = self.space.train_config(values, rungs=self.rungs)
        except ConfigError as error:
            return [str(error)]
        if config.tokens_per_step * self.min_steps > config.budget_tokens:
            return [f"fewer than {self.min_steps} optimizer steps in {config.budget_tokens:,} tokens"]
        if not any(name in self.limits for name in ESTIMATED):
            return []
        estimates = estimate(config)
        return [r for name in ESTIMATED if (r := beyond(name, getattr(estimates, name), self.limits.get(name)))]


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


@dataclass(frozen=True)
class Assessment:
    """What a sample of a space's configurations showed: the share that may be launched, and why the others may not."""

    share: float
    num_sampled: int
    reasons: dict[str, int]


def assess(space: Space, budget: BudgetSpec, *, num_samples: int = 2000, seed: int = 0) -> Assessment:
    """Draw configurations at random and count. Raises SpaceError for a rule, or a space, that nothing satisfies."""
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
    is_hopeless = num_feasible == 0 and all(feasibility.reasons_against(values) for values in presets)
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
    return Assessment(num_feasible / num_samples, num_samples, dict(reasons.most_common()))
