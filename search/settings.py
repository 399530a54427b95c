"""What makes a study the one it is: kept in its storage, and compared when it is opened again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import optuna
from pydantic import ValidationError

from search.grammar import BudgetSpec
from search.loading import parse_space
from search.narrowing import narrow
from search.parameter import checked_value
from search.space import Space
from search.storage import FORMAT_VERSION, StudyError

TRIALS = "trials"  # the study attribute that holds how many were asked for last

ATTRIBUTES: dict[str, tuple[type, str]] = {
    "space": (str, "the text of a space"),
    "space_source": (str, "the name of a file"),
    "goals": (list, "a list"),
    "assignments": (list, "a list"),
    "metrics": (list, "a list"),
    "budget": (dict, "a mapping"),
    "budget_name": (str, "text"),
    "seed": (int, "a whole number"),
    "run": (dict, "a mapping"),
    "corpus": (dict, "a mapping"),
}
"""What a study says of itself, under the names of `to_attrs`; one that is older has no metrics."""


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

    def to_attrs(self) -> dict[str, Any]:
        return {
            "format_version": FORMAT_VERSION,
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
        }

    @classmethod
    def of(cls, study: optuna.Study) -> StudySettings:
        """The settings that a study was made with. Raises StudyError, naming the attribute, where they are damaged."""
        attrs = study.user_attrs
        for name, (kind, expected) in ATTRIBUTES.items():
            if not isinstance(attrs.get(name, [] if name == "metrics" else None), kind):
                raise _damaged(study, name, f"is {attrs.get(name)!r:.60}, not {expected}")
        for name in ("goals", "assignments", "metrics"):
            if not all(isinstance(item, str) for item in attrs.get(name, ())):
                raise _damaged(study, name, "is not a list of words")
        if not isinstance(paths := attrs["corpus"].get("paths"), list) or not all(isinstance(p, str) for p in paths):
            raise _damaged(study, "corpus", "has no list of paths")
        if attrs["seed"] < 0:
            raise _damaged(study, "seed", f"is {attrs['seed']}, below 0")
        goals, assignments = tuple(attrs["goals"]), tuple(attrs["assignments"])
        name = "space"
        try:
            space = parse_space(attrs["space"], attrs["space_source"])
            name = "budget"
            budget = BudgetSpec.model_validate(attrs["budget"])
            _check_set(space, budget)
            name = "goals, assignments or metrics"
            narrowed = narrow(
                space, budget=budget, goals=goals, assignments=assignments, metrics=attrs.get("metrics", ())
            )
        except ValidationError as error:
            first = error.errors()[0]
            raise _damaged(study, name, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except ValueError as error:
            raise _damaged(study, name, f"is wrong: {error}") from None
        return cls(
            space=narrowed,
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
    """How many trials a stored study is to have: what was asked last, or its budget's number. Raises StudyError."""
    number = study.user_attrs.get(TRIALS, settings.budget.trials)
    if type(number) is not int or number < 1:
        raise _damaged(study, TRIALS, f"is {number!r:.60}, not a number from 1")
    return number


def _check_set(space: Space, budget: BudgetSpec) -> None:
    """Raises ValueError where a budget sets what is no parameter of the space, or to a value of another kind."""
    for name, value in budget.set.items():
        if name not in space.parameters or checked_value(value, space.parameters[name].type) is None:
            raise ValueError(f"it sets {name} to {value!r}")


def _damaged(study: optuna.Study, attribute: str, why: str) -> StudyError:
    return StudyError(f"the study {study.study_name} is damaged: its attribute {attribute!r} {why}")
