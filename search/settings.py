"""What makes a study the one it is: kept in its storage, and compared when it is opened again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import optuna

from search.grammar import BudgetSpec
from search.loading import parse_space
from search.narrowing import narrow
from search.space import Space, rungs_of
from search.storage import FORMAT_VERSION

TRIALS = "trials"  # the study attribute that holds how many were asked for last
SETTLED = "settled"  # and the one that holds the last rung up to which an extended study has decided on every trial


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """The space as narrowed, the budget, the seed, the text: all that a trial's result depends on beside its values."""

    space: Space
    budget: BudgetSpec
    budget_name: str = ""
    seed: int = 0
    goals: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()
    run: dict[str, Any] = field(default_factory=dict)  # fields of TrainConfig, the same for every trial
    corpus: dict[str, Any] = field(default_factory=dict)  # the text: paths, digest, about
    earlier_ends: tuple[int, ...] = ()  # the last rungs before the study was extended to more tokens

    @property
    def rungs(self) -> tuple[int, ...]:
        """The token counts at which trials are compared: the budget's, and where it ended before it was extended."""
        return tuple(sorted({*rungs_of(self.budget), *self.earlier_ends}))

    def extended(self, max_tokens: int) -> StudySettings:
        """The same study with a later last rung; where it ends now stays a rung."""
        assert max_tokens > self.budget.max_tokens, (max_tokens, self.budget.max_tokens)
        budget = self.budget.model_copy(update={"max_tokens": max_tokens})
        return replace(self, budget=budget, earlier_ends=(*self.earlier_ends, self.budget.max_tokens))

    @property
    def directions(self) -> list[str]:
        """Of the metrics, as Optuna wants them."""
        return [metric.goal for metric in self.space.spec.objectives]

    def to_attrs(self) -> dict[str, Any]:
        return {
            "space": self.space.document.text,
            "space_source": self.space.document.source,
            "goals": list(self.goals),
            "assignments": list(self.assignments),
            "metrics": [metric.name for metric in self.space.spec.objectives],
            "budget_name": self.budget_name,
            **self.extent(),
            "seed": self.seed,
            "run": self.run,
            "corpus": self.corpus,
            "format_version": FORMAT_VERSION,  # the last: a study that has it is whole
        }

    def extent(self) -> dict[str, Any]:
        """The attributes that change when the study is extended, in the order in which to write them."""
        return {"earlier_ends": list(self.earlier_ends), "budget": self.budget.model_dump()}

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, Any]) -> StudySettings:
        goals, assignments = tuple(attrs["goals"]), tuple(attrs["assignments"])
        space, budget = parse_space(attrs["space"], attrs["space_source"]), BudgetSpec.model_validate(attrs["budget"])
        return cls(
            space=narrow(space, budget=budget, goals=goals, assignments=assignments, metrics=attrs.get("metrics", ())),
            budget=budget,
            budget_name=attrs["budget_name"],
            seed=attrs["seed"],
            goals=goals,
            assignments=assignments,
            run=attrs["run"],
            corpus=attrs["corpus"],
            earlier_ends=tuple(attrs.get("earlier_ends", ())),
        )

    def differences(self, other: StudySettings) -> list[str]:
        """What `other` would change, in words; neither the number of trials nor the last rung counts: both may grow."""
        found = _differences_of_spaces(self.space, other.space)
        for name in ("goals", "assignments", "seed", "run"):
            if getattr(self, name) != getattr(other, name):
                found.append(f"{name}: {getattr(self, name)!r} before, {getattr(other, name)!r} now")
        metrics = [", ".join(m.name for m in s.space.spec.objectives) for s in (self, other)]
        if metrics[0] != metrics[1]:
            found.append(f"metrics: {metrics[0]} before, {metrics[1]} now")
        may_grow = {"trials", "max_tokens"}
        before, now = self.budget.model_dump(exclude=may_grow), other.budget.model_dump(exclude=may_grow)
        found += [
            f"budget {key}: {before[key]!r} before, {now[key]!r} now" for key in before if before[key] != now[key]
        ]
        if self.corpus.get("digest") != other.corpus.get("digest"):
            found.append(f"the text: {self.corpus.get('about')} before, {other.corpus.get('about')} now")
        return found


def _differences_of_spaces(before: Space, now: Space) -> list[str]:
    """The keys of a space file that say something else, but for its budgets and metrics."""
    apart = {"budget", "budgets", "metric", "metrics"}
    ours, theirs = (space.spec.model_dump(exclude=apart) for space in (before, now))
    found = []
    for key in ours:
        if ours[key] == theirs[key]:
            continue
        if isinstance(ours[key], dict) and isinstance(theirs[key], dict):
            names = sorted({*ours[key], *theirs[key]})
            changed = ", ".join(name for name in names if ours[key].get(name) != theirs[key].get(name))
            found.append(f"the space's {key} have changed ({changed})")
        else:
            found.append(f"the space's {key} has changed")
    return found


def num_trials_of(study: optuna.Study, settings: StudySettings) -> int:
    """How many trials a stored study is to have: what was asked last, or its budget's number."""
    return study.user_attrs.get(TRIALS, settings.budget.trials)


def settled_of(study: optuna.Study, settings: StudySettings) -> int:
    """The last rung up to which a study has decided on every trial that it has; 0 where it is open."""
    return study.user_attrs.get(SETTLED, 0) if settings.earlier_ends else settings.budget.max_tokens
