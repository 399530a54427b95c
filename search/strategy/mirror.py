"""The study in memory that an Optuna sampler sees: the user's trials, in the states that help the sampler most.

A sampler is never asked on the user's own record. It would number trials by itself, write parameters that the rules may
forbid, and know nothing of trials that are paused. So it works on this mirror, which holds one study and is thrown away
when the driver ends. The id of a trial is its number in the user's record.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Container, Mapping, Sequence
from typing import Any, NoReturn

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.strategy.choice import SeenTrial, State

NAME = "mirror"
_STUDY = 0
_STATES = {
    State.RUNNING: TrialState.RUNNING,
    State.PAUSED: TrialState.PRUNED,
    State.FINISHED: TrialState.COMPLETE,
    State.WASTED: TrialState.PRUNED,
    State.FAILED: TrialState.FAIL,
}


class Mirror(BaseStorage):
    """One study, as a storage of Optuna's."""

    def __init__(self, directions: Sequence[str], distributions: Mapping[str, BaseDistribution]):
        """`directions` are "minimize" or "maximize", one for each metric."""
        self.study_attrs: dict[str, Any] = {}  # the system attributes of the study: what samplers remember
        self._directions = [StudyDirection[direction.upper()] for direction in directions]
        self._distributions = distributions
        self._trials: dict[int, FrozenTrial] = {}
        self._user_attrs: dict[str, Any] = {}

    def put(self, seen: SeenTrial) -> None:
        """Show a trial in its current state, in place of what was shown before.

        Rungs are intermediate values if there is one metric; Optuna takes none for several. A trial that was wasted has
        no value at all, so that samplers avoid it.
        """
        there = self._trials.get(seen.number)
        attrs = {**seen.attrs, **(there.system_attrs if there else {})}
        params = {name: seen.values[name] for name in self._distributions if name in seen.values}
        has_rungs = len(self._directions) == 1 and seen.state is not State.WASTED
        deepest = max(seen.measured, default=None)
        self._trials[seen.number] = FrozenTrial(
            number=seen.number,
            trial_id=seen.number,
            state=_STATES[seen.state],
            value=None,
            values=seen.measured[deepest] if seen.state is State.FINISHED and deepest is not None else None,
            datetime_start=None,
            datetime_complete=None,
            params=params,
            distributions={name: self._distributions[name] for name in params},
            user_attrs={},
            system_attrs=attrs,
            intermediate_values={t: v[0] for t, v in sorted(seen.measured.items())} if has_rungs else {},
        )

    def __contains__(self, number: int) -> bool:
        """Whether a trial with this number is shown."""
        return number in self._trials

    def drop(self, number: int) -> None:
        self._trials.pop(number, None)

    @property
    def next_number(self) -> int:
        """The number of the next trial, as in the user's record."""
        return max(self._trials, default=-1) + 1

    def study(self, sampler: optuna.samplers.BaseSampler) -> optuna.Study:
        """The study, for a sampler."""
        return optuna.load_study(study_name=NAME, storage=self, sampler=sampler, pruner=optuna.pruners.NopPruner())

    # Optuna's interface: the study.

    def create_new_study(self, directions: Sequence[StudyDirection], study_name: str | None = None) -> NoReturn:
        raise NotImplementedError("a mirror has one study")

    def delete_study(self, study_id: int) -> NoReturn:
        raise NotImplementedError("a mirror keeps its study")

    def get_study_id_from_name(self, study_name: str) -> int:
        return _STUDY

    def get_study_name_from_id(self, study_id: int) -> str:
        return NAME

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        return list(self._directions)

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        return self._user_attrs

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        return self.study_attrs

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        self._user_attrs[key] = value

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self.study_attrs[key] = _stored(value)

    def get_all_studies(self) -> NoReturn:
        raise NotImplementedError("a mirror has one study")

    # Its trials.

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        number = self.next_number
        self.put(SeenTrial(number, {}, State.RUNNING, {}))
        if template_trial is not None:
            trial = self._trials[number]
            trial.params, trial.distributions = dict(template_trial.params), dict(template_trial.distributions)
            trial.system_attrs = dict(template_trial.system_attrs)
        return number

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        trial = self._trials[trial_id]
        trial.params = {**trial.params, param_name: distribution.to_external_repr(param_value_internal)}
        trial.distributions = {**trial.distributions, param_name: distribution}

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        self._trials[trial_id].state = state
        if values is not None:
            self._trials[trial_id].values = list(values)
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        trial = self._trials[trial_id]
        trial.intermediate_values = {**trial.intermediate_values, step: intermediate_value}

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial = self._trials[trial_id]
        trial.set_user_attr(key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        trial = self._trials[trial_id]
        trial.system_attrs = {**trial.system_attrs, key: _stored(value)}

    def get_trial(self, trial_id: int) -> FrozenTrial:
        if trial_id not in self._trials:
            raise KeyError(f"there is no trial {trial_id}")
        return self._trials[trial_id]

    def get_trial_id_from_study_id_trial_number(self, study_id: int, trial_number: int) -> int:
        return self.get_trial(trial_number).number

    def get_trial_number_from_id(self, trial_id: int) -> int:
        return trial_id

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        found = [t for _, t in sorted(self._trials.items()) if states is None or t.state in states]
        return copy.deepcopy(found) if deepcopy else found


def _stored(value: Any) -> Any:
    """The value as it comes back from the user's record. Raises TypeError for what no record can keep."""
    return json.loads(json.dumps(value))
