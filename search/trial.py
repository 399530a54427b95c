"""A trial in its worker: a configuration becomes training, and whatever happens to it becomes a result.

Nothing is raised from `TrialRun.step`: out of memory, divergence and bugs are outcomes, and the driver decides what
they mean. This file knows neither Ray nor Optuna; tune.py wraps it in an actor.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import time
import traceback
from pathlib import Path
from typing import Any

import trainer
from search.record import DIVERGED, FAILED, OUT_OF_MEMORY

SLICE_SECONDS = 10.0
SAVE_SHARE = 0.05  # of the training time, at most, goes into checkpoints between rungs

FOREIGN_CODE = "foreign code"
"""The worker's trainer is not the driver's: no outcome of the trial, but a reason to stop the search."""


class TrialRun:
    """One trial under way in this process. `request` is what tune.py sends: see `trial_request`."""

    def __init__(self, request: dict[str, Any]):
        self._request = request
        self._rungs = request["train"]["rungs"]
        self._checkpoint = Path(request["checkpoint"])
        self._run: Any = None
        self._corpus: Any = None
        self._slice_seconds = SLICE_SECONDS
        self._unreported: list[dict[str, Any]] = []

    def step(self) -> dict[str, Any]:
        """Train to the next rung, or for a slice of time, and save; returns a report.

        A report has `tokens` and either `measurement` (at a rung, else None) or `outcome` and `reason`.
        """
        if self._request["code_digest"] != code_digest():
            return {"outcome": FOREIGN_CODE, "reason": str(Path(trainer.__file__).parent), "tokens": 0}
        try:
            if self._run is None:
                self._start()
            if self._unreported:
                measurement = self._unreported.pop(0)
                return {"tokens": measurement["tokens"], "measurement": measurement}
            return self._train()
        except Exception as error:  # every end of a trial is a result, whatever caused it
            return {"tokens": self._tokens, **outcome_of(error)}

    def close(self) -> None:
        """Free the model's memory; the worker goes on to another trial."""
        if self._run is not None:
            self._run.close()
            self._run = None

    @property
    def _tokens(self) -> int:
        return self._run.tokens if self._run is not None else 0

    def _start(self) -> None:
        from trainer.config import TrainConfig
        from trainer.loop import TrainingRun

        self._run = TrainingRun(TrainConfig.from_dict(self._request["train"]))
        continued = self._request["continues"]
        kept = [path for path in (self._checkpoint, Path(continued) if continued else None) if path and path.exists()]
        if kept:
            self._run.restore(kept[0])
            # The report of a rung may have been lost with the worker; the driver ignores those it has.
            self._unreported = [self._reported(m) for m in self._run.measurements]

    def _train(self) -> dict[str, Any]:
        rung = next(rung for rung in self._rungs if rung > self._run.tokens)
        measurement = self._run.advance(rung, max_seconds=self._slice_seconds)
        self._save()
        report = {"tokens": self._run.tokens, "tokens_per_second": self._run.tokens_per_second}
        if measurement is None:
            return {**report, "measurement": None}
        return {**report, "measurement": self._reported(measurement)}

    def _reported(self, measurement: Any) -> dict[str, Any]:
        """A Measurement as the driver records it; the trainer cannot know who shares its device, the driver does."""
        exclusive = measurement.exclusive and self._request["exclusive"]
        return {**measurement.to_dict(), "exclusive": exclusive, "environment": environment(self._run)}

    def _save(self) -> None:
        """Save, and make slices so long that saving stays a small share of them."""
        started = time.monotonic()
        self._run.save(self._checkpoint)
        self._slice_seconds = max(SLICE_SECONDS, (time.monotonic() - started) / SAVE_SHARE)


def trial_request(
    *, train: dict[str, Any], checkpoint: Path, continues: Path | None = None, exclusive: bool = True
) -> dict[str, Any]:
    """What a worker needs to run a trial, as plain values: `train` is a TrainConfig's `to_dict`.

    Where there is no `checkpoint` yet, the trial goes on from the one of the trial that it `continues`.
    """
    return {
        "train": train,
        "checkpoint": str(checkpoint),
        "continues": str(continues) if continues else None,
        "exclusive": exclusive,
        "code_digest": code_digest(),
    }


@functools.cache
def code_digest() -> str:
    """Identifies the trainer's source, so that a worker with another copy of it is noticed."""
    root = Path(trainer.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def environment(run: Any) -> dict[str, Any]:
    """What a run's figures depend on beside its configuration: the machine, the versions, the trainer's source."""
    import torch

    on_gpu = run.device.type == "cuda"
    return {
        "host": platform.node(),
        "device": torch.cuda.get_device_name(run.device) if on_gpu else platform.machine(),
        "num_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "code_digest": code_digest(),
    }


def outcome_of(error: Exception) -> dict[str, Any]:
    """The outcome that an exception in a trial means, with a reason for people and the traceback of a bug."""
    from trainer.loop import Diverged

    if isinstance(error, Diverged):
        return {"outcome": DIVERGED, "reason": error.reason, "tokens": error.tokens}
    if isinstance(error, MemoryError) or _is_cuda_out_of_memory(error):
        return {"outcome": OUT_OF_MEMORY, "reason": str(error).splitlines()[0] if str(error) else "out of memory"}
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return {"outcome": FAILED, "reason": reason, "traceback": "".join(traceback.format_exception(error))}


def _is_cuda_out_of_memory(error: Exception) -> bool:
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    # cuBLAS and the CPU allocator report it as a plain RuntimeError
    words = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
