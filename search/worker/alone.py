"""Trains a trial to its end in a child process, without Ray, while nothing else of this study uses the device."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection

from search.worker.hangup import held_back
from search.worker.messages import FAILED, TrialReport, TrialRequest
from search.worker.trial import BrokenProcess, TrialRun


def train_alone(request: TrialRequest, on_report: Callable[[TrialReport], None]) -> TrialReport:
    """Train a trial, from its checkpoint if it has one, and pass on each report as it comes.

    Returns the last report: the measurement at the last rung, an environment error, or an outcome, which is FAILED if
    the process was killed. If this function is interrupted, the child process ends too; that costs the training since
    its last checkpoint, about ten seconds.
    """
    # Set before torch loads OpenMP: threads that spin while waiting for each other are slow beside another process.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    reports, there = context.Pipe(duplex=False)
    process = context.Process(target=_train, args=(request, there), daemon=True)
    with ignoring_interrupts():
        process.start()
    there.close()  # so that the end of the process ends the reports
    try:
        while True:
            try:
                report = reports.recv()
            except EOFError:
                process.join()
                return TrialReport(tokens=0, outcome=FAILED, reason=_end_of(process.exitcode))
            on_report(report)
            if report.is_last(request.counted_rungs):
                process.join()
                return report
    finally:
        process.terminate()
        process.join()
        reports.close()


def _train(request: TrialRequest, reports: Connection) -> None:
    """The child process. Ctrl-C on a terminal reaches it too, but the parent handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trial = TrialRun(request)
    with contextlib.suppress(OSError):  # the parent is gone
        while True:
            try:
                report = trial.step()
            except BrokenProcess as error:
                report = TrialReport(tokens=0, outcome=FAILED, reason=str(error))
            reports.send(report)
            if report.is_last(request.counted_rungs):
                return


def _end_of(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"its process was killed by signal {-exit_code}; the system may have run out of memory"
    return f"its process ended with exit code {exit_code}"


@contextlib.contextmanager
def ignoring_interrupts() -> Iterator[None]:
    """A process started in this block never sees Ctrl-C or a hangup, not even before its own code runs."""
    with held_back():
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
