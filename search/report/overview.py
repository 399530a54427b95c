"""Rows, sentences and documents about a study, for people and for scripts; nothing here changes a study."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import optuna

from search.report.faults import faults_line
from search.space.grammar import MetricSpec
from search.space.space import SHRUNK
from search.storage.folder import FAULTS
from search.strategy.sampling import MAX_RANDOM_DRAWS
from search.study.record import TrialRecord, best_record, leading_record, pareto_front, records_of
from search.study.settings import Exhausted, StudySettings, exhausted_of, num_trials_of, settled_of
from search.study.study import Study
from search.worker.messages import FAILED, FINISHED, OUTCOMES, RUNNING, WAITING, WASTED
from trainer.checks import counted, printable


@dataclass(frozen=True)
class Overview:
    """What there is to say about a study at one moment, read from its records."""

    name: str
    metrics: tuple[MetricSpec, ...]
    records: list[TrialRecord]  # one for each configuration
    continued: list[TrialRecord]  # had finished before the study was extended, and go on as others
    num_trials: float
    rungs: tuple[int, ...]
    settled: int  # the last rung up to which every trial was decided on
    reference_name: str
    searched: tuple[str, ...]
    parameters: tuple[str, ...] = ()  # all of the space, also those with one value
    faults: tuple[str, ...] = ()  # of the study; each trial has its own
    exhausted: Exhausted | None = None  # where nothing is left to start: `num_trials` is then what there is
    has_guide: bool = False

    @classmethod
    def of(cls, study: Study) -> Overview:
        """Of a study that this process is running."""
        records = list(study.records.values())
        return cls._build(
            study.stored, study.settings, records, study.num_expected, study.reference_name, study.exhausted
        )

    @classmethod
    def stored(cls, study: optuna.Study, *, is_run: bool) -> Overview:
        """Of a study as its storage has it; `is_run` tells whether a driver is running it now.

        Where none is, trials that a killed driver left under way are waiting to be continued.
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
            faults=tuple(stored.user_attrs.get(FAULTS, ())),
        )

    @property
    def counts(self) -> Counter[str]:
        return Counter(record.outcome for record in self.records)

    @property
    def metric(self) -> str:
        """The first metric, by which trials are listed."""
        return self.metrics[0].name

    @property
    def maximize(self) -> bool:
        return self.metrics[0].goal == "maximize"

    @property
    def best(self) -> TrialRecord | None:
        """The best finished trial by the first metric; of equals with several metrics, the one on the front."""
        if len(self.metrics) > 1:
            return next(iter(self.front), None)
        return best_record([*self.records, *self.continued], self.metric, maximize=self.maximize)

    @property
    def leading(self) -> TrialRecord | None:
        """An unfinished trial that has shown a better value of the first metric than any finished one; mostly None."""
        leading = leading_record([*self.continued, *self.records], self.metric, maximize=self.maximize)
        return None if leading is None or leading.outcome == FINISHED else leading

    @property
    def front(self) -> list[TrialRecord]:
        """The finished trials that no other beats in all metrics; the best by the first metric stands first."""
        return pareto_front([*self.records, *self.continued], self.metrics)

    @property
    def reference(self) -> TrialRecord | None:
        """The trial of the guide's own configuration."""
        return next((r for r in self.records if r.preset and r.preset == self.reference_name), None)

    @property
    def whose(self) -> str:
        """Whose the presets are, in words."""
        return "the guide's" if self.has_guide else "your"

    def named(self, preset: str) -> str:
        """A preset in a sentence: `the guide's 'tiny'`."""
        return f"the {SHRUNK}" if preset == SHRUNK else f"{self.whose} {preset!r}"

    @property
    def num_others_finished(self) -> int:
        """How many trials have finished beside the reference's: without any, nothing can be said of it."""
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
            "reasons": dict(Counter(r.reason for r in self.records if r.reason and r.outcome not in ("stopped",))),
        }


def trial_dict(record: TrialRecord) -> dict[str, Any]:
    """One trial for scripts. Numbers that are not finite become None, so that the result is JSON everywhere."""
    return {
        "trial": record.number,
        "preset": record.preset or None,
        "continues": record.continues,
        "outcome": record.outcome,
        "reason": record.reason or None,
        "faults": record.faults,
        "traceback": record.traceback or None,
        "parameters": record.values,
        "environment": record.environment or None,
        "measurements": {str(t): {k: finite(v) for k, v in m.items()} for t, m in sorted(record.measurements.items())},
    }


def counts_line(counts: Mapping[str, int], num_trials: float) -> str:
    """`7 of 24 trials: 2 finished, 3 stopped, 2 running`; without the `of 24` where no number was asked for."""
    parts = [f"{counts[outcome]} {outcome}" for outcome in OUTCOMES if counts.get(outcome)]
    num_started = sum(counts.values())
    if num_started <= num_trials < math.inf:
        told = f"{num_started} of {counted(num_trials, 'trial')}"
    else:
        told = counted(num_started, "trial")
    return told + (f": {', '.join(parts)}" if parts else "")


