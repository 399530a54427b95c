"""What passes between a driver and its workers, and the names of what can become of a trial."""

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
WAITING = "waiting"  # interrupted; the next run continues it
RUNNING = "running"
OUTCOMES = (FINISHED, STOPPED, INFEASIBLE, OUT_OF_MEMORY, DIVERGED, FAILED, PAUSED, WAITING, RUNNING)
WASTED = (DIVERGED, OUT_OF_MEMORY, INFEASIBLE)
"""Outcomes of trials whose configuration cannot be trained within the limits: a better strategy would avoid them."""

OPEN_OR_FINISHED = (FINISHED, STOPPED, PAUSED, WAITING, RUNNING)


class Event(StrEnum):
    """What a driver tells its listeners about a trial, as it happens."""

    STARTED = "started"
    REPORTED = "reported"
    FAULT = "fault"
    ENDED = "ended"


@dataclass(frozen=True)
class TextLocation:
    """A text that a worker fetches: below a URL, by the digest of its tokens."""

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
    """Where checkpoints are: a folder or a URL."""
    checkpoint: str
    """The trial's checkpoint there. If there is none yet, the trial begins with the one it `continues`, if any."""
    continues: str | None = None
    study_rungs: tuple[int, ...] = ()
    """The rungs of `train` as the study counts them, if it counts tokens of another vocabulary."""
    trace: str | None = None
    """The file in which a worker that hangs says where; beside the checkpoint if left out."""
    text: TextLocation | None = None
    """Where to fetch the text; if left out, it is read from where `train` says."""
    corpus_digests: tuple[str, ...] = ()
    """The text must have one of these digests, if there are any."""
    exclusive: bool = True
    """Whether no other trial uses the device."""
    measures_alone: bool = False
    """On a shared device: whether the others pause while this trial measures its speed, so that it can be compared."""
    memory_share: float | None = None
    """On a shared device: the share of its memory that this trial may take."""
    hang_seconds: float | None = None
    """A step that takes longer, apart from its waits for the device, ends the worker. None waits for ever."""
    sentinel: Sentinel | None = None
    family: Source | None = None
    """The user's own family that it trains: where its file is, the digest, and the text."""
    trainer: str = field(default_factory=trainer_folder)
    """The driver's copy of the trainer, and the digest of its source: a worker with another one does not train."""
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
    """What a worker says after each slice of training: under way, at a rung, ended, or unable to train."""

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
    """What is wrong around the trial: the text, the disk, the trainer's source. It ends the search, not the trial."""
    fault: str | None = None
    """Something broke and was mended. Each report has one at most, and the driver counts them."""

    def is_last(self, rungs: tuple[int, ...]) -> bool:
        """Whether a trial with these rungs reports no more."""
        is_over = self.outcome is not None or self.environment_error is not None
        return is_over or (self.measurement is not None and self.measurement["tokens"] >= rungs[-1])

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for Ray."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrialReport:
        return cls(**values)
