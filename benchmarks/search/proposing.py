"""How long the brain thinks about a proposal when its study holds many trials.

The study is filled through the brain's own interface: the trials it is to hold are presets of the space, which it
hands out first and without thinking. Then every proposal is timed while others are under way, and one of these is
trained, so that the next proposal has something new to learn from.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import replace

import numpy as np

from benchmarks.search.brain import Tinysearch
from benchmarks.search.policy import Problem, Proposal
from benchmarks.search.table import Axis, Table

NUM_TIMED = 15
NUM_RUNNING = 8


def propose_ms(table: Table, num_trials: int, *, seed: int = 0) -> float:
    """The median time of a proposal, in milliseconds, of a study that holds `num_trials`.

    Each trial gets the curve of a random row. Every axis is a number here: on levels, configurations would repeat.
    """
    rng = np.random.default_rng(seed)
    axes = tuple(Axis(axis.name) for axis in table.axes)
    points = rng.random((num_trials + NUM_RUNNING + NUM_TIMED, len(axes)))
    problem = replace(Problem.of(table, 1.0), axes=axes, points=points)
    brain = Tinysearch(problem, seed, presets=points[:num_trials])
    while len(brain.study.records) < num_trials:
        _train(brain, _next(brain), table, rng)
    running = deque(_next(brain) for _ in range(NUM_RUNNING))
    seconds = []
    for _ in range(NUM_TIMED):
        _train(brain, running.popleft(), table, rng)
        brain.study._decisions.is_made = False  # a report thinks ahead; a proposal is timed with all its thinking
        started = time.perf_counter()
        running.append(_next(brain))
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds)


def _next(brain: Tinysearch) -> Proposal:
    proposal = brain.propose()
    assert proposal is not None, "the study is to hold more"
    return proposal


def _train(brain: Tinysearch, proposal: Proposal, table: Table, rng: np.random.Generator) -> None:
    """Report a random row's curve until the brain stops it or it ends."""
    row = int(rng.integers(table.num_configurations))
    length = int(table.lengths[row])
    done = brain.study.records[proposal.key].tokens
    for rung in (rung for rung in brain.rungs if done < rung < length):
        if not brain.report(proposal.key, rung, float(table.values[row, rung - 1])):
            return
    brain.finished(proposal.key, length, float(table.full_values[row]))
