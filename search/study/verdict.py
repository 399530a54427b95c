"""What a measurement means by itself: a trial diverged, broke a limit, failed or finished."""

from __future__ import annotations

import math
from collections.abc import Sequence

from search.space.space import next_rung
from search.space.spec import MetricSpec
from search.strategy.feasibility import Feasibility, beyond, overrun
from search.study.record import TrialRecord
from search.worker.messages import DIVERGED, FAILED, FINISHED, INFEASIBLE

MAX_FAILURES_IN_A_ROW = 3


class StudyFailed(RuntimeError):
    """The study cannot continue: every trial fails in the same way. The message has the last traceback."""


def ending_of(
    record: TrialRecord, metrics: Sequence[MetricSpec], rungs: tuple[int, ...], feasibility: Feasibility
) -> tuple[str, str] | None:
    """The outcome and reason that follow from the deepest rung's measurement; None if the trial may train on."""
    for metric, value in zip(metrics, record.signed(metrics), strict=True):
        if (measured := record.measured(metric.name)) is None:
            return FAILED, f"{metric.name} was not measured at {record.rung:,} tokens"
        if not math.isfinite(value):
            return DIVERGED, f"{metric.name} is {measured} at {record.rung:,} tokens"
    if broken := broken_limits(record, feasibility):
        return INFEASIBLE, "; ".join(words for _, words, _ in broken)
    return (FINISHED, "") if next_rung(record.rung, rungs) is None else None


def broken_limits(record: TrialRecord, feasibility: Feasibility) -> list[tuple[str, str, float]]:
    """Each limit that the deepest rung's measurement breaks: its name, words for it, and by how much."""
    broken = []
    for name, limit in feasibility.limits.items():
        measured = record.measured(name)
        if measured is not None and (words := beyond(name, measured, limit)):
            broken.append((name, f"{words}: {measured:,.4g}", overrun(measured, limit)))
    return broken


def check_failures(tried: Sequence[TrialRecord]) -> None:
    """Raises StudyFailed if the last three of `tried` failed: trials in the order of their last report or end."""
    latest = tried[-MAX_FAILURES_IN_A_ROW:]
    if len(latest) == MAX_FAILURES_IN_A_ROW and all(record.outcome == FAILED for record in latest):
        last = latest[-1]
        lines = [f"{MAX_FAILURES_IN_A_ROW} trials in a row failed; the last: {last.reason}", last.traceback.rstrip()]
        raise StudyFailed("\n".join([*filter(None, lines), "fix the cause; the same command then resumes"]))
