"""Many trainings, one after another, each stored as a line of JSON. An interrupted run resumes after the last line."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainer.config import TrainConfig
from trainer.loop import Diverged, TrainingRun


@dataclass(frozen=True)
class Job:
    """A training to do. Its name is unique and the same at every start."""

    name: str
    values: Mapping[str, Any]  # the configuration as drawn
    config: TrainConfig


@dataclass(frozen=True)
class Curve:
    """The held-out loss of one training at its rungs, in nats per byte; infinite from where it diverged."""

    name: str
    values: Mapping[str, Any]
    rungs: tuple[int, ...]
    losses: tuple[float, ...]
    diverged_tokens: int | None
    cpu_seconds: float  # evaluations included

    @classmethod
    def of(cls, job: Job) -> Curve:
        """Train it."""
        started = time.process_time()
        run = TrainingRun(job.config)
        losses: list[float] = []
        diverged = None
        try:
            for rung in job.config.rungs:
                measurement = run.advance(rung)
                assert measurement is not None and measurement.bits_per_byte is not None
                losses.append(measurement.bits_per_byte * math.log(2))
        except Diverged as error:
            diverged = error.tokens
            losses += [math.inf] * (len(job.config.rungs) - len(losses))
        finally:
            run.close()
        return cls(job.name, job.values, job.config.rungs, tuple(losses), diverged, time.process_time() - started)


def curves_of(jobs: Iterable[Job], path: Path, *, max_seconds: float = math.inf) -> dict[str, Curve]:
    """The curve of each job, by its name: those that the file has, and the rest trained and appended to it.

    Stops at the first job to be trained after max_seconds. Raises ValueError where the file is of other jobs.
    """
    deadline = time.monotonic() + max_seconds
    stored, curves = _read(path), {}
    jobs = list(jobs)
    for done, job in enumerate(jobs):
        curve = stored.get(job.name)
        if curve is None:
            if time.monotonic() > deadline:
                break
            curve = Curve.of(job)
            _append(path, curve)
            print(f"{done + 1}/{len(jobs)} {job.name}: {curve.losses[-1]:.3f}", file=sys.stderr, flush=True)
        elif (curve.values, curve.rungs) != (job.values, job.config.rungs):
            raise ValueError(f"{path}: {job.name} is of another configuration or budget; give another file")
        curves[job.name] = curve
    return curves


def _read(path: Path) -> dict[str, Curve]:
    """The last line may have been cut short: that training is done again."""
    curves = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        fields |= {"rungs": tuple(fields["rungs"]), "losses": tuple(fields["losses"])}
        curves[fields["name"]] = Curve(**fields)
    return curves


def _append(path: Path, curve: Curve) -> None:
    text = json.dumps(asdict(curve)) + "\n"
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            text = text if file.read(1) == b"\n" else "\n" + text  # after a line that was cut short
        file.write(text.encode())
