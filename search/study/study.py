"""The search controller: proposes configurations, records what trials report, and decides which of them resume.

It knows neither Ray nor a clock; the driver calls `propose`, `report`, `finish` and `release`. It is the only writer of
the study's record, and rebuilds all of its state from the storage when a study is opened again.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from search.space.configurations import MAX_CHECKS, Listing, identity, same_presets
from search.space.space import next_rung
from search.storage.folder import StudyError
from search.storage.optuna_private import storage_of
from search.strategy.choice import Choice, Continue, GoOn, Origin, Start, Stop, Wait
from search.strategy.feasibility import Feasibility
from search.strategy.samplers import Choosing, Decider, strategy_of
from search.strategy.sampling import Candidates, NothingNew, distributions
from search.strategy.strategy import Strategy
from search.study.decisions import Decisions
from search.study.record import TrialRecord, records_of
from search.study.recorder import Recorder, one_step
from search.study.settings import EXHAUSTED, SETTLED, TRIALS, StudySettings, exhausted_of, num_trials_of
from search.study.verdict import MAX_FAILURES_IN_A_ROW, broken_limits, check_failures, ending_of
from search.worker.messages import (
    DIVERGED,
    FINISHED,
    INFEASIBLE,
    OUT_OF_MEMORY,
    PAUSED,
    RUNNING,
    STOPPED,
    WAITING,
)

STRATEGY = "strategy"  # the study attribute that holds what the strategy has learned


def _at_once(method: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a method of Study one step, written at once."""

    @functools.wraps(method)
    def wrapped(self: Study, *args: Any, **kwargs: Any) -> Any:
        with one_step(storage_of(self._study)):
            return method(self, *args, **kwargs)

    return wrapped


@dataclass(frozen=True)
class Proposal:
    """A trial to run: its number, its complete configuration, and whether it resumes from a checkpoint."""

    number: int
    values: dict[str, Any]
    is_resumed: bool = False


