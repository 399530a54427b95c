"""Connects Ray's trials with the study's: which is which, what each report means, and what a lost worker means.

It knows Ray's protocol but does not import Ray: tune.py forwards to it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from search.storage.folder import StudyError
from search.study.record import TrialRecord
from search.study.study import Study
from search.worker.checkpoints import checkpoints_at
from search.worker.faults import HOST_OUT_OF_MEMORY, WORKER_HUNG, cause_of, loss
from search.worker.messages import FAILED, OUT_OF_MEMORY, PAUSED, Event, TrialReport, TrialRequest
from search.worker.object_store import ObjectStoreError
from search.worker.watchdog import take_trace

MAX_WORKER_LOSSES = 3  # of one trial, before it is given up


class Listener(Protocol):
    """Receives an event for every trial that starts, reaches a rung, has a fault or ends, as it happens."""

    def on_event(self, kind: Event, record: TrialRecord) -> None: ...

    def on_slots(self, num_slots: int) -> None:
        """This many trials run at once from now on: machines, or other searches on them, have come or gone."""


@dataclass
class RunningTrial:
    """One of the study's trials that Ray runs."""

    number: int
    request: TrialRequest
    losses: list[str] = field(default_factory=list)  # why each of its workers was lost

    @property
    def num_losses_left(self) -> int:
        """How many more workers may be lost before the trial is given up; negative once it is given up."""
        return MAX_WORKER_LOSSES - len(self.losses)


