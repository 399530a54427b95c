"""What makes a study the one it is: kept in its storage, and compared when it is opened again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna

from search.grammar import BudgetSpec
from search.loading import parse_space
from search.narrowing import narrow
from search.space import Space
from search.storage import FORMAT_VERSION

TRIALS = "trials"  # the study attribute that holds how many were asked for last


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
            "budget": self.budget.model_dump(),
            "budget_name": self.budget_name,
            "seed": self.seed,
            "run": self.run,
            "corpus": self.corpus,
            "format_version": FORMAT_VERSION,  # the last: a study that has it is whole
        }

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
        )

    def differences(self, other: StudySettings) -> list[str]:
        """What `other` would change, in words; the number of trials may grow and does not count."""
        found = []
        if self.space.document.text != other.space.document.text:
            found.append("the space file has changed")
        for name in ("goals", "assignments", "seed", "run"):
            if getattr(self, name) != getattr(other, name):
                found.append(f"{name}: {getattr(self, name)!r} before, {getattr(other, name)!r} now")
        metrics = [", ".join(m.name for m in s.space.spec.objectives) for s in (self, other)]
        if metrics[0] != metrics[1]:
            found.append(f"metrics: {metrics[0]} before, {metrics[1]} now")
        before, now = self.budget.model_dump(exclude={"trials"}), other.budget.model_dump(exclude={"trials"})
        found += [
            f"budget {key}: {before[key]!r} before, {now[key]!r} now" for key in before if before[key] != now[key]
        ]
        if self.corpus.get("digest") != other.corpus.get("digest"):
            found.append(f"the text: {self.corpus.get('about')} before, {other.corpus.get('about')} now")
        return found


def num_trials_of(study: optuna.Study, settings: StudySettings) -> int:
    """How many trials a stored study is to have: what was asked last, or its budget's number."""
    return study.user_attrs.get(TRIALS, settings.budget.trials)