class Study:
    """A search in progress. All token counts are absolute; a trial is identified by its Optuna number."""

    def __init__(
        self,
        study: optuna.Study,
        settings: StudySettings,
        *,
        trials: float | None = None,
        feasibility: Feasibility | None = None,
        strategy: type[Strategy] | None = None,
    ):
        """`trials` is the total number of configurations to train; None: the last number asked for, or the budget's.

        It may be infinite, and is then not stored. `settings` may end at more tokens than the study's own: trials that
        had finished then resume if they are worth it. `feasibility` says what may be launched (default: by the space
        and the trainer), and `strategy` decides what is trained (default: the sampler and the stopping of `settings`).
        """
        self.settings = settings
        self.space = settings.space
        self.feasibility = feasibility or Feasibility.of(self.space, settings.budget, settings.run, settings.units)
        self.rungs = settings.rungs
        self.metrics = self.space.spec.objectives
        self.num_trials = trials or num_trials_of(study, settings)
        self.records: dict[int, TrialRecord] = {}
        self.skipped_presets: dict[str, str] = {}
        self.exhausted = exhausted_of(study, settings)
        self._study = study
        study.sampler = optuna.samplers.RandomSampler()  # unused: the strategy proposes
        searched = {name: d for name, d in distributions(self.space).items() if not d.single()}
        self._recorder = Recorder(study, self.metrics, searched)
        self._candidates = Candidates(self.space, self.feasibility.reasons_against, settings.seed)
        if self.exhausted and not self.exhausted.is_exact:  # draws found nothing, so do not draw again
            self._candidates.nothing_new = NothingNew(is_exact=False)
        self.waits = False  # whether the last `propose` returned None although paused trials may still continue
        decides = self._strategy(strategy)
        try:
            decides.restore(study.user_attrs.get(STRATEGY, {}))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StudyError(
                f"the study {study.study_name} is damaged: its attribute {STRATEGY!r} cannot be read: {error}"
            ) from None
        self._kept_state = decides.state
        self._decisions = Decisions(
            decides, self._candidates, self.metrics, self.rungs, seed=settings.seed, exhausted=self.exhausted
        )
        self._interrupted: deque[int] = deque()
        self._continued: set[int] = set()  # trials that others continue, to more tokens
        self._tried: dict[int, None] = {}  # trials in the order of their last report or end in this driver
        self._num_launchable: int | None = None  # if those were counted and are fewer than the trials
        self._num_started = 0  # configurations; a trial that continues another does not count again
        with one_step(storage_of(study)):
            known = study.user_attrs
            changed = {name: value for name, value in settings.extent().items() if known.get(name) != value}
            if math.isfinite(self.num_trials) and known.get(TRIALS) != self.num_trials:
                changed[TRIALS] = self.num_trials
            for name, value in changed.items():
                study.set_user_attr(name, value)
            self._recover()
        self._tried.clear()
        self._presets = self._presets_to_train()

    @classmethod
    def create(
        cls,
        storage: optuna.storages.BaseStorage,
        name: str,
        settings: StudySettings,
        *,
        trials: float | None = None,
        feasibility: Feasibility | None = None,
        strategy: type[Strategy] | None = None,
    ) -> Study:
        """A new study in `storage`, or one whose creation was cut off. The options are those of Study itself."""
        metrics = settings.space.spec.objectives
        with one_step(storage), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # metric names, since Optuna 3.2
            study = optuna.create_study(
                storage=storage, study_name=name, directions=settings.directions, load_if_exists=True
            )
            if [direction.name.lower() for direction in study.directions] != settings.directions:
                raise StudyError(f"the study {name!r} was begun with other metrics; choose another --name")
            study.set_metric_names([metric.name for metric in metrics])
            for key, value in settings.to_attrs().items():
                study.set_user_attr(key, value)
        return cls(study, settings, trials=trials, feasibility=feasibility, strategy=strategy)

    @staticmethod
    def check_same(study: optuna.Study, expected: StudySettings) -> None:
        """Raises StudyError, naming each difference, if a study was created with other settings."""
        if found := StudySettings.of(study).differences(expected):
            listed = "".join(f"\n  {line}" for line in found)
            raise StudyError(
                f"the study {study.study_name!r} exists with other settings:{listed}\n"
                "Give this search another --name, or undo the change."
            )

    # The driver calls these four.

    @_at_once
    def propose(self) -> Proposal | None:
        """The next trial to run, or None if there is none.

        Interrupted trials come first, under their own numbers, then the guide's presets, then the strategy's choice: a
        new configuration or a paused trial's next rung. No configuration is started twice; once none is left, the
        search continues as after its last trial. When it returns None, the trials that are still paused have been
        stopped; unless `waits` says that they may continue once a running trial has reported. Raises NothingFeasible if
        no configuration may be launched at all, and SamplerError.
        """
        self.waits = False
        if self._interrupted:
            return self._resume(self._interrupted.popleft())
        if self._can_start and self._presets:
            preset, values = self._presets.popleft()
            return self._start(values, Origin("preset"), preset)
        if self.settings.earlier_ends and (
            reference := next(
                (r for r in self.records.values() if self._may_continue(r) and self._is_reference(r)), None
            )
        ):
            return self._resume(reference.number)
        match self._choose():
            case Start(values, origin):
                return self._start(values, origin)
            case Continue(number):
                return self._resume(number)
            case Wait():
                self.waits = True
                return None
        for record in self.records.values():
            if record.outcome == PAUSED:
                self._stop(record)
        if self.settings.earlier_ends:  # trials that had finished before and do not continue are not marked themselves
            self._study.set_user_attr(SETTLED, self.rungs[-1])
        return None

    @_at_once
    def report(self, number: int, measurement: Mapping[str, Any]) -> bool:
        """Record a trial's measurement at a rung, or its progress between rungs; True if the trial continues.

        If it does not, the trial has been ended or paused here, as its record shows. A rung that a lost worker had
        reported already is not recorded twice. Raises StudyFailed, as `finish` does.
        """
        record = self.records[number]
        tokens = measurement["tokens"]
        record.tokens = max(record.tokens, tokens)
        record.tokens_per_second = measurement.get("tokens_per_second", record.tokens_per_second)
        if tokens not in self.rungs or tokens in record.measurements:
            return not record.has_ended
        self._measure(record, tokens, measurement)
        if ending := ending_of(record, self.metrics, self.rungs, self.feasibility):
            self._recorder.write_rung(record)
            self._end(record, *ending)
            self._check_failures()
            return False
        verdict = GoOn() if self._is_reference(record) else self._decisions.judge(number)
        if isinstance(verdict, Stop):
            record.reason = verdict.reason
            self._recorder.will_stop(record, tokens)
            self._recorder.write_rung(record)
            return self._end(record, STOPPED, verdict.reason)
        continues = isinstance(verdict, GoOn)
        try:
            continues = continues or self._is_chosen(record)
        finally:  # a measurement is kept even if nothing else may be launched
            if not continues:
                self._recorder.will_pause(record, tokens)
            self._recorder.write_rung(record)
        if continues:
            return True
        if self._choose() is None:
            return self._stop(record)
        self._recorder.wait(number)
        return False

    @_at_once
    def finish(self, number: int, outcome: str, reason: str, *, tokens: int | None = None, traceback: str = "") -> None:
        """End a trial that cannot report: out of memory, failed, or diverged after `tokens` (on the way to a rung).

        Raises StudyFailed after three failures in a row.
        """
        record = self.records[number]
        if record.has_ended:
            return
        if outcome == DIVERGED:
            rung = next_rung((tokens or record.tokens) - 1, self.rungs) or self.rungs[-1]
            self._measure(record, rung, {self.metrics[0].name: math.nan, "tokens": rung})
            self._recorder.write_rung(record)
        self._keep_traceback(record, traceback)
        self._end(record, outcome, reason)
        self._check_failures()

    @_at_once
    def release(self, number: int) -> None:
        """Put an interrupted trial back: it waits, with everything it has reported, to be proposed again.

        Does nothing to a trial that has ended or is paused.
        """
        record = self.records[number]
        if record.outcome == RUNNING:
            record.outcome = WAITING
            self._learn(record)
            self._recorder.note(number, tokens=record.tokens)
            self._recorder.wait(number)
            self._interrupted.append(number)

    @_at_once
    def note_fault(self, number: int, fault: str, *, traceback: str = "") -> None:
        """Record a fault during a trial, see search/worker/faults.py. Does nothing to a trial that has ended."""
        record = self.records[number]
        if record.has_ended:
            return
        record.faults.append(fault)
        self._recorder.note(number, faults=record.faults)
        self._keep_traceback(record, traceback)

    # For reports and displays.

    @property
    def name(self) -> str:
        return self._study.study_name

    @property
    def stored(self) -> optuna.Study:
        """The study in its storage, for reading."""
        return self._study

    @property
    def rejections(self) -> Counter[str]:
        """Configurations rejected before launch since this driver started, by reason."""
        return self._candidates.rejections

    @property
    @_at_once
    def has_more(self) -> bool:
        """Whether there would be a proposal after `propose` returned None: trials that were running wait, or the last
        trials have corrected the limits, so that more may be launched.
        """
        return bool(self._interrupted) or isinstance(self._choose(), Start)

    def count_launchable(self) -> int | None:
        """How many configurations may be launched, if they can be listed and are fewer than the trials; else None."""
        found = Listing.of(self.space, self.feasibility.reasons_against, at_most=min(self.num_trials, MAX_CHECKS))
        self._num_launchable = len(found.configurations) if found.is_whole else None
        return self._num_launchable

    @property
    def num_expected(self) -> float:
        """How many configurations the study will have in the end, as far as is known: at most what may be launched."""
        if self.exhausted is not None:
            return self._num_started
        return self.num_trials if self._num_launchable is None else max(self._num_started, self._num_launchable)

    @property
    def reference_name(self) -> str:
        """The preset that the search is compared with; empty if it may not be launched."""
        reference = self.space.reference
        return reference.name if reference and reference.name not in self.skipped_presets else ""

    def close_to_new_trials(self) -> None:
        """Start no more trials. For a study without a number of trials, that number is what it has started."""
        self.num_trials = self._num_started
        self._study.set_user_attr(TRIALS, self.num_trials)
        self._decisions.is_made = False

    # Details.

    def _strategy(self, made: type[Strategy] | None) -> Decider:
        settings = self.settings
        if made is not None:
            return made(self._candidates.num_dims, self.rungs, self._candidates, seed=settings.seed)
        needed = Choosing(self.space, self._candidates, self.rungs, settings.budget.eta, settings.seed)
        return strategy_of(settings.sampler, settings.stopping, needed)

    @property
    def _can_start(self) -> bool:
        return self._num_started < self.num_trials

    def _is_reference(self, record: TrialRecord) -> bool:
        return record.preset != "" and record.preset == self.reference_name

    def _may_continue(self, record: TrialRecord) -> bool:
        """Whether a trial finished before the study was extended, and no other trial continues it."""
        return record.outcome == FINISHED and record.rung < self.rungs[-1] and record.number not in self._continued

    def _start(self, values: dict[str, Any], origin: Origin, preset: str = "") -> Proposal:
        """A new trial."""
        record = self._recorder.start(values, origin, preset=preset)
        self.records[record.number] = record
        self._num_started += 1
        self._candidates.start(values)
        self._learn(record)
        return Proposal(record.number, record.values)

    def _continue(self, before: TrialRecord) -> Proposal:
        """A new trial that continues a finished one."""
        record = self._recorder.start_from(before)
        self.records[record.number] = record
        self._continued.add(before.number)
        self._learn(before)
        self._learn(record)
        return Proposal(record.number, record.values, is_resumed=True)

    def _choose(self) -> Choice:
        """The strategy's choice. What it has learned is stored, so that it decides the same when opened again."""
        if self._decisions.is_made:
            return self._decisions.choose(can_start=self._can_start)
        choice = self._decisions.choose(can_start=self._can_start)
        if (found := self._decisions.exhausted) != self.exhausted:
            self.exhausted = found
            self._study.set_user_attr(EXHAUSTED, found and found.to_attr(self.rungs[-1]))
        if (state := self._decisions.state) != self._kept_state:
            self._study.set_user_attr(STRATEGY, state)
            self._kept_state = state
        return choice

    def _learn(self, record: TrialRecord) -> None:
        """Pass a record's current state to the strategy."""
        if record.number in self._continued:
            self._decisions.forget(record.number)
        else:
            self._decisions.learn(record, may_continue=self._may_continue(record))

    def _measure(self, record: TrialRecord, tokens: int, measurement: Mapping[str, Any]) -> None:
        """Add a measurement at a rung to the record; the recorder writes it."""
        record.measurements[tokens] = {key: value for key, value in measurement.items() if key != "environment"}
        record.environment = measurement.get("environment") or record.environment
        self._try(record)
        self._learn(record)

    def _try(self, record: TrialRecord) -> None:
        """Note that a trial has reported a measurement or ended."""
        self._tried.pop(record.number, None)
        self._tried[record.number] = None

    def _check_failures(self) -> None:
        check_failures([self.records[number] for number in list(self._tried)[-MAX_FAILURES_IN_A_ROW:]])

    def _keep_traceback(self, record: TrialRecord, traceback: str) -> None:
        if traceback:
            record.traceback = traceback
            self._recorder.note(record.number, traceback=traceback)

    def _is_chosen(self, record: TrialRecord) -> bool:
        """Whether a trial at a rung is what to train next. If not, its outcome becomes `paused`."""
        record.outcome = PAUSED
        self._learn(record)
        if self._choose() != Continue(record.number):
            record.reason = self._decisions.why(record.number)
            return False
        record.outcome = RUNNING
        self._learn(record)
        return True

    def _stop(self, record: TrialRecord) -> bool:
        aim = "to become the best" if len(self.metrics) == 1 else "to reach the front"
        why = self._decisions.why(record.number) or f"hardly a chance {aim}, after {record.rung:,} tokens"
        return self._end(record, STOPPED, why)

    def _end(self, record: TrialRecord, outcome: str, reason: str) -> bool:
        record.outcome, record.reason = outcome, reason
        self._try(record)
        self._learn(record)
        if self.feasibility.learn(record.values, record.measurements.get(record.rung, {})):
            self._candidates.limits_changed()
            self._num_launchable = None
        violations = {"memory": 1.0} if outcome == OUT_OF_MEMORY else {}
        if outcome == INFEASIBLE:
            violations = {name: violation for name, _, violation in broken_limits(record, self.feasibility)}
        self._recorder.end(record, violations)
        return False

    def _recover(self) -> None:
        """Rebuild the records from the storage; trials that were running wait to be resumed."""
        unfinished = {}
        for frozen, record in records_of(self._study):
            if record is None:
                if not frozen.state.is_finished():  # not a trial of this search
                    self._recorder.abandon(frozen)
                continue
            self.records[frozen.number] = record
            if record.continues is None:
                self._num_started += 1
            else:
                self._continued.add(record.continues)
            if not frozen.state.is_finished():
                unfinished[frozen.number] = frozen
        for record in self.records.values():  # in this order, so that the strategy's curves have it too
            try:
                if record.number in unfinished:
                    self._complete(record, unfinished[record.number])
                if not record.has_ended and record.outcome != PAUSED:
                    record.outcome = WAITING
                    self._interrupted.append(record.number)
                self._candidates.start(record.values)
                self._learn(record)
                if record.number not in unfinished:
                    self.feasibility.learn(record.values, record.measurements.get(record.rung, {}))
                elif missing := self.space.complete(record.values).keys() - record.values.keys():
                    raise ValueError(f"it has no {', '.join(sorted(missing))}")
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise StudyError(
                    f"the study {self.name} is damaged: trial {record.number} does not fit its space: {error}"
                ) from None

    def _complete(self, record: TrialRecord, frozen: FrozenTrial) -> None:
        """Write what a driver that was killed within a step had yet to write of an unfinished trial."""
        if outcome := frozen.user_attrs.get("outcome"):
            self._end(record, outcome, record.reason)
            return
        paused_at, stops_at = frozen.user_attrs.get("paused"), frozen.user_attrs.get("stopping")
        is_running = frozen.state == TrialState.RUNNING
        if record.rung and is_running:
            self._recorder.repeat_rung(record)
        if record.rung and (ending := ending_of(record, self.metrics, self.rungs, self.feasibility)):
            outcome, reason = ending
            self._end(record, outcome, record.reason or reason)
        elif is_running and paused_at:
            if paused_at == record.rung:
                record.outcome = PAUSED
                self._recorder.wait(record.number)
            else:  # it was about to be paused at a rung that was never recorded
                self._take_back(record, paused=False)
        elif is_running and stops_at:
            if stops_at == record.rung:
                self._end(record, STOPPED, record.reason)
            else:  # likewise
                self._take_back(record, stopping=0)

    def _take_back(self, record: TrialRecord, **decision: Any) -> None:
        """Forget the decision about a rung that was never written."""
        self._recorder.note(record.number, **decision, **({"reason": ""} if record.reason else {}))
        record.reason = ""

    def _resume(self, number: int) -> Proposal:
        """Resume a waiting or paused trial."""
        record = self.records[number]
        if self._may_continue(record):
            return self._continue(record)
        self._recorder.resume(number, was_paused=record.outcome == PAUSED)
        record.outcome, record.reason = RUNNING, ""
        self._learn(record)
        return Proposal(number, record.values, is_resumed=True)

    def _presets_to_train(self) -> deque[tuple[str, dict[str, Any]]]:
        """The presets still to train, each configuration once; notes why others may not be launched."""
        self.same_presets = same_presets(self.space)
        queue: deque[tuple[str, dict[str, Any]]] = deque()
        for preset in self.space.presets.values():
            values = self.space.complete(preset.values)
            if against := self.feasibility.reasons_against(values):
                self.skipped_presets[preset.name] = "; ".join(against)
            elif preset.name not in self.same_presets and identity(values) not in self._candidates.started:
                queue.append((preset.name, values))
        return queue
