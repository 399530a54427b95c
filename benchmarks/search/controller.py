"""tinysearch's own controller over a table: `search.study.study.Study` as a search runs it; nothing is trained.

A table's rung is a token to the controller, so its rungs are 1, eta, eta squared and so on to R. A configuration whose
own full budget is shorter than R is reported as finished, at R: it is compared by the end of its training. What it
showed before, at rungs that were not the same part of its training as of others', is then forgotten.

The configuration that a trial was really given replaces the proposed one in the study's record and in its Optuna trial,
as for every policy: whichever of them the search controller learns from, it learns what was trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import optuna

from benchmarks.search.optuna_peers import overwrite
from benchmarks.search.policy import ETA, Problem, Proposal
from benchmarks.search.table import Axis, point, values_at
from search.space.configurations import identity
from search.space.document import Document
from search.space.parameter import Parameter, Values
from search.space.space import Preset, Space
from search.space.spec import BudgetSpec, SpaceSpec
from search.strategy.feasibility import Feasibility
from search.strategy.strategy import Strategy
from search.study.record import leading_record
from search.study.settings import StudySettings
from search.study.study import Study

METRIC = "loss"


class Anything(Feasibility):
    """Every configuration may be launched: a table's are no configurations of the trainer."""

    def reasons_against(self, values: Values) -> list[str]:
        return []


def space_of(axes: tuple[Axis, ...], presets: list[np.ndarray], metrics: Sequence[str] = ()) -> Space:
    """A table's hyperparameters as a space; `presets`, points of the unit cube, are trained first."""
    return Space(
        spec=SpaceSpec(family="recorded curves", parameters={}, metrics=list(metrics)),  # type: ignore[arg-type]
        document=Document("<recorded curves>", ""),
        family="recorded curves",
        parameters={axis.name: _parameter(axis) for axis in axes},
        rules=(),
        presets={str(i): Preset(name=str(i), values=values_at(axes, p)) for i, p in enumerate(presets)},
    )


class Tinysearch:
    """The search controller with an in-memory record.

    Hands over the trial that leads, finished or not: what a search that must end now would train to its end. (What
    `tinysearch best` calls the best has finished; the simulation counts the best finished trial of every policy.)
    """

    metrics: ClassVar[list[str]] = []  # where there are several
    strategy: ClassVar[type[Strategy]] = Strategy

    def __init__(self, problem: Problem, seed: int, presets: Iterable[np.ndarray] = ()):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._axes = problem.axes
        self._end = problem.num_rungs
        budget = BudgetSpec(min_tokens=1, max_tokens=self._end, eta=ETA, trials=problem.num_configurations)
        space = space_of(problem.axes, list(presets), self.metrics)
        settings = StudySettings(space=space, budget=budget, seed=seed)
        self.study = Study.create(
            optuna.storages.InMemoryStorage(),
            f"seed {seed}",
            settings,
            feasibility=Anything.of(settings.space, budget),
            strategy=self.strategy,
        )
        self.rungs = tuple(rung for rung in self.study.rungs if rung < self._end)

    def propose(self) -> Proposal | None:
        proposed = self.study.propose()
        if proposed is None:
            return None
        return Proposal(proposed.number, None if proposed.is_resumed else point(self._axes, proposed.values))

    def given(self, key: int, point: np.ndarray) -> None:
        record, trial = self.study.records[key], self.study._recorder.trial(key)
        self.study._candidates.started.discard(identity(record.values))
        record.values = self.study.space.complete(values_at(self._axes, point))
        self.study._candidates.start(record.values)
        overwrite(trial, record.values)
        trial.set_user_attr("values", record.values)
        self.study._decisions._curves[key].point = self.study._candidates.point(record.values)

    def report(self, key: int, rung: int, value: Any) -> bool:
        values = value if self.metrics else (value,)
        return self.study.report(key, {**dict(zip(self.metrics or [METRIC], values, strict=True)), "tokens": rung})

    def finished(self, key: int, rung: int, value: Any) -> None:
        if rung < self._end:
            self.study.records[key].measurements.clear()  # not of the same part of a training as others' rungs
        self.report(key, self._end, value)

    def incumbent(self) -> int | None:
        leading = leading_record(self.study.records.values(), METRIC)
        return leading.number if leading else None


def _parameter(axis: Axis) -> Parameter:
    if not axis.num_levels:
        return Parameter(name=axis.name, type=float, low=0.0, high=1.0, default=0.5)
    if axis.is_ordered:
        return Parameter(name=axis.name, type=int, low=0, high=axis.num_levels - 1, default=0)
    return Parameter(name=axis.name, type=int, choices=tuple(range(axis.num_levels)), default=0)
