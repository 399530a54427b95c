"""What passes between a driver and its workers, and the names of what can become of a trial."""

from __future__ import annotations

FINISHED = "finished"
STOPPED = "stopped"
INFEASIBLE = "infeasible"
OUT_OF_MEMORY = "out of memory"
DIVERGED = "diverged"
FAILED = "failed"
PAUSED = "paused"  # others promise more; goes on when it looks best
WAITING = "waiting"  # interrupted; the next run continues it
RUNNING = "running"
OUTCOMES = (FINISHED, STOPPED, INFEASIBLE, OUT_OF_MEMORY, DIVERGED, FAILED, PAUSED, WAITING, RUNNING)
WASTED = (DIVERGED, OUT_OF_MEMORY, INFEASIBLE)
"""Outcomes of configurations that cannot be had: a slot that a better strategy would not have spent."""

OPEN_OR_FINISHED = (FINISHED, STOPPED, PAUSED, WAITING, RUNNING)
