"""Writes a study's trials to Optuna: what is written of each, and in which order.

In a journal file a whole step of the controller is one write. In a database each attribute is a write, and a driver may
be killed between two. So single attributes decide: a trial's `outcome`, and its deepest `rung`. Everything else that a
step writes follows from these, and is written again if it is missing.
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
from search.strategy.choice import Origin
from search.study.record import STATE_OF, TrialRecord
from search.worker.messages import FINISHED

HEADLINES = ("loss", "bits_per_byte", "tokens_per_second", "peak_vram_bytes", "num_params", "train_seconds")


def one_step(storage: optuna.storages.BaseStorage) -> contextlib.AbstractContextManager[None]:
    """A block whose records reach a journal file in one write."""
    backend = backend_of(storage)
    return backend.transaction() if isinstance(backend, Journal) else contextlib.nullcontext()


class Recorder:
    """Writes the trials of one study; a trial is identified by its number."""

    def __init__(
        self, study: optuna.Study, metrics: Sequence[MetricSpec], distributions: Mapping[str, BaseDistribution]
    ):
        self._study, self._storage = study, storage_of(study)
        self._metrics, self._distributions = metrics, distributions
        self._running: dict[int, optuna.Trial] = {}

    def trial(self, number: int) -> optuna.Trial:
        """Optuna's trial, set running if it was waiting."""
        if number not in self._running:
            trial_id = self._id(number)
            if self._storage.get_trial(trial_id).state == TrialState.WAITING:
                self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            self._running[number] = optuna.Trial(self._study, trial_id)
        return self._running[number]

    def start(self, values: Mapping[str, Any], origin: Origin, *, preset: str = "") -> TrialRecord:
        """A new running trial, with who proposed it and what the sampler remembers of it, in one write."""
        attrs: dict[str, Any] = {"values": values, **({"preset": preset} if preset else {}), "proposed_by": origin.by}
        attrs |= {"proposal_moved": origin.moved} if origin.moved else {}
        attrs |= {"proposal_asks": origin.asks} if origin.asks > 1 else {}
        return self._create(attrs, {}, origin.attrs)

    def start_from(self, before: TrialRecord) -> TrialRecord:
        """A new trial that continues one that had finished, with all measurements: Optuna cannot reopen a trial."""
        last = before.measurements[before.rung]
        attrs = {
            "values": before.values,
            "continues": before.number,
            **({"preset": before.preset} if before.preset else {}),
            **({"proposed_by": before.proposed_by} if before.proposed_by else {}),
        }
        attrs |= {f"rung {tokens}": measured for tokens, measured in before.measurements.items()}
        attrs |= {name: last[name] for name in HEADLINES if name in last}
        has_values = len(self._metrics) == 1
        shown = {rung: self._value(before, rung) for rung in before.measurements if has_values}
        return self._create(attrs, shown, before.sampler_attrs)

    def resume(self, number: int, *, was_paused: bool) -> None:
        """Set a waiting trial running again."""
        trial = self.trial(number)
        if was_paused:
            trial.set_user_attr("paused", False)
            if trial.user_attrs.get("reason"):
                trial.set_user_attr("reason", "")

    def write_rung(self, record: TrialRecord) -> None:
        """Write the deepest rung's measurement; everything but this attribute can be written again from it."""
        trial = self.trial(record.number)
        if record.environment and record.environment != trial.user_attrs.get("environment"):
            trial.set_user_attr("environment", record.environment)
        trial.set_user_attr(f"rung {record.rung}", record.measurements[record.rung])
        self.repeat_rung(record)

    def repeat_rung(self, record: TrialRecord) -> None:
        """Write what Optuna's own readers expect of the deepest rung."""
        trial, last = self.trial(record.number), record.measurements[record.rung]
        before = record.measurements[
            max((rung for rung in record.measurements if rung < record.rung), default=record.rung)
        ]
        for name in HEADLINES:
            if name in last and (before is last or name not in before or last[name] != before[name]):
                trial.set_user_attr(name, last[name])
        if len(self._metrics) == 1:  # with several metrics Optuna has no intermediate values
            value = self._value(record, record.rung)
            self._storage.set_trial_intermediate_value(trial_id_of(trial), record.rung, value)

    def will_pause(self, record: TrialRecord, tokens: int) -> None:
        """Note that a trial pauses at a rung, and why, before the rung is written: so a stored rung always has its
        decision.
        """
        trial = self.trial(record.number)
        if record.reason:
            trial.set_user_attr("reason", record.reason)
        trial.set_user_attr("paused", tokens)

    def will_stop(self, record: TrialRecord, tokens: int) -> None:
        """As `will_pause`, for a trial that ends at a rung before the last."""
        trial = self.trial(record.number)
        trial.set_user_attr("reason", record.reason)
        trial.set_user_attr("stopping", tokens)

    def wait(self, number: int) -> None:
        """Set the trial waiting: paused or interrupted."""
        self._running.pop(number, None)
        self._storage.set_trial_state_values(self._id(number), TrialState.WAITING)

    def note(self, number: int, **attributes: Any) -> None:
        """Set attributes of a trial that has not ended, running or waiting."""
        for name, value in attributes.items():
            self._storage.set_trial_user_attr(self._id(number), name, value)

    def end(self, record: TrialRecord, violations: Mapping[str, float]) -> None:
        """Set how a trial ended, and which limits it broke by how much."""
        trial = self.trial(record.number)
        if record.reason or "reason" in trial.user_attrs:
            trial.set_user_attr("reason", record.reason)
        trial.set_user_attr("outcome", record.outcome)  # decides: anything missing after it is written again
        if violations:
            self._constrain(trial, violations)
        values = [_final(record, metric) for metric in self._metrics] if record.outcome == FINISHED else None
        self._study.tell(trial, values, state=STATE_OF[record.outcome])
        del self._running[record.number]

    def abandon(self, frozen: FrozenTrial) -> None:
        """End a trial that does not belong to the search."""
        self.note(frozen.number, reason="not a trial of this search: it has no configuration")
        self._storage.set_trial_state_values(trial_id_of(frozen), TrialState.FAIL)

    def _create(
        self, attrs: dict[str, Any], values: Mapping[int, float], system_attrs: Mapping[str, Any]
    ) -> TrialRecord:
        """A running trial, in one write. Parameters whose condition does not hold are not in its record."""
        chosen = {name: attrs["values"][name] for name in self._distributions if name in attrs["values"]}
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=chosen,
            distributions={name: self._distributions[name] for name in chosen},
            user_attrs=attrs,
            system_attrs=dict(system_attrs),
            intermediate_values=dict(values),
        )
        trial_id = self._storage.create_new_trial(study_id_of(self._study), template_trial=template)
        record = TrialRecord.of(self._storage.get_trial(trial_id))
        assert record is not None
        self._running[record.number] = optuna.Trial(self._study, trial_id)
        return record

    def _constrain(self, trial: optuna.Trial, violations: Mapping[str, float]) -> None:
        """Write violations (above 0: infeasible) for Optuna 5, and for dashboards, which read Optuna 4's attribute."""
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
