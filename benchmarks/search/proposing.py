"""How long the search controller thinks about a proposal when its study holds many trials.

The study is filled through the controller's own interface: the trials it is to hold are presets of the space, which it
hands out first and without thinking. Then every proposal is timed while others are running, and one of these is
trained, so that the next proposal has something new to learn from.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import replace

import numpy as np

from benchmarks.search.controller import Tinysearch
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
    controller = Tinysearch(problem, seed, presets=points[:num_trials])
    while len(controller.study.records) < num_trials:
        _train(controller, _next(controller), table, rng)
    running = deque(_next(controller) for _ in range(NUM_RUNNING))
    seconds = []
    for _ in range(NUM_TIMED):
        _train(controller, running.popleft(), table, rng)
        controller.study._decisions.is_made = False  # a report thinks ahead; a proposal is timed with all its thinking
        started = time.perf_counter()
        running.append(_next(controller))
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds)


def _next(controller: Tinysearch) -> Proposal:
    proposal = controller.propose()
    assert proposal is not None, "the study is to hold more"
    return proposal


def _train(controller: Tinysearch, proposal: Proposal, table: Table, rng: np.random.Generator) -> None:
    """Report a random row's curve until the search controller stops it or it ends."""
    row = int(rng.integers(table.num_configurations))
    length = int(table.lengths[row])
    done = controller.study.records[proposal.key].tokens
    for rung in (rung for rung in controller.rungs if done < rung < length):
        if not controller.report(proposal.key, rung, float(table.values[row, rung - 1])):
            return
    controller.finished(proposal.key, length, float(table.full_values[row]))
