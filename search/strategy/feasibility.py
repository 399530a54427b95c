"""Which configurations may be launched: rules, buildability, and limits on the trainer's estimates.

A configuration that fails here is rejected inside the proposal loop and never costs a worker. Memory is an estimate,
which correction.py corrects by what earlier trials measured. If a trial then takes more than its limit, it is
infeasible.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from search.space.configurations import Listing
from search.space.document import SpaceError
from search.space.drawing import random_values
from search.space.expression import ExpressionError
from search.space.parameter import Values, shown
from search.space.space import Space, rungs_of
from search.space.spec import BudgetSpec, LimitSpec
from search.strategy.correction import MARGIN, correction
from trainer.checks import ConfigError
from trainer.config import TrainConfig
from trainer.estimate import estimate
from trainer.families.registry import family_of
from trainer.text.units import TextUnits

ESTIMATED = ("num_params", "peak_vram_bytes")
"""Measurements that trainer/estimate.py estimates before a trial runs; other limits are checked at the rungs."""

SPARSE_SHARE = 0.05  # launchable share of a space; below it, a proposal takes tens of draws


@dataclass(frozen=True)
class Feasibility:
    """The check that every proposal passes before it becomes a trial.

    `run` has fields of TrainConfig that the search sets and no trial does, such as the machine's precision.
    """

    space: Space
    rungs: tuple[int, ...]
    limits: Mapping[str, LimitSpec]
    min_steps: int = 1
    run: Mapping[str, Any] = field(default_factory=dict)
    units: TextUnits | None = None  # of a study with several vocabularies
    peaks: list[tuple[int, int]] = field(default_factory=list)  # (estimated, measured) of trials: see `learn`

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

        Returns whether the correction changed, so that other configurations may be launched. A family without formulas
        has no estimates to correct.
        """
        peak = measurement.get("peak_vram_bytes")
        if not peak or measurement.get("estimated", True):
            return False
        estimated = estimate(self.train_config(values)).peak_vram_bytes
        if estimated is not None:
            self.peaks.append((estimated, peak))
        return estimated is not None

    @property
    def correction(self) -> float:
        """The factor for estimated memory: 1.0 before the first trial was measured."""
        return correction(self.peaks)

    def reasons_against(self, values: Values) -> list[str]:
        """Why a complete configuration may not be launched; empty if it may."""
        if broken := self.space.broken_rules(values):
            return [str(rule) for rule in broken]
        if outside := self.space.outside(values):
            return [f"{name} out of its range" for name in outside]
        try:
            config = self.train_config(values)
        except ConfigError as error:
            return [str(error)]
        if words := self._too_few_steps(config):
            return [words]
        return list(self._beyond_limits(config))

    def all_reasons(self, values: Values) -> dict[str, str]:
        """As `reasons_against`, but all of them; each with the same reason in full, with values."""
        return self.examined(values)[0]

    def examined(self, values: Values) -> tuple[dict[str, str], bool]:
        """`all_reasons`, and whether the configuration can be built, so that its limits could be checked.

        So each reason can be counted by itself: a configuration may break both a rule and a limit. It takes longer.
        """
        found = {str(rule): f"breaks the rule {rule}" for rule in self.space.broken_rules(values)}
        outside = self.space.outside(values)
        found |= {f"{name} out of its range": f"{name}: {why}" for name, why in outside.items()}
        try:
            config = self.train_config(values)
        except ConfigError as error:
            return found or {str(error): str(error)}, False  # a rule has usually said the same
        if words := self._too_few_steps(config):
            found[words] = words
        return found | self._beyond_limits(config), True

    def _too_few_steps(self, config: TrainConfig) -> str:
        if config.tokens_per_step * self.min_steps <= config.budget_tokens:
            return ""
        return f"fewer than {self.min_steps} optimizer steps in {config.budget_tokens:,} tokens"

    def _beyond_limits(self, config: TrainConfig) -> dict[str, str]:
        """The limits that the estimates break: words that can be counted, and the same with the value."""
        if not any(name in self.limits for name in ESTIMATED):
            return {}
        try:
            found = estimate(config)
        except ConfigError as error:  # of a family that is built to count its parameters
            return {str(error): str(error)}
        peak = None if found.peak_vram_bytes is None else found.peak_vram_bytes * self.correction
        estimates = {"num_params": found.num_params, "peak_vram_bytes": peak}
        broken = {name: beyond(name, estimates[name], self.limits.get(name)) for name in ESTIMATED}
        return {words: f"{words}: {estimates[name]:,.0f}" for name, words in broken.items() if words}

    def train_config(self, values: Values) -> TrainConfig:
        rungs = self.rungs if self.units is None else self.units.own_rungs(self.rungs, int(values["vocab_size"]))
        return self.space.train_config(values, rungs=rungs, **self.run)


def beyond(name: str, value: float | None, limit: LimitSpec | None) -> str | None:
    """How a measurement breaks its limit, in words without the value, so that reasons can be counted; or None."""
    if limit is None or value is None:
        return None
    if limit.max is not None and value > limit.max:
        return f"{name} above {shown(limit.max)}"
    if limit.min is not None and value < limit.min:
        return f"{name} below {shown(limit.min)}"
    return None


def unestimated(space: Space, budget: BudgetSpec) -> list[str]:
    """A sentence about a limit on memory that cannot be checked before training."""
    if family_of(space.family).cost is not None or "peak_vram_bytes" not in space.limits(budget):
        return []
    return [
        f"the limit on peak_vram_bytes holds for what a GPU measures: the family {space.spec.family} has no formula by "
        "which to estimate it"
    ]


