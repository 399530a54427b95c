"""What a driver and its workers send each other, and the names of a trial's outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from search.worker.code import code_digest, trainer_folder
from search.worker.watchdog import trace_file
from trainer.families.family import Source

FINISHED = "finished"
STOPPED = "stopped"
INFEASIBLE = "infeasible"
OUT_OF_MEMORY = "out of memory"
DIVERGED = "diverged"
FAILED = "failed"
PAUSED = "paused"  # others come first; it may resume
WAITING = "waiting"  # interrupted; the next run resumes it
RUNNING = "running"
OUTCOMES = (FINISHED, STOPPED, INFEASIBLE, OUT_OF_MEMORY, DIVERGED, FAILED, PAUSED, WAITING, RUNNING)
WASTED = (DIVERGED, OUT_OF_MEMORY, INFEASIBLE)
"""Outcomes of trials whose configuration cannot be trained within the limits: a better strategy would avoid them."""

NOT_FAILED = (FINISHED, STOPPED, PAUSED, WAITING, RUNNING)
"""Outcomes of trials that broke no limit and did not fail, diverge or run out of memory."""


class Event(StrEnum):
    """An event of a trial that a driver reports to its listeners."""

    STARTED = "started"
    REPORTED = "reported"
    FAULT = "fault"
    ENDED = "ended"


@dataclass(frozen=True)
class TextLocation:
    """A text that a worker fetches: from a URL, by the digest of its tokens."""

    url: str
    digest: str


@dataclass(frozen=True)
class Sentinel:
    """A file that the driver has just written. A worker that reads the same text from it shares the driver's disk."""

    file: str
    text: str


@dataclass(frozen=True, kw_only=True)
class TrialRequest:
    """What a worker needs to train a trial."""

    train: dict[str, Any]
    """A TrainConfig's `to_dict`."""
    location: str
    """The location of checkpoints: a folder or a URL."""
    checkpoint: str
    """The trial's checkpoint there. If there is none yet, the trial begins with that of the trial it `continues`."""
    continues: str | None = None
    study_rungs: tuple[int, ...] = ()
    """The rungs of `train` as the study counts them, if it counts tokens of another vocabulary."""
    trace: str | None = None
    """The file for the stack trace of a worker that hangs; if left out, beside the checkpoint."""
    text: TextLocation | None = None
    """Where to fetch the text; if left out, the worker reads it from the paths in `train`."""
    corpus_digests: tuple[str, ...] = ()
    """The digests that the text may have; if empty, any."""
    exclusive: bool = True
    """Whether no other trial uses the device."""
    measures_alone: bool = False
    """On a shared device: whether the others pause while this trial measures its speed, so that speeds compare."""
    memory_share: float | None = None
    """On a shared device: the share of its memory that this trial may use."""
    hang_seconds: float | None = None
    """A step that takes longer ends the worker; waiting for the device does not count. None: no limit."""
    sentinel: Sentinel | None = None
    family: Source | None = None
    """The user's own family that it trains: the location of its file, its digest and its text."""
    trainer: str = field(default_factory=trainer_folder)
    """The driver's copy of the trainer and its source digest: a worker with another one does not train."""
    code_digest: str = field(default_factory=code_digest)

    @property
    def rungs(self) -> tuple[int, ...]:
        """In the trial's own tokens."""
        return tuple(self.train["rungs"])

    @property
    def counted_rungs(self) -> tuple[int, ...]:
        """As the study counts them, and so as the reports do."""
        return self.study_rungs or self.rungs

    @property
    def trace_path(self) -> Path:
        return trace_file(Path(self.location, self.checkpoint)) if self.trace is None else Path(self.trace)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for Ray."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialRequest:
        text, sentinel, family = values["text"], values["sentinel"], values["family"]
        return cls(
            **{
                **values,
                "study_rungs": tuple(values["study_rungs"]),
                "corpus_digests": tuple(values["corpus_digests"]),
                "text": None if text is None else TextLocation(**text),
                "sentinel": None if sentinel is None else Sentinel(**sentinel),
                "family": None if family is None else Source(**family),
            }
        )


@dataclass(frozen=True, kw_only=True)
class TrialReport:
    """A worker's report after each slice of training: in progress, at a rung, ended, or unable to train."""

    tokens: int
    """Trained so far."""
    tokens_per_second: float | None = None
    measurement: dict[str, Any] | None = None
    """At a rung: a Measurement's `to_dict`, with the `environment` in which it was taken."""
    outcome: str | None = None
    """How the trial ended, if it ended before its last rung, with a `reason` and the `traceback` of a bug."""
    reason: str = ""
    traceback: str = ""
    environment_error: str | None = None
    """What is wrong outside the trial: the text, the disk, the trainer's source. It ends the search, not the trial."""
    fault: str | None = None
    """A fault that the trial survived. Each report has at most one, and the driver counts them."""

    def is_last(self, rungs: tuple[int, ...]) -> bool:
        """Whether this is the last report of a trial with these rungs."""
        is_over = self.outcome is not None or self.environment_error is not None
        return is_over or (self.measurement is not None and self.measurement["tokens"] >= rungs[-1])

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for Ray."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialReport:
        return cls(**values)
