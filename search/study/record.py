"""What a study says of each trial, read from its Optuna record. The controller and the reports share this reading."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from search.space.spec import MetricSpec
from search.storage.folder import StudyError
from search.strategy.pareto import undominated
from search.worker.messages import (
    DIVERGED,
    FAILED,
    FINISHED,
    INFEASIBLE,
    NOT_FAILED,
    OUT_OF_MEMORY,
    OUTCOMES,
    PAUSED,
    RUNNING,
    STOPPED,
    WAITING,
)

WHOLE = 2**63  # larger counts are refused: arithmetic with floats would fail
SCALARS: frozenset[type] = frozenset((bool, int, float, str))
MEASURED: frozenset[type] = frozenset((bool, int, float, type(None)))
_RUNG = re.compile("rung [1-9][0-9]{0,17}")

ATTRIBUTES: dict[str, tuple[type, str]] = {
    "values": (dict, "a mapping"),
    "outcome": (str, "text"),
    "reason": (str, "text"),
    "preset": (str, "text"),
    "traceback": (str, "text"),
    "environment": (dict, "a mapping"),
    "tokens": (int, "a whole number"),
    "continues": (int, "a trial's number"),
    "faults": (list, "a list"),
    "proposed_by": (str, "text"),
    "proposal_moved": (str, "text"),
    "proposal_asks": (int, "a whole number"),
    "stopping": (int, "a token count"),
}
"""The attributes of a trial in its Optuna record, besides `rung N`."""

OWN_ATTRS = ("constraints", "fixed_params", "tinysearch:token")
"""System attributes of a trial that no sampler wrote."""

STATE_OF = {
    FINISHED: TrialState.COMPLETE,
    STOPPED: TrialState.PRUNED,
    INFEASIBLE: TrialState.PRUNED,
    OUT_OF_MEMORY: TrialState.PRUNED,
    DIVERGED: TrialState.PRUNED,
    FAILED: TrialState.FAIL,
}
"""The Optuna state for each way in which a trial ends."""


@dataclass
class TrialRecord:
    """One trial: its configuration, its measurements at the rungs (token count -> name -> value), and how it ended."""

    number: int
    values: dict[str, Any]
    outcome: str = RUNNING
    reason: str = ""
    preset: str = ""
    measurements: dict[int, dict[str, Any]] = field(default_factory=dict)
    tokens: int = 0  # trained so far, also between rungs
    tokens_per_second: float | None = None  # of the latest report
    traceback: str = ""
    faults: list[str] = field(default_factory=list)  # what went wrong on the way, see search/worker/faults.py
    environment: dict[str, Any] = field(default_factory=dict)  # of the worker that reported last
    continues: int | None = None  # the trial with a smaller budget whose training this one continues
    proposed_by: str = ""  # a sampler, or `preset`; empty in studies from before this was kept
    moved: str = ""  # how the sampler's proposal was changed; empty if it was not
    asks: int = 1  # how often the sampler was asked
    sampler_attrs: dict[str, Any] = field(default_factory=dict)  # what the sampler wrote, by Optuna's own keys

    @property
    def has_ended(self) -> bool:
        return self.outcome not in (PAUSED, WAITING, RUNNING)

    @property
    def rung(self) -> int:
        """The deepest rung measured, in tokens; 0 before the first."""
        return max(self.measurements, default=0)

    def measured(self, name: str, rung: int | None = None) -> float | None:
        """A measurement at a rung (default: the deepest); None if it was not taken."""
        return self.measurements.get(self.rung if rung is None else rung, {}).get(name)

    def signed(self, metrics: Sequence[MetricSpec], rung: int | None = None) -> tuple[float, ...]:
        """The metrics at a rung (default: the deepest), signed so that less is better; NaN if one was not taken."""
        return tuple(metric.signed(self.measured(metric.name, rung)) for metric in metrics)

    @classmethod
    def of(cls, trial: FrozenTrial) -> TrialRecord | None:
        """The record of an Optuna trial, or None if the driver died before the configuration was complete.

        Raises StudyError if the record says something impossible.
        """
        attrs = trial.user_attrs
        if "values" not in attrs:
            return None
        if faults := list(_faults(attrs)):
            raise StudyError(f"trial {trial.number}: {faults[0]}")
        measurements = {
            int(key.removeprefix("rung ")): value for key, value in attrs.items() if key.startswith("rung ")
        }
        if trial.state.is_finished():
            outcome = attrs.get("outcome", FINISHED if trial.state == TrialState.COMPLETE else FAILED)
        else:
            outcome = WAITING if trial.state == TrialState.WAITING else RUNNING
            if outcome == WAITING and attrs.get("paused"):
                outcome = PAUSED
        record = cls(
            number=trial.number,
            values=attrs["values"],
            outcome=outcome,
            reason=attrs.get("reason", ""),
            preset=attrs.get("preset", ""),
            measurements=measurements,
            traceback=attrs.get("traceback", ""),
            faults=list(attrs.get("faults", ())),
            environment=attrs.get("environment", {}),
            continues=attrs.get("continues"),
            proposed_by=attrs.get("proposed_by", ""),
            moved=attrs.get("proposal_moved", ""),
            asks=attrs.get("proposal_asks", 1),
            sampler_attrs={name: value for name, value in trial.system_attrs.items() if name not in OWN_ATTRS},
        )
        record.tokens = max(record.rung, attrs.get("tokens", 0))
        record.tokens_per_second = record.measured("tokens_per_second")
        return record


def _faults(attrs: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the attributes of a trial."""
    for name, (kind, expected) in ATTRIBUTES.items():
        if name in attrs and not isinstance(attrs[name], kind):
            yield f"its attribute {name!r} is {attrs[name]!r:.60}, not {expected}"
    if attrs.get("outcome", FINISHED) not in OUTCOMES:
        yield f"its attribute 'outcome' is {attrs['outcome']!r:.60}; known are {', '.join(OUTCOMES)}"
    for name, value in attrs.items():
        if name in ("values", "environment") and isinstance(value, dict) and not _are_plain(value, SCALARS):
            yield f"its attribute {name!r} holds more than numbers, words and truths"
        if name.startswith("rung "):
            if _RUNG.fullmatch(name) is None:
                yield f"its attribute {name[:60]!r} names no token count"
            elif not isinstance(value, dict) or not _are_plain(value, MEASURED):
                yield f"its attribute {name!r} is {value!r:.60}, not a mapping of numbers"


