"""Trains one trial in a worker: a configuration becomes training, and whatever happens becomes a report.

Out of memory, divergence and bugs are outcomes of the trial. If its environment is at fault (the text, the disk, the
trainer's source), the report has an environment error, which stops the search. Only a process that cannot train any
more ends with an exception. This file knows neither Ray nor Optuna; the driver wraps it in an actor.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from search.worker.checkpoints import Checkpoints, checkpoints_at
from search.worker.code import code_digest, trainer_folder
from search.worker.corpora import fetch_corpus
from search.worker.errors import breaks_process, report_of
from search.worker.faults import CHECKPOINT_DAMAGED, STORE_SILENT
from search.worker.gpu_lock import SHARED_SECONDS, GpuLock, GpuLockError, steps_beside_others, this_device
from search.worker.messages import TrialReport, TrialRequest
from search.worker.object_store import PATIENCE_SECONDS, ObjectStore
from search.worker.watchdog import watched
from trainer.corpus import Corpus
from trainer.families.registry import receive
from trainer.text.units import study_tokens

SLICE_SECONDS = 10.0
SAVE_SHARE = 0.05  # of the training time, at most, for checkpoints between rungs ...
MAX_SLICE_SECONDS = 60.0  # ... unless a save is so slow that a cluster's notice would be too short


class BrokenProcess(RuntimeError):
    """This process cannot train any more: after a CUDA error, every further call to the GPU fails too."""


class TrialRun:
    """A trial that this process trains."""

    def __init__(self, request: TrialRequest):
        self._request = request
        self._rungs = request.rungs
        self._checkpoint = request.checkpoint
        self._hang_seconds = request.hang_seconds
        self._longest_slice = math.inf if self._hang_seconds is None else self._hang_seconds / 4
        self._run: Any = None
        self._gpu_lock: GpuLock | None = None  # if other trials use the device too
        self._slice_seconds = min(SLICE_SECONDS, self._longest_slice)
        self._unreported: list[dict[str, Any]] = []
        self._faults: list[str] = []

    def step(self) -> TrialReport:
        """Train to the next rung, or for a slice of time, and save. Raises BrokenProcess."""
        if misplaced := self._misplaced():  # before any code of that trainer, or that folder, is used
            return TrialReport(tokens=0, environment_error=misplaced)
        try:
            corpus = self._fetched_text() if self._run is None else None  # without the watchdog: it may be large
            with self._watched() if self._request.exclusive else contextlib.nullcontext():
                report = self._advance(corpus)
        except Exception as error:  # every end of a trial is a result, whatever its cause
            if breaks_process(error):
                self._run = None  # `close` would call the GPU
                raise BrokenProcess(str(error).splitlines()[0]) from error
            report = report_of(error, tokens=self._tokens)
        report = self._counted_as_the_study(report)
        if self._faults:
            report = dataclasses.replace(report, fault=self._faults.pop(0))
        return report

    def close(self) -> None:
        """Free the model's memory; the worker then runs another trial."""
        if self._run is not None:
            self._run.close()
            self._run = None

    def _counted_as_the_study(self, report: TrialReport) -> TrialReport:
        """The report with tokens as the study counts them, which may be those of another vocabulary."""
        own, shared = self._rungs, self._request.counted_rungs
        if own == shared:
            return report
        measurement = report.measurement
        if measurement is not None:
            measurement = {**measurement, "tokens": study_tokens(measurement["tokens"], own, shared)}
        return dataclasses.replace(report, tokens=study_tokens(report.tokens, own, shared), measurement=measurement)

    @property
    def _tokens(self) -> int:
        return self._run.tokens if self._run is not None else 0

    def _misplaced(self) -> str:
        """Why this process cannot take part: it has other code than the driver, or does not see the driver's folder."""
        if self._request.code_digest != code_digest():
            here, ours = trainer_folder(), self._request.trainer
            return f"a worker imports another trainer: {here} there, {ours} here; make them equal"
        if (family := self._request.family) is not None and (why := receive(family)):
            return why
        if (sentinel := self._request.sentinel) is not None:
            try:
                is_there = Path(sentinel.file).read_text(encoding="utf-8") == sentinel.text
            except OSError:
                is_there = False
            if not is_there:
                folder = Path(sentinel.file).parent
                return (
                    f"the machine {platform.node()} does not see the study's folder {folder}; "
                    "give one with --runs that all machines share"
                )
        return ""

    @functools.cached_property
    def _trace(self) -> Path:
        """Where the driver looks for it; on another machine, which has no such folder, nobody needs it."""
        trace = self._request.trace_path
        is_elsewhere = "://" in self._request.location and not trace.parent.parent.is_dir()
        return Path(tempfile.mkdtemp(prefix="tinysearch-"), trace.name) if is_elsewhere else trace

    @functools.cached_property
    def _checkpoints(self) -> Checkpoints:
        return checkpoints_at(self._request.location, **self._patience)

    @property
    def _patience(self) -> dict[str, Any]:
        """How long to retry if the checkpoint location does not answer: the usual time, but a small share of a hang."""
        return {"patience_seconds": min(PATIENCE_SECONDS, self._longest_slice), "on_wait": self._note_wait}

    def _note_wait(self, seconds: float) -> None:
        self._faults.append(f"{STORE_SILENT}: no answer for {seconds:.0f} s")

    def _advance(self, corpus: Corpus | None) -> TrialReport:
        if self._run is None:
            self._gpu_lock = self._lock_of_device()
            self._start(corpus)
        if self._unreported:
            measurement = self._unreported.pop(0)
            return TrialReport(tokens=measurement["tokens"], measurement=measurement)
        return self._train()

    def _fetched_text(self) -> Corpus | None:
        """The text, if it is not read from the paths of the configuration. Raises CorpusError, ObjectStoreError."""
        if (text := self._request.text) is None:
            return None
        from trainer.config import TrainConfig

        train, store = TrainConfig.from_dict(self._request.train), ObjectStore(text.url, **self._patience)
        return fetch_corpus(text.digest, store, vocab_size=train.model.vocab_size, cache_dir=train.cache_dir)

    def _start(self, corpus: Corpus | None) -> None:
        """Begin, or resume from the checkpoint. Raises CorpusError if the text is not the search's."""
        from trainer.checkpoint import CheckpointError
        from trainer.config import TrainConfig
        from trainer.loop import TrainingRun
        from trainer.text.errors import CorpusError

        config = TrainConfig.from_dict(self._request.train)
        if self._request.memory_share is not None:
            limit_memory(self._request.memory_share)
        with self._locked():
            run = self._run = TrainingRun(config, corpus)
        expected = self._request.corpus_digests
        if expected and run.corpus.digest not in expected:
            raise CorpusError(
                f"the text has changed since the search began: {run.corpus.about}; bring back what it was"
            )
        for name in filter(None, (self._checkpoint, self._request.continues)):
            with contextlib.ExitStack() as reading:
                with self._watched_lock():  # fetching needs no lock on the device
                    path = reading.enter_context(self._checkpoints.to_read(name))
                if path is None:
                    continue
                with self._locked():
                    try:
                        run.restore(path)
                        break
                    except CheckpointError as error:
                        self._checkpoints.delete(name)
                        run.close()
                        run = self._run = TrainingRun(config, run.corpus)
                        reason = str(error).removeprefix(f"{path}: ").partition("; ")[0]
                        self._faults.append(
                            f"{CHECKPOINT_DAMAGED}: {reason}; deleted, and trained again from the start"
                        )
        # The report of a rung may have been lost with the worker; the driver ignores reports that it has.
        self._unreported = [self._reported(m) for m in run.measurements]

    def _train(self) -> TrialReport:
        rung = next(rung for rung in self._rungs if rung > self._run.tokens)
        if self._gpu_lock is None:
            with self._locked():
                measurement = self._run.advance(rung, max_seconds=self._slice_seconds)
        else:
            measurement = self._train_beside_others(rung)
        self._save()
        return TrialReport(
            tokens=self._run.tokens,
            tokens_per_second=self._tokens_per_second,
            measurement=None if measurement is None else self._reported(measurement),
        )

    def _lock_of_device(self) -> GpuLock | None:
        """The lock on a device that others use too. A trial that does not measure alone still lets others do so."""
        if self._request.exclusive:
            return None
        with self._watched_lock():
            device = this_device()
        try:
            return GpuLock(device)
        except GpuLockError:
            if self._request.measures_alone:
                raise
            return None

    @contextlib.contextmanager
    def _locked(self, *, is_exclusive: bool = False) -> Iterator[None]:
        """Hold the device, under the watchdog. Waiting for it is not watched, because the holder is watched too."""
        lock: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        if self._gpu_lock is not None:
            lock = self._gpu_lock.exclusive() if is_exclusive else self._gpu_lock.shared()
        with lock, self._watched_lock():
            yield

    def _watched(self) -> contextlib.AbstractContextManager[None]:
        return watched(self._trace, self._hang_seconds)

    def _watched_lock(self) -> contextlib.AbstractContextManager[None]:
        """The watchdog of a step that may wait for others covers only part of it; of any other step it covers all."""
        return contextlib.nullcontext() if self._request.exclusive else self._watched()

    def _train_beside_others(self, rung: int) -> Any:
        """As TrainingRun's `advance`. No slice ends within the steps trained alone, so no save comes between them."""
        run, speed = self._run, None
        seconds = self._slice_seconds
        while (steps := self._steps_beside_others(rung)) and seconds > 0:
            with self._locked():
                started = time.monotonic()
                stop = min(rung, run.tokens + steps * run.config.tokens_per_step)
                run.train(stop, max_seconds=min(seconds, SHARED_SECONDS))
                seconds -= time.monotonic() - started
        if not steps and run.tokens < rung:
            with self._locked(is_exclusive=True):
                speed = self._speed_to(rung)
        if run.tokens < rung:
            return None
        with self._locked():
            return run.measure(speed)

    def _speed_to(self, rung: int) -> float:
        """Train to a rung. The speed is that of whole steps if there are any: a cut step takes as long for less."""
        run, size = self._run, self._run.config.tokens_per_step
        whole = run.tokens + (rung - run.tokens) // size * size
        return [run.train(tokens) for tokens in (whole, rung) if tokens > run.tokens][0]

    def _steps_beside_others(self, rung: int) -> int:
        """Steps to train beside others before the speed is measured at this rung; all, if it is not measured alone."""
        run = self._run
        size = run.config.tokens_per_step
        left = -(-(rung - run.tokens) // size)
        if not self._request.measures_alone:
            return left
        last_rung = max((passed for passed in self._rungs if passed <= run.tokens), default=0)
        known = [run.tokens_per_second, *(m.tokens_per_second for m in run.measurements[-1:])]
        return steps_beside_others(
            left=left,
            all_steps=-(-(rung - last_rung) // size),
            is_warm=run.is_warm,
            steps_per_second=max(known) / size,
            max_seconds=self._longest_slice,
        )

    @property
    def _tokens_per_second(self) -> float:
        """The speed of the run so far, or the last one that was measured alone: speeds beside others say less."""
        if self._request.measures_alone and self._run.measurements:
            return self._run.measurements[-1].tokens_per_second
        return self._run.tokens_per_second

    def _reported(self, measurement: Any) -> dict[str, Any]:
        """A Measurement as the driver records it. The driver knows whether the device is shared; the trainer cannot."""
        exclusive = measurement.exclusive and (self._request.exclusive or self._request.measures_alone)
        return {**measurement.to_dict(), "exclusive": exclusive, "environment": environment(self._run)}

    def _save(self) -> None:
        """Save. Then set the slice length so that saving stays a small share of it, and far from a hang."""
        started = time.monotonic()
        with contextlib.ExitStack() as writing:
            path = writing.enter_context(self._checkpoints.to_write(self._checkpoint))
            with self._locked():
                self._run.save(path)
            with self._watched_lock():
                writing.close()  # an upload needs no device
        wanted = max(SLICE_SECONDS, (time.monotonic() - started) / SAVE_SHARE)
        self._slice_seconds = min(wanted, MAX_SLICE_SECONDS, self._longest_slice)


def environment(run: Any) -> dict[str, Any]:
    """What a run's results depend on besides its configuration: the machine, the versions, the trainer's source."""
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


def limit_memory(share: float) -> None:
    """Limit this process to a share of its GPU's memory; beyond it, only this process is out of memory."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)
