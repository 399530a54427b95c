"""Many cases one after another in a process of their own: what each came to, how long it took, how much memory.

The process has a limit on its address space, and one that is silent for MAX_SECONDS is ended. A case that hangs, or
ends its process, is a finding like any other, and the next process continues after it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SLOW_SECONDS = 1.0
MAX_SECONDS = 60.0
MAX_BYTES = 3 * 2**30  # of address space beyond what the process has when it starts

LOADED = "loaded"
REFUSALS = ("SpaceError", "StudyError", "CheckpointError", "CorpusError", "ConfigError")

Opening = Callable[[], Any]
Case = Callable[[Path, int], Opening]
"""Makes the file of a number in the folder; what it returns opens that, which is measured."""


@dataclass(frozen=True)
class Outcome:
    """What became of one case: LOADED, the name of the error that refused it, or `what` else went wrong."""

    number: int
    what: str
    seconds: float = 0.0
    grown_bytes: int = 0  # of the process's peak
    message: str = ""

    @property
    def is_fault(self) -> bool:
        return self.what not in (LOADED, *REFUSALS)


@dataclass
class Findings:
    """What a campaign came to."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[Outcome] = field(default_factory=list)
    slow: list[Outcome] = field(default_factory=list)
    slowest: Outcome | None = None
    hungriest: Outcome | None = None

    def add(self, outcome: Outcome) -> None:
        self.outcomes[outcome.what] += 1
        if outcome.is_fault:
            self.faults.append(outcome)
        if outcome.seconds > SLOW_SECONDS:
            self.slow.append(outcome)
        if self.slowest is None or outcome.seconds > self.slowest.seconds:
            self.slowest = outcome
        if self.hungriest is None or outcome.grown_bytes > self.hungriest.grown_bytes:
            self.hungriest = outcome

    def to_dict(self) -> dict[str, Any]:
        return {
            "cases": self.outcomes.total(),
            "outcomes": dict(self.outcomes.most_common()),
            "faults": [asdict(outcome) for outcome in self.faults[:50]],
            "slower_than_1_s": len(self.slow),
            "slowest": None if self.slowest is None else asdict(self.slowest),
            "most_memory": None if self.hungriest is None else asdict(self.hungriest),
        }


def run_campaign(case: Case, numbers: Sequence[int]) -> Findings:
    """Run every case, until Ctrl-C: what was found by then is returned.

    The processes start by `fork`, so this one must not have used threads (torch's, say).
    """
    findings = Findings()
    with contextlib.suppress(KeyboardInterrupt):
        while left := numbers[findings.outcomes.total() :]:
            for outcome in _in_one_process(case, left):
                findings.add(outcome)
    return findings


def run_alone(work: Opening) -> None:
    """Run something in a process of its own. Raises RuntimeError where it fails."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the process ended with {process.exitcode}")


def _in_one_process(case: Case, numbers: Sequence[int]) -> Iterator[Outcome]:
    """The outcomes of a process's cases, the last of which may have ended it."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(case, numbers, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        for number in numbers:
            try:
                if not ours.poll(MAX_SECONDS):
                    yield Outcome(number, "hung", seconds=MAX_SECONDS)
                    return
                yield ours.recv()
            except EOFError:
                process.join()
                yield Outcome(number, f"ended its process ({process.exitcode})")
                return
    finally:
        process.kill()
        process.join()


def _work(case: Case, numbers: Sequence[int], results: Connection) -> None:
    warnings.simplefilter("ignore")
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MAX_BYTES, now + MAX_BYTES))
    for number in numbers:
        results.send(_outcome(case, number))
    results.close()
    os._exit(0)


def _outcome(case: Case, number: int) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="tinysearch-fuzz-") as folder:
        opening = case(Path(folder), number)
        before, started = _peak_bytes(), time.perf_counter()
        what, message = LOADED, ""
        try:
            opening()
        except Exception as error:
            what, message = type(error).__name__, str(error)
            if what not in REFUSALS:
                message = "".join(traceback.format_exception(error))[-2000:]
            elif not message or len(message) > 30_000:
                what = f"{what} of {len(message):,} characters"
        seconds = time.perf_counter() - started
        return Outcome(number, what, seconds, _peak_bytes() - before, message[-2000:])


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