def _are_plain(values: Mapping[str, Any], kinds: frozenset[type]) -> bool:
    """Whether all values are of these kinds, whole numbers fit into a float, and scalars are finite."""
    for value in values.values():
        kind = type(value)
        if kind not in kinds or kind is int and not -WHOLE <= value <= WHOLE:
            return False
        if kind is float and kinds is SCALARS and not math.isfinite(value):
            return False
    return True


def records_of(study: optuna.Study) -> Iterator[tuple[FrozenTrial, TrialRecord | None]]:
    """Each trial of a stored study and its record. Raises StudyError, naming the study, if one is damaged."""
    for trial in study.get_trials(deepcopy=False):
        try:
            yield trial, TrialRecord.of(trial)
        except StudyError as error:
            raise StudyError(f"the study {study.study_name} is damaged: {error}") from None


def fully_trained(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """The trials that finished; if the budget has grown since, only those that trained the furthest."""
    finished = [record for record in records if record.outcome == FINISHED]
    furthest = max((record.rung for record in finished), default=0)
    return [record for record in finished if record.rung == furthest]


def best_record(records: Iterable[TrialRecord], metric: str, *, maximize: bool = False) -> TrialRecord | None:
    """The best trial that finished its whole budget; None if none finished."""
    finished = [(value, r) for r in fully_trained(records) if _is_number(value := r.measured(metric))]
    return min(finished, key=lambda one: -one[0] if maximize else one[0], default=(math.nan, None))[1]


def pareto_front(records: Iterable[TrialRecord], metrics: Sequence[MetricSpec]) -> list[TrialRecord]:
    """The trials that finished their whole budget and are not beaten in all metrics; the best by the first metric
    first.

    Trials that broke a limit, or have no finite value of a metric, are left out.
    """
    finished = [r for r in fully_trained(records) if all(map(math.isfinite, r.signed(metrics)))]
    is_on_it = undominated(np.array([record.signed(metrics) for record in finished]))
    front = [record for record, on_it in zip(finished, is_on_it, strict=True) if on_it]
    return sorted(front, key=lambda record: (record.signed(metrics), record.number))


def leading_record(records: Iterable[TrialRecord], metric: str, *, maximize: bool = False) -> TrialRecord | None:
    """The trial with the best value so far, finished or not, among those that broke no limit and did not fail; or None.

    It is the one to train to its end if the search must end now. The result of a search is `best_record`.
    """
    candidates = [r for r in records if r.outcome in NOT_FAILED]
    measured = [(value, r) for r in candidates if _is_number(value := r.measured(metric))]
    sign = -1 if maximize else 1
    return min(measured, key=lambda one: (sign * one[0], one[1].number), default=(math.nan, None))[1]


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and math.isfinite(value)