def overrun(value: float, limit: LimitSpec) -> float:
    """By how much a value breaks its limit, relative to the limit; above 0 is infeasible, as for Optuna."""
    excesses = [-1.0]
    if limit.max is not None:
        excesses.append((value - limit.max) / max(abs(limit.max), 1e-12))
    if limit.min is not None:
        excesses.append((limit.min - value) / max(abs(limit.min), 1e-12))
    return max(excesses[1:], default=-1.0)


def largest_peak(space: Space, budget: BudgetSpec, run: Mapping[str, Any], *, num_samples: int = 500) -> float:
    """The largest estimated peak memory in bytes of a sample and the presets that may be launched, with a margin.

    0.0 if none may be launched. Raises ValueError for a family without formulas of memory.
    """
    if family_of(space.family).cost is None:
        raise ValueError(f"the memory of {space.family} is not known before it trains; give a number of trials")
    feasibility = Feasibility.of(space, budget, run)
    rng = np.random.default_rng(0)
    found = [space.complete(preset.values) for preset in space.presets.values()]
    for _ in range(num_samples):
        with contextlib.suppress(ExpressionError):
            found.append(random_values(space, rng))
    launched = [values for values in found if not feasibility.reasons_against(values)]
    peaks = [estimate(feasibility.train_config(values)).peak_vram_bytes or 0 for values in launched]
    return max(peaks, default=0.0) * (1 + MARGIN)


@dataclass(frozen=True)
class Assessment:
    """What a sample of a space's configurations showed: the launchable share, and why others may not be launched."""

    share: float
    num_sampled: int
    reasons: dict[str, int]  # the most frequent first; a configuration may have several
    num_launchable: int | None = None  # in total, if they can be listed and are no more than were drawn
    asked: dict[str, int] = field(default_factory=dict)  # of how many, if not of all: limits apply only to what builds
    reference_note: str = ""  # a sentence if the reference is not the first preset, see search/strategy/reference.py

    @property
    def warning(self) -> str:
        """What to do if hardly anything may be launched; empty if enough may."""
        if self.share >= SPARSE_SHARE:
            return ""
        reason = next(iter(self.reasons))
        return (
            f"below {SPARSE_SHARE:.0%} proposals are slow to find; narrow the ranges or loosen the limits: "
            f"most are rejected for {reason} ({self.rate(reason):.1%})"
        )

    def rate(self, reason: str) -> float:
        """The share that a reason rejects of the configurations that it applies to."""
        return self.reasons[reason] / self.asked.get(reason, self.num_sampled)


def assess(
    space: Space, budget: BudgetSpec, *, known: Iterable[Values] = (), num_samples: int = 2000, seed: int = 0
) -> Assessment:
    """Draw configurations at random and count; also list those of a small space.

    `known` are configurations besides the presets, in case one of them is the only launchable one. Raises SpaceError
    for a rule, or a space, that nothing satisfies.
    """
    feasibility = Feasibility.of(space, budget)
    rng = np.random.default_rng(seed)
    reasons: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    satisfied = [False] * len(space.rules)
    num_feasible = num_built = 0

    def note(values: Values) -> list[bool]:
        """Which rules have all their parameters active; also notes the rules that the configuration satisfies."""
        there = [rule.require.names <= values.keys() for rule in space.rules]
        for j, (rule, is_there) in enumerate(zip(space.rules, there, strict=True)):
            satisfied[j] = satisfied[j] or not is_there or rule.holds(values)
        return there

    for _ in range(num_samples):
        try:
            values = random_values(space, rng)
        except ExpressionError as error:
            reasons.update([str(error)])
            continue
        there = note(values)
        against, is_built = feasibility.examined(values)
        reasons.update(against.keys())
        asked.update(str(rule) for rule, is_there in zip(space.rules, there, strict=True) if is_there)
        num_feasible += not against
        num_built += is_built
    asked.update({reason: num_built for reason in reasons if reason.startswith(ESTIMATED)})
    asked = Counter({reason: number for reason, number in asked.items() if reason in reasons and number < num_samples})
    presets = [*(space.complete(preset.values) for preset in space.presets.values()), *known]
    listing = Listing.of(space, feasibility.reasons_against, at_most=num_samples)
    is_hopeless = num_feasible == 0 and not listing.configurations
    is_hopeless = is_hopeless and all(feasibility.reasons_against(values) for values in presets)
    for preset_values in presets:
        note(preset_values)
    ordered = sorted(reasons, key=lambda reason: -reasons[reason] / (asked.get(reason) or num_samples))
    faults = [
        space.document.fault(rule.path, f"no configuration satisfies {rule}; {num_samples:,} were drawn")
        for rule, ok in zip(space.rules, satisfied, strict=True)
        if not ok and is_hopeless
    ]
    if not faults and is_hopeless:
        most = "; ".join(f"{reason} ({_of(reasons[reason], asked.get(reason))})" for reason in ordered[:3])
        faults = [space.document.fault((), f"none of {num_samples:,} configurations drawn can be launched: {most}")]
    if faults:
        raise SpaceError(space.document.source, faults)
    num_launchable = len(listing.configurations) if listing.is_whole else None
    rejected = {reason: reasons[reason] for reason in ordered}
    return Assessment(num_feasible / num_samples, num_samples, rejected, num_launchable, dict(asked))


def _of(count: int, asked: int | None) -> str:
    return f"{count:,} times" if asked is None else f"{count:,} of {asked:,} times"
