"""A study's trials as Optuna keeps them: what is written of each, and in which order.

In a journal file a whole step of the controller is one write. In a database each attribute is one, and a driver may be
killed between two. So what decides is an attribute of its own: a trial's `outcome`, and its deepest `rung`. Whatever
else a step writes follows from these, and is written again where it is missing.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from search.space.spec import MetricSpec
from search.storage.journal import Journal
from search.storage.optuna_private import backend_of, storage_of, study_id_of, trial_id_of
from search.study.record import STATE_OF, TrialRecord
from search.worker.messages import FINISHED

HEADLINES = ("loss", "bits_per_byte", "tokens_per_second", "peak_vram_bytes", "num_params", "train_seconds")


def one_step(storage: optuna.storages.BaseStorage) -> contextlib.AbstractContextManager[None]:
    """A block whose whole record reaches a journal file in one write."""
    backend = backend_of(storage)
    return backend.transaction() if isinstance(backend, Journal) else contextlib.nullcontext()


class Recorder:
    """Writes the trials of one study; a trial is known by its number."""

    def __init__(
        self, study: optuna.Study, metrics: Sequence[MetricSpec], distributions: Mapping[str, BaseDistribution]
    ):
        self._study, self._storage = study, storage_of(study)
        self._metrics, self._distributions = metrics, distributions
        self._under_way: dict[int, optuna.Trial] = {}

    def trial(self, number: int) -> optuna.Trial:
        """Optuna's trial, which is under way from now on if it was waiting."""
        if number not in self._under_way:
            trial_id = self._id(number)
            if self._storage.get_trial(trial_id).state == TrialState.WAITING:
                self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            self._under_way[number] = optuna.Trial(self._study, trial_id)
        return self._under_way[number]

    def start(self, values: Mapping[str, Any], *, preset: str = "") -> TrialRecord:
        """A new trial, under way."""
        return self._create({"values": values, **({"preset": preset} if preset else {})}, {})

    def start_from(self, before: TrialRecord) -> TrialRecord:
        """A new trial that goes on from one that had finished, with all that was measured: Optuna opens none again."""
        last = before.measurements[before.rung]
        attrs = {
            "values": before.values,
            "continues": before.number,
            **({"preset": before.preset} if before.preset else {}),
        }
        attrs |= {f"rung {tokens}": measured for tokens, measured in before.measurements.items()}
        attrs |= {name: last[name] for name in HEADLINES if name in last}
        has_values = len(self._metrics) == 1
        return self._create(attrs, {rung: self._value(before, rung) for rung in before.measurements if has_values})

    def resume(self, number: int, *, was_paused: bool) -> None:
        """A waiting trial is under way again."""
        trial = self.trial(number)
        if was_paused:
            trial.set_user_attr("paused", False)

    def write_rung(self, record: TrialRecord) -> None:
        """Write the deepest rung's measurement; all but its own attribute can be written again from that."""
        trial = self.trial(record.number)
        if record.environment and record.environment != trial.user_attrs.get("environment"):
            trial.set_user_attr("environment", record.environment)
        trial.set_user_attr(f"rung {record.rung}", record.measurements[record.rung])
        self.repeat_rung(record)

    def repeat_rung(self, record: TrialRecord) -> None:
        """What Optuna's own readers look for of the deepest rung."""
        trial, last = self.trial(record.number), record.measurements[record.rung]
        before = record.measurements[
            max((rung for rung in record.measurements if rung < record.rung), default=record.rung)
        ]
        for name in HEADLINES:
            if name in last and (before is last or name not in before or last[name] != before[name]):
                trial.set_user_attr(name, last[name])
        if len(self._metrics) == 1:  # Optuna has no intermediate values of several
            value = self._value(record, record.rung)
            self._storage.set_trial_intermediate_value(trial_id_of(trial), record.rung, value)

    def will_pause(self, record: TrialRecord, tokens: int) -> None:
        """Say that a trial pauses at a rung, before the rung is written: whoever has the rung has the decision too."""
        self.trial(record.number).set_user_attr("paused", tokens)

    def will_not_pause(self, number: int) -> None:
        """Take `will_pause` back: the driver was killed before it wrote the rung."""
        self._storage.set_trial_user_attr(self._id(number), "paused", False)

    def wait(self, number: int) -> None:
        """The trial waits, paused or interrupted."""
        self._under_way.pop(number, None)
        self._storage.set_trial_state_values(self._id(number), TrialState.WAITING)

    def note(self, number: int, **attributes: Any) -> None:
        """Attributes of a trial that has not ended, whether it is under way or waits."""
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(self._id(number), name, value)

    def end(self, record: TrialRecord, violations: Mapping[str, float]) -> None:
        """Tell Optuna how a trial ended, and which limits it broke by how much."""
        trial = self.trial(record.number)
        if record.reason or "reason" in trial.user_attrs:
            trial.set_user_attr("reason", record.reason)
        trial.set_user_attr("outcome", record.outcome)  # decides: what is missing after it is written again
        if violations:
            self._constrain(trial, violations)
        values = [_final(record, metric) for metric in self._metrics] if record.outcome == FINISHED else None
        self._study.tell(trial, values, state=STATE_OF[record.outcome])
        del self._under_way[record.number]

    def abandon(self, frozen: FrozenTrial) -> None:
        """End a trial that is none of the search's."""
        self.note(frozen.number, reason="not a trial of this search: it has no configuration")
        self._storage.set_trial_state_values(trial_id_of(frozen), TrialState.FAIL)

    def _create(self, attrs: dict[str, Any], values: Mapping[int, float]) -> TrialRecord:
        """A trial under way, in one write; parameters whose condition does not hold are not in its record."""
        chosen = {name: attrs["values"][name] for name in self._distributions if name in attrs["values"]}
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=chosen,
            distributions={name: self._distributions[name] for name in chosen},
            user_attrs=attrs,
            intermediate_values=dict(values),
        )
        trial_id = self._storage.create_new_trial(study_id_of(self._study), template_trial=template)
        record = TrialRecord.of(self._storage.get_trial(trial_id))
        assert record is not None
        self._under_way[record.number] = optuna.Trial(self._study, trial_id)
        return record

    def _constrain(self, trial: optuna.Trial, violations: Mapping[str, float]) -> None:
        """Teach violations (above 0: infeasible) to Optuna 5, and to dashboards, which read Optuna 4's attribute."""
        known = self._storage.get_trial(trial_id_of(trial)).constraints
        for name, violation in violations.items():
            if name not in known:
                trial.set_constraint(name, violation)
        self._storage.set_trial_system_attr(trial_id_of(trial), "constraints", list(violations.values()))

    def _value(self, record: TrialRecord, tokens: int) -> float:
        value = record.measured(self._metrics[0].name, tokens)
        return math.nan if value is None else float(value)

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(study_id_of(self._study), number)


def _final(record: TrialRecord, metric: MetricSpec) -> float:
    value = record.measured(metric.name)
    assert value is not None, f"trial {record.number} has finished without {metric.name}"
    return value