def wasted_line(records: Iterable[TrialRecord]) -> str:
    """`wasted: 4 of 24 trials (17 %): 3 diverged, 1 out of memory; 3 in the first half, 1 in the second`.

    Empty where nothing was wasted. The halves go by the order in which trials were launched.
    """
    outcomes = [record.outcome for record in sorted(records, key=lambda record: record.number)]
    first, second = (
        sum(outcome in WASTED for outcome in half)
        for half in (outcomes[: len(outcomes) // 2], outcomes[len(outcomes) // 2 :])
    )
    if not first + second:
        return ""
    parts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in WASTED if outcome in outcomes)
    total = f"{first + second} of {counted(len(outcomes), 'trial')} ({(first + second) / len(outcomes) * 100:.0f} %)"
    return f"wasted: {total}: {parts}; {first} in the first half, {second} in the second"


def side_lines(overview: Overview) -> list[str]:
    """What there is to say beside counts and comparison: who is ahead, what was wasted, what broke, why it ended."""
    lines = (
        leading_line(overview),
        wasted_line(overview.records),
        faults_line(overview.records, overview.faults),
        exhausted_line(overview),
    )
    return [line for line in lines if line]


def exhausted_line(overview: Overview) -> str:
    """That the space has no other configuration, and what to do then; empty where it has."""
    if overview.exhausted is None:
        return ""
    number = overview.exhausted.configurations
    done = "started"
    if overview.is_complete:
        done = "tried" if any(overview.counts[outcome] for outcome in (*WASTED, FAILED)) else "trained"
    known = f"all {number:,} configurations that may be launched have been {done}"
    if number == 1:
        known = f"the only configuration that may be launched has been {done}"
    if not overview.exhausted.is_exact:
        known = f"{number:,} configurations have been {done}, and {MAX_RANDOM_DRAWS:,} random draws gave no other"
    return f"{known}: widen the space for others, or train the best with other seeds: tinysearch confirm"


def leading_line(overview: Overview) -> str:
    """The unfinished trial that is ahead of the best finished one, which it may become; empty where there is none."""
    leading = overview.leading
    if leading is None:
        return ""
    value, end = metric_text(overview.metric, leading.measured(overview.metric)), tokens_text(overview.rungs[-1])
    where = f"after {tokens_text(leading.rung)} of {end} tokens"
    trial = f"trial {leading.number}{_preset(overview, leading)}"
    return f"ahead, but {leading.outcome}: {trial}, {overview.metric} {value} {where}"


def comparison_line(overview: Overview) -> str:
    """The best finished trial beside the guide's own configuration, at the same number of training tokens."""
    best, reference = overview.best, overview.reference
    if best is None:
        return "no trial has finished its budget yet"
    if len(overview.metrics) > 1:
        return _front_line(overview)
    value = best.measured(overview.metric)
    assert value is not None  # since it is the best
    trial = f"trial {best.number}{_preset(overview, best)}"
    line = f"best: {trial}, {overview.metric} {value:.4g} after {tokens_text(best.rung)} tokens"
    if reference is None:
        return line
    theirs = reference.measured(overview.metric, best.rung)
    if not is_number(theirs):
        there = "did not get there" if reference.has_ended else "is not there yet"
        return f"{line}; {overview.named(reference.preset)} {there} ({reference.outcome})"
    if best is reference:
        if not overview.num_others_finished:
            return f"{line}; no other trial has finished{'' if overview.is_complete else ' yet'}"
        return (
            f"{line}; nothing found beats {overview.whose} {'own configuration' if overview.has_guide else 'reference'}"
        )
    change = (value - theirs) / abs(theirs) if theirs else 0.0
    return f"{line}; {overview.named(reference.preset)} has {theirs:.4g} ({change:+.1%})"


def _front_line(overview: Overview) -> str:
    """How many trials the front has, the best by each metric, and how many beat the guide's own configuration."""
    front, reference = overview.front, overview.reference
    names = " and ".join(metric.name for metric in overview.metrics)
    line = f"front of {names}: {len(front)} of {counted(overview.counts[FINISHED], 'finished trial')}"
    for metric in overview.metrics:
        end = min(front, key=lambda record: record.signed([metric]), default=None)
        if end is not None:
            value = metric_text(metric.name, end.measured(metric.name))
            line += f"; best {metric.name}: trial {end.number}{_preset(overview, end)}, {value}"
    if reference is None or reference.outcome != FINISHED or not overview.num_others_finished:
        return line
    if reference in front:
        return f"{line}; {overview.named(reference.preset)} is on it"
    theirs = reference.signed(overview.metrics)
    num_better = sum(
        all(a <= b for a, b in zip(record.signed(overview.metrics), theirs, strict=True)) for record in front
    )
    beat = "beats" if num_better == 1 else "beat"
    return f"{line}; {num_better} of it {beat} {overview.named(reference.preset)} in all"


def metric_text(name: str, value: float | None) -> str:
    """A measurement for a table: memory and counts in their units, losses to four digits after the point."""
    if not is_number(value):
        return "-" if value is None else "nan"
    if name == "num_params":
        return tokens_text(value)
    if name == "peak_vram_bytes":
        return bytes_text(value)
    if name in ("loss", "bits_per_byte"):
        return f"{value:.4f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def tokens_text(count: float | None) -> str:
    """A count in the units of a space file: `64K`, `1.73M`."""
    if count is None:
        return "-"
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


def bytes_text(count: float | None) -> str:
    if count is None:
        return "-"
    for size, unit in ((2**30, "GiB"), (2**20, "MiB")):
        if count >= size * 1000 / 1024:  # never four digits
            return f"{count / size:.3g} {unit}"
    return f"{count / 1024:.3g} KiB"


def seconds_text(seconds: float) -> str:
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


def value_text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else printable(str(value))


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _preset(overview: Overview, record: TrialRecord) -> str:
    return f" ({overview.named(record.preset)})" if record.preset else ""
