"""Replays the entries of an Optuna journal into fewer ones: each study, each of its attributes, and each trial once.

Optuna applies an entry by copying the trial that it changes, which takes seconds for the quarter of a million entries
of ten thousand trials. Here an entry changes a plain mapping, the entry that created its trial, and Optuna reads only
that. Optuna skips entries that make no sense; here they are refused, because they mean that other entries are missing.

If the journal has an operation of a newer Optuna, which this file does not know, UnknownOperation is raised and Optuna
reads the journal itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from typing import Any

from optuna.study import StudyDirection
from optuna.trial import TrialState

from search.storage.optuna_private import JournalOperation, known_distribution

Entry = dict[str, Any]

STATES = {state.value: state for state in TrialState}
MAPPINGS = ("params", "distributions", "user_attrs", "system_attrs", "intermediate_values")  # of a trial


class UnknownOperation(Exception):
    """An entry has an operation that this Optuna knows and Replay does not."""


class Replay:
    """Takes a journal's entries in order; `entries` is the shorter equivalent, in the journal's own format."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._names: dict[int, str | None] = {}  # of studies; None: deleted
        self._attributes: dict[tuple[int, str, str], Entry] = {}  # the entry of each attribute of a study
        self._num_trials = 0
        self._open: dict[int, Entry] = {}  # trials that have not ended
        self._takers: dict[int, Callable[[Entry], None]] = {
            JournalOperation.CREATE_STUDY: self._create_study,
            JournalOperation.DELETE_STUDY: self._delete_study,
            JournalOperation.SET_STUDY_USER_ATTR: functools.partial(self._set_study_attribute, kind="user_attr"),
            JournalOperation.SET_STUDY_SYSTEM_ATTR: functools.partial(self._set_study_attribute, kind="system_attr"),
            JournalOperation.CREATE_TRIAL: self._create_trial,
            JournalOperation.SET_TRIAL_PARAM: self._set_param,
            JournalOperation.SET_TRIAL_STATE_VALUES: self._set_state,
            JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE: self._set_intermediate_value,
            JournalOperation.SET_TRIAL_USER_ATTR: self._set_user_attribute,
            JournalOperation.SET_TRIAL_SYSTEM_ATTR: self._set_system_attribute,
            JournalOperation.DISCARD_TRIALS: self._pass_over,
        }

    def take(self, entry: Entry) -> None:
        """Apply an entry. Raises ValueError, naming the fault, for one that no Optuna writes, and UnknownOperation."""
        try:
            taker = self._takers.get(entry["op_code"])
            if taker is not None:
                taker(entry)
            elif entry["op_code"] in set(JournalOperation):
                raise UnknownOperation
            else:
                raise ValueError(f"there is no operation {entry['op_code']!r:.60}")
        except KeyError as error:
            raise ValueError(f"no {error}") from None
        except (TypeError, AttributeError, ArithmeticError) as error:
            raise ValueError(str(error)) from None

    def _pass_over(self, entry: Entry) -> None:
        """Skip the entry, as Optuna does: another program writes DISCARD_TRIALS for its own readers."""

    # Studies.

    def _create_study(self, entry: Entry) -> None:
        name, directions = entry["study_name"], [StudyDirection(d) for d in entry["directions"]]
        if not isinstance(name, str) or not directions:
            raise ValueError("a study has a name and directions")
        if name not in self._names.values():  # otherwise it was the second, and its writer got an error
            self._names[len(self._names)] = name
            self.entries.append(entry)

    def _delete_study(self, entry: Entry) -> None:
        if self._is_there(entry):
            self._names[entry["study_id"]] = None
            self.entries.append(entry)

    def _set_study_attribute(self, entry: Entry, kind: str) -> None:
        [name] = entry[kind].keys()
        if self._is_there(entry):
            known = self._attributes.setdefault((entry["study_id"], kind, name), entry)
            if known is entry:
                self.entries.append(entry)
            known[kind] = entry[kind]

    def _is_there(self, entry: Entry) -> bool:
        return self._names[entry["study_id"]] is not None

    # Trials. An entry after a trial's end was too late, and its writer got an error.

    def _create_trial(self, entry: Entry) -> None:
        if not self._is_there(entry):
            return
        trial = {"state": TrialState.RUNNING.value, **entry}
        for name in MAPPINGS:
            trial[name] = {**entry.get(name, {})}
        if trial["params"].keys() != trial["distributions"].keys():
            raise ValueError("its parameters and its distributions differ")
        for name, value in trial["params"].items():
            _check_param(trial["distributions"][name], value)
        if trial["datetime_start"] is not None:
            datetime.fromisoformat(trial["datetime_start"])
        if "datetime_complete" in trial:
            datetime.fromisoformat(trial["datetime_complete"])
        if not STATES[trial["state"]].is_finished():
            self._open[self._num_trials] = trial
        self._num_trials += 1
        self.entries.append(trial)

    def _set_param(self, entry: Entry) -> None:
        name, value, distribution = entry["param_name"], entry["param_value_internal"], entry["distribution"]
        _check_param(distribution, value)
        if (trial := self._open_trial(entry)) is not None:
            trial["params"][name], trial["distributions"][name] = value, distribution

    def _set_user_attribute(self, entry: Entry) -> None:
        [(name, value)] = entry["user_attr"].items()
        if (trial := self._open_trial(entry)) is not None:
            trial["user_attrs"][name] = value

    def _set_system_attribute(self, entry: Entry) -> None:
        [(name, value)] = entry["system_attr"].items()
        if (trial := self._open_trial(entry)) is not None:
            trial["system_attrs"][name] = value

    def _set_intermediate_value(self, entry: Entry) -> None:
        if (trial := self._open_trial(entry)) is not None:
            trial["intermediate_values"][int(entry["step"])] = entry["intermediate_value"] + 0.0

    def _set_state(self, entry: Entry) -> None:
        state, values = STATES[entry["state"]], entry["values"]
        trial = self._open_trial(entry)
        if trial is None or trial["state"] == state == TrialState.RUNNING:  # another process runs it already
            return
        trial["state"] = state.value
        if values is not None:
            trial["value"], trial["values"] = None, [value + 0.0 for value in values]
        if state.is_finished():
            del self._open[entry["trial_id"]]
        if state != TrialState.WAITING:
            name = "datetime_complete" if state.is_finished() else "datetime_start"
            datetime.fromisoformat(entry[name])
            trial[name] = entry[name]

    def _open_trial(self, entry: Entry) -> Entry | None:
        number = entry["trial_id"]
        trial = self._open.get(number)
        if trial is None and not 0 <= number < self._num_trials:
            raise ValueError(f"there is no trial {number}")
        return trial


def _check_param(distribution: str, value: float) -> None:
    known_distribution(distribution).to_external_repr(value)
