"""A study at one moment, for people and scripts; nothing here changes a study."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import optuna

from search.report.texts import finite, is_number
from search.space.space import SHRUNK
from search.space.spec import CURVES, MetricSpec
from search.storage.folder import FAULTS
from search.study.record import TrialRecord, best_record, leading_record, pareto_front, records_of
from search.study.settings import Exhausted, StudySettings, exhausted_of, num_trials_of, settled_of
from search.study.study import Study
from search.worker.messages import FINISHED, OUTCOMES, PAUSED, RUNNING, STOPPED, WAITING, WASTED


@dataclass(frozen=True)
class Overview:
    """The state of a study at one moment, read from its records."""

    name: str
    metrics: tuple[MetricSpec, ...]
    records: list[TrialRecord]  # one for each configuration
    continued: list[TrialRecord]  # trials that finished before the study was extended, and that other trials continue
    num_trials: float
    rungs: tuple[int, ...]
    settled: int  # the last rung up to which every trial has been decided on
    reference_name: str
    searched: tuple[str, ...]
    parameters: tuple[str, ...] = ()  # all of the space, including those with one value
    faults: tuple[str, ...] = ()  # of the study; each trial has its own list
    exhausted: Exhausted | None = None  # if nothing is left to start; `num_trials` is then the number that exists
    has_guide: bool = False
    sampler: str = CURVES.name
    stopping: str = CURVES.name

    @classmethod
    def of(cls, study: Study) -> Overview:
        """The overview of a study that this process runs."""
        records = list(study.records.values())
        return cls._build(
            study.stored, study.settings, records, study.num_expected, study.reference_name, study.exhausted
        )

    @classmethod
    def stored(cls, study: optuna.Study, *, is_run: bool) -> Overview:
        """The overview of a study in its storage; `is_run`: whether a driver is running it now.

        If none is, trials that a killed driver left running count as waiting.
        """
        settings = StudySettings.of(study)
        records = [record for _, record in records_of(study) if record is not None]
        if not is_run:
            for record in records:
                record.outcome = WAITING if record.outcome == RUNNING else record.outcome
        reference = settings.space.reference
        num_trials, exhausted = num_trials_of(study, settings), exhausted_of(study, settings)
        return cls._build(study, settings, records, num_trials, reference.name if reference else "", exhausted)

    @classmethod
    def _build(
        cls,
        stored: optuna.Study,
        settings: StudySettings,
        records: list[TrialRecord],
        num_trials: float,
        reference: str,
        exhausted: Exhausted | None,
    ) -> Overview:
        continued = {record.continues for record in records}
        configurations = [record for record in records if record.number not in continued]
        return cls(
            name=stored.study_name,
            metrics=settings.space.spec.objectives,
            records=configurations,
            continued=[record for record in records if record.number in continued],
            num_trials=len(configurations) if exhausted else num_trials,
            exhausted=exhausted,
            rungs=settings.rungs,
            settled=settled_of(stored, settings),
            reference_name=reference,
            searched=tuple(settings.space.searched),
            parameters=tuple(settings.space.spec.parameters),
            has_guide=settings.space.has_guide,
            sampler=settings.sampler.name,
            stopping=settings.stopping.name,
            faults=tuple(stored.user_attrs.get(FAULTS, ())),
        )

    @property
    def counts(self) -> Counter[str]:
        return Counter(record.outcome for record in self.records)

    @property
    def metric(self) -> str:
        """The first metric, which orders the trials."""
        return self.metrics[0].name

    @property
    def maximize(self) -> bool:
        return self.metrics[0].goal == "maximize"

    @property
    def best(self) -> TrialRecord | None:
        """The best finished trial by the first metric; with several metrics, of equal ones the one on the front."""
        if len(self.metrics) > 1:
            return next(iter(self.front), None)
        return best_record([*self.records, *self.continued], self.metric, maximize=self.maximize)

    @property
    def leading(self) -> TrialRecord | None:
        """An unfinished trial with a better value of the first metric than any finished one; usually None."""
        leading = leading_record([*self.continued, *self.records], self.metric, maximize=self.maximize)
        return None if leading is None or leading.outcome == FINISHED else leading

    @property
    def front(self) -> list[TrialRecord]:
        """The finished trials that no other beats in all metrics; the best by the first metric comes first."""
        return pareto_front([*self.records, *self.continued], self.metrics)

    @property
    def reference(self) -> TrialRecord | None:
        """The trial of the reference."""
        return next((r for r in self.records if r.preset and r.preset == self.reference_name), None)

    @property
    def whose(self) -> str:
        """Whose presets they are, in words."""
        return "the guide's" if self.has_guide else "your"

    def named(self, preset: str) -> str:
        """A preset in a sentence: `the guide's 'tiny'`."""
        return f"the {SHRUNK}" if preset == SHRUNK else f"{self.whose} {preset!r}"

    @property
    def num_others_finished(self) -> int:
        """How many trials have finished besides the reference's; with none, nothing can be said about it."""
        return sum(r.outcome == FINISHED and r is not self.reference for r in [*self.records, *self.continued])

    @property
    def is_complete(self) -> bool:
        if len(self.records) < self.num_trials or self.settled < self.rungs[-1]:
            return False
        return all(record.has_ended for record in self.records)

    def ranked(self) -> list[TrialRecord]:
        """Deepest rung first, then the better value; trials without a measurement last."""

        def key(record: TrialRecord) -> tuple[int, int, float, int]:
            value = record.measured(self.metric)
            if not is_number(value):
                return (1, -record.rung, 0.0, record.number)
            return (0, -record.rung, -value if self.maximize else value, record.number)

        return sorted(self.records, key=key)

    def to_dict(self) -> dict[str, Any]:
        """For scripts: counts, best and reference."""
        best, reference = self.best, self.reference
        return {
            "study": self.name,
            "metric": self.metric,
            "metrics": [metric.name for metric in self.metrics],
            "trials": finite(self.num_trials),
            "rungs": list(self.rungs),
            "counts": {outcome: self.counts[outcome] for outcome in OUTCOMES},
            "sampler": self.sampler,
            "stopping": self.stopping,
            "proposals": {
                "by": dict(Counter(record.proposed_by for record in self.records if record.proposed_by)),
                "moved": sum(bool(record.moved) for record in self.records),
                "asked_again": sum(record.asks - 1 for record in self.records),
            },
            "complete": self.is_complete,
            "exhausted": self.exhausted is not None,
            "best": None if best is None else trial_dict(best),
            "leading": None if self.leading is None else self.leading.number,
            "front": [record.number for record in self.front],
            "reference": None if reference is None else trial_dict(reference),
            "faults": {
                "study": list(self.faults),
                "trials": {str(r.number): r.faults for r in self.records if r.faults},
            },
            "wasted": sum(self.counts[outcome] for outcome in WASTED),
            "reasons": dict(Counter(r.reason for r in self.records if r.reason and r.outcome not in (STOPPED, PAUSED))),
        }


def trial_dict(record: TrialRecord) -> dict[str, Any]:
    """One trial for scripts. Numbers that are not finite become None, so that the result is JSON everywhere."""
    return {
        "trial": record.number,
        "preset": record.preset or None,
        "continues": record.continues,
        "proposed_by": record.proposed_by or None,
        "moved": record.moved or None,
        "asks": record.asks,
        "outcome": record.outcome,
        "reason": record.reason or None,
        "faults": record.faults,
        "traceback": record.traceback or None,
        "parameters": record.values,
        "environment": record.environment or None,
        "measurements": {str(t): {k: finite(v) for k, v in m.items()} for t, m in sorted(record.measurements.items())},
    }