class Bridge:
    """What Searcher and Scheduler share: the running trials, and whether the search is ending."""

    def __init__(
        self,
        study: Study,
        num_slots: int,
        request_for: Callable[[int, dict[str, Any]], TrialRequest],
        listener: Listener,
        worker: str,
        *,
        max_seconds: float = math.inf,
    ):
        """After `max_seconds` the search drains, as after an interruption."""
        self.is_interrupted = False
        self._deadline = time.monotonic() + max_seconds
        self.fatal: BaseException | None = None
        self._study, self._num_slots, self._request_for = study, num_slots, request_for
        self._listener, self._worker = listener, worker
        self._running: dict[str, RunningTrial] = {}  # by Ray's trial id
        self._losses: dict[int, list[str]] = {}  # of trials that Ray gave up too early, until they resume

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher for a restore that never happens; the study stays here

    @property
    def is_draining(self) -> bool:
        """Whether each trial stops at its next report and waits in the study."""
        return self.is_interrupted or time.monotonic() > self._deadline

    @property
    def is_ending(self) -> bool:
        return self.is_draining or self.fatal is not None

    @property
    def is_full(self) -> bool:
        """Whether every slot has a trial. A later proposal will know more."""
        return len(self._running) >= self._num_slots

    def on_slots(self, num_slots: int) -> None:
        """This many trials may run from now on. If more are running, each that reports waits for a slot."""
        if num_slots != self._num_slots:
            self._num_slots = num_slots
            self._listener.on_slots(num_slots)

    @property
    def may_have_more(self) -> bool:
        """Whether a running trial's report may bring a proposal although there was none."""
        return self._study.waits and not self.is_ending

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """The configuration of Ray's trial `trial_id`; None if nothing is left or the search is ending."""
        if self.is_ending:
            return None
        paused = [record for record in self._study.records.values() if record.outcome == PAUSED]
        try:
            proposal = self._study.propose()
        except Exception as error:
            self.fail(error)
            return None
        if proposal is None:
            for record in paused if not self._study.waits else ():  # the study has stopped these
                self._listener.on_event(Event.ENDED, record)
            return None
        try:
            request = self._request_for(proposal.number, proposal.values)
        except Exception as error:
            self._study.release(proposal.number)
            self.fail(error)
            return None
        self._running[trial_id] = RunningTrial(proposal.number, request, self._losses.pop(proposal.number, []))
        self._listener.on_event(Event.STARTED, self._study.records[proposal.number])
        return {"worker": self._worker, "request": request.to_dict()}

    def on_report(self, trial_id: str, report: TrialReport) -> bool:
        """Forward a worker's report; True if the trial continues."""
        number = self._running[trial_id].number
        try:
            if report.fault is not None:
                self._note_fault(number, report.fault)
            continues = self._forward(number, report)
        except Exception as error:
            self.fail(error)
            return False
        record = self._study.records[number]
        self._listener.on_event(Event.ENDED if record.has_ended else Event.REPORTED, record)
        if not continues:  # ended or paused; a paused trial may resume before Ray says that this worker is free
            del self._running[trial_id]
        has_slot = len(self._running) <= self._num_slots  # otherwise it waits for one, with its checkpoint
        return continues and has_slot and not self.is_ending

    def num_losses_left(self, trial_id: str) -> int:
        """How many more workers a trial may lose before it is given up."""
        run = self._running.get(trial_id)
        return MAX_WORKER_LOSSES if run is None else run.num_losses_left

    def on_worker_lost(self, trial_id: str, why: str) -> None:
        """A trial's worker was lost, `why` in Ray's words. The trial resumes in another one unless it lost too many."""
        run = self._running.get(trial_id)
        if run is None:
            return
        trace = take_trace(run.request.trace_path)
        hung = f"{WORKER_HUNG}: no report for {(run.request.hang_seconds or 0) / 60:g} min"
        run.losses.append(hung if trace else cause_of(why))
        then = "resumed from its checkpoint" if _has_checkpoint(run.request) else "started again"
        if run.num_losses_left < 0:
            then = "given up"
        fault = loss(run.losses[-1], self._study.records[run.number].tokens, then)
        try:
            self._note_fault(run.number, fault, traceback=trace)
        except Exception as error:
            self.fail(error)

    def on_end(self, trial_id: str, *, worker_lost: bool) -> None:
        """A Ray trial has ended: stopped by the study, drained, or given up by Ray because its worker was lost."""
        run = self._running.pop(trial_id, None)
        if run is None:
            return
        try:
            if worker_lost and run.num_losses_left < 0:
                self._give_up(run)
                self._listener.on_event(Event.ENDED, self._study.records[run.number])
            else:
                if worker_lost:
                    self._losses[run.number] = run.losses
                self._study.release(run.number)  # drained, or to be resumed; does nothing to a trial that has ended
        except Exception as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End the search with this error, unless it has one already."""
        if self.fatal is None:
            self.fatal = error

    def release_all(self) -> None:
        """Put every trial that is still running back to wait."""
        try:
            for run in self._running.values():
                self._study.release(run.number)
        except Exception as error:  # of the storage, which the next run reads again
            self.fail(error)
        self._running.clear()

    def _forward(self, number: int, report: TrialReport) -> bool:
        if report.environment_error is not None:
            raise StudyError(f"{report.environment_error}; then the same command resumes")
        if report.outcome is not None:
            self._study.finish(number, report.outcome, report.reason, tokens=report.tokens, traceback=report.traceback)
            return False
        progress = {"tokens": report.tokens, "tokens_per_second": report.tokens_per_second}
        return self._study.report(number, report.measurement or progress)

    def _note_fault(self, number: int, fault: str, *, traceback: str = "") -> None:
        self._study.note_fault(number, fault, traceback=traceback)
        self._listener.on_event(Event.FAULT, self._study.records[number])

    def _give_up(self, run: RunningTrial) -> None:
        """End a trial whose workers keep being lost. If it was too large for the host, the sampler learns that."""
        if run.losses[-2:] == [HOST_OUT_OF_MEMORY] * 2:
            self._study.finish(run.number, OUT_OF_MEMORY, f"{HOST_OUT_OF_MEMORY} twice")
            return
        last = f", the last time: {run.losses[-1]}" if run.losses else ""
        reason = f"its worker was lost {len(run.losses)} times{last}"
        self._study.finish(run.number, FAILED, reason, traceback=self._study.records[run.number].traceback)


def _has_checkpoint(request: TrialRequest) -> bool:
    """Whether a trial can resume from a checkpoint; False if the checkpoint location does not answer."""
    try:
        return checkpoints_at(request.location, patience_seconds=0).exists(request.checkpoint)
    except ObjectStoreError:
        return False
