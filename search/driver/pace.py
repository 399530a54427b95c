"""Measures how fast configurations of a space train here: each for seconds, as many at once as in a search."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from search.driver.hardware import Slots
from search.space.drawing import random_values
from search.space.expression import ExpressionError
from search.space.parameter import Value
from search.strategy.feasibility import Feasibility
from search.study.cost import Pace
from search.study.settings import StudySettings
from search.worker.alone import ignoring_interrupts
from trainer.estimate import estimate

SECONDS_EACH = 2.0
MAX_SECONDS = (
    30.0  # for all, once the first one trains; a configuration whose first step takes longer is known to be slow
)
START_SECONDS = 120.0  # until the first one trains, at most: it imports much of torch, and other processes may run
RAY_SECONDS = 6.0  # until Ray is up
NUM_DRAWN = 200
NUM_TYPICAL = 4


class NoPace(ValueError):
    """No configuration could be trained; the message says why."""


def measured_pace(
    settings: StudySettings, slots: Slots, *, max_seconds: float = MAX_SECONDS, seconds_each: float = SECONDS_EACH
) -> Pace:
    """Train the reference, the configuration with the most FLOPs per token, and some between. Raises NoPace."""
    preset, reference = reference_of(settings)
    drawn = _drawn(settings)
    typical = [drawn[round((i + 0.5) / NUM_TYPICAL * (len(drawn) - 1))] for i in range(min(NUM_TYPICAL, len(drawn)))]
    chosen = [reference, *typical, *drawn[-1:]]
    trains = [settings.train_config(values, num_threads=slots.num_threads).to_dict() for values in chosen]
    at_once = slots.num_slots if not slots.gpus_per_trial else max(1, int(1 / slots.gpus_per_trial + 1e-9))
    own_speeds, seconds_to_start, reason = _speeds(trains, at_once, max_seconds, seconds_each)
    # In tokens as the study counts them, which may be those of another vocabulary.
    end = settings.rungs[-1]
    speeds = [s and s * end / train["rungs"][-1] for s, train in zip(own_speeds, trains, strict=True)]
    known = [speed for speed in speeds if speed]
    if not known:
        why = reason or f"no process trained within {START_SECONDS:.0f} s"
        raise NoPace(f"the speed could not be measured: {why}")
    between = [speed for speed in speeds[1 : 1 + len(typical)] if speed] or known
    mean = len(between) / sum(1 / speed for speed in between)
    return Pace(
        num_slots=slots.num_slots,
        reference=speeds[0] or mean,
        typical=mean,
        slowest=min(known),
        num_measured=len(known),
        startup_seconds=RAY_SECONDS + 2 * seconds_to_start,  # Ray starts processes of its own as well
        is_reference_preset=bool(preset) and bool(speeds[0]),
    )


def reference_of(settings: StudySettings) -> tuple[str, dict[str, Value]]:
    """The first preset that may be launched, or else the space's defaults, without a name."""
    space = settings.space
    feasibility = Feasibility.of(space, settings.budget, settings.run, settings.units)
    for name, preset in space.presets.items():
        if not feasibility.reasons_against(values := space.complete(preset.values)):
            return name, values
    return "", space.complete({})


def _drawn(settings: StudySettings) -> list[dict[str, Value]]:
    """Launchable configurations, drawn at random, in the order of their FLOPs per token."""
    feasibility = Feasibility.of(settings.space, settings.budget, settings.run, settings.units)
    rng = np.random.default_rng(0)
    found: list[tuple[float, int, dict[str, Value]]] = []
    for _ in range(NUM_DRAWN):
        with contextlib.suppress(ExpressionError):
            values = random_values(settings.space, rng)
            if not feasibility.reasons_against(values):
                found.append((estimate(settings.train_config(values)).flops_per_token, len(found), values))
    return [values for _, _, values in sorted(found, key=lambda entry: entry[:2])]


def _speeds(
    trains: Sequence[dict[str, Any]], at_once: int, max_seconds: float, seconds_each: float
) -> tuple[list[float | None], float, str]:
    """Tokens per second of each configuration, None if it cannot be trained; the seconds until the first one trained;
    and why one could not.

    If a configuration had not finished its first step when the time was up, its speed is an upper bound.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in search/worker/alone.py
    speeds: list[float | None] = [None] * len(trains)
    running: dict[Connection, tuple[int, float]] = {}
    reason, processes = "", []
    context, started = multiprocessing.get_context("spawn"), time.monotonic()
    deadline, seconds_to_start = started + START_SECONDS, 0.0
    try:
        for first in range(min(at_once, len(trains))):
            reports, there = context.Pipe(duplex=False)
            jobs = [(i, trains[i]) for i in range(first, len(trains), at_once)]
            process = context.Process(target=_measure, args=(jobs, seconds_each, there), daemon=True)
            with ignoring_interrupts():
                process.start()
            there.close()
            processes.append(process)
            running[reports] = (-1, math.inf)
        while running and (left := deadline - time.monotonic()) > 0:
            for ready in wait(list(running), left):
                assert isinstance(ready, Connection)
                try:
                    number, speed, why = ready.recv()
                except EOFError:
                    del running[ready]
                    continue
                if not seconds_to_start:
                    seconds_to_start, deadline = time.monotonic() - started, time.monotonic() + max_seconds
                if speed is None:
                    running[ready] = (number, time.monotonic())
                else:
                    speeds[number], reason = speed or None, reason or why
                    running[ready] = (-1, math.inf)
        for number, since in running.values():
            if number >= 0 and (seconds := time.monotonic() - since) > seconds_each:
                speeds[number] = _tokens_per_step(trains[number]) / seconds
        return speeds, seconds_to_start, reason
    finally:
        for process in processes:
            process.kill()
            process.join()


def _tokens_per_step(train: dict[str, Any]) -> int:
    from trainer.config import TrainConfig

    return TrainConfig.from_dict(train).tokens_per_step


def _measure(jobs: Sequence[tuple[int, dict[str, Any]]], seconds_each: float, reports: Connection) -> None:
    """In a child process: report when each begins to train, and its speed, or 0 if it cannot be trained."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from trainer.config import TrainConfig
    from trainer.loop import TrainingRun

    for number, train in jobs:
        speed, why = 0.0, ""
        try:
            config = TrainConfig.from_dict(train)
            run = TrainingRun(config)
            reports.send((number, None, ""))
            first = min(config.tokens_per_step, config.budget_tokens)
            speed = run.train(first)  # not counted if another follows: it allocates and imports
            if first < config.budget_tokens:
                speed = run.train(config.budget_tokens, max_seconds=seconds_each)
            run.close()
        except Exception as error:  # out of memory, diverged: such a trial costs little
            why = (str(error).splitlines() or [type(error).__name__])[0]
        reports.send((number, speed, why))
