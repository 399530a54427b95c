"""Workers that break, for searches on a real Ray; see `worker` of `search.driver.tune.run_trials`."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from search.worker.errors import report_of
from search.worker.messages import TrialReport, TrialRequest
from search.worker.trial import TrialRun
from trainer.corpus import Corpus


class FaultyTrial:
    """Of four trials one runs out of memory, one meets a bug and one diverges."""

    def __init__(self, request: TrialRequest):
        self._number = _number_of(request)
        self._rungs = list(request.rungs)

    def step(self) -> TrialReport:
        kind = self._number % 4
        if kind == 1:
            return report_of(RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"))
        if kind == 2:
            return report_of(KeyError("a bug"))
        return _measured(self._rungs.pop(0), loss=float("nan") if kind == 3 else 1.0)

    def close(self) -> None:
        pass


class BreakingTrial(TrialRun):
    """Breaks after its first rung, trained and saved but not reported yet: each trial in a way of its own.

    Trial 0 is killed, 1 hangs, 2 has a CUDA error, and 3 is killed with its checkpoint damaged; the next worker of each
    goes on. Every worker of trial 4 dies.
    """

    def _advance(self, corpus: Corpus | None) -> TrialReport:
        report = super()._advance(corpus)
        checkpoint = Path(self._request.location, self._checkpoint)
        number, broke = _number_of(self._request), checkpoint.with_suffix(".broke")
        if number == 4:
            os._exit(3)
        if number < 4 and not broke.exists():
            broke.touch()
            if number == 1:
                time.sleep(10**6)
            if number == 2:
                import torch

                raise torch.AcceleratorError("CUDA error: device-side assert triggered")
            if number == 3:
                checkpoint.write_bytes(checkpoint.read_bytes()[:-100])
            os.kill(os.getpid(), signal.SIGKILL)
        return report


class LateTrial:
    """The second process to start waits until the first has reported three times.

    In the folder of the study's text: `begun` has a file for each process, and `reported` a line for each report.
    """

    def __init__(self, request: TrialRequest):
        self._rungs = list(request.rungs)
        self._folder = Path(request.train["data"][0]).parent
        mine = self._folder / "begun" / str(os.getpid())
        mine.parent.mkdir(exist_ok=True)
        if mine.exists():
            return
        mine.touch()
        try:
            os.close(os.open(self._folder / "first", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            reported = self._folder / "reported"
            while not reported.exists() or len(reported.read_text().split()) < 3:
                time.sleep(0.1)

    def step(self) -> TrialReport:
        time.sleep(0.5)
        with (self._folder / "reported").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return _measured(self._rungs.pop(0), loss=1.0)

    def close(self) -> None:
        pass


def _number_of(request: TrialRequest) -> int:
    return int(request.checkpoint.rsplit("-", 1)[1].removesuffix(".pt"))


def _measured(tokens: int, *, loss: float) -> TrialReport:
    return TrialReport(tokens=tokens, measurement={"tokens": tokens, "loss": loss, "tokens_per_second": 1.0})
