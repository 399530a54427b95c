"""How long the brain thinks about a proposal when its study holds many trials.

The study is filled through the brain's own interface: the trials it is to hold are presets of the space, which it
hands out first and without thinking. Then every proposal is timed, and its trial reports, so that the next is one more.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import numpy as np

from benchmarks.search.brain import Tinysearch
from benchmarks.search.policy import Problem, Proposal
from benchmarks.search.table import Table

NUM_TIMED = 15


def propose_ms(table: Table, num_trials: int, *, seed: int = 0, num_timed: int = NUM_TIMED) -> float:
    """The median time of a proposal, in milliseconds, of a study that holds `num_trials`, a few of them running.

    Configurations are drawn anew in the unit cube (the table may have fewer); each gets the curve of a random row.
    """
    rng = np.random.default_rng(seed)
    points = [np.array([_drawn(axis.num_levels, rng) for axis in table.axes]) for _ in range(num_trials)]
    problem = replace(Problem.of(table, 1.0), points=rng.random((2 * num_trials + num_timed, len(table.axes))))
    brain = Tinysearch(problem, seed, presets=points)
    while len(brain.study.records) < num_trials:
        _train(brain, _next(brain), table, rng)
    seconds = []
    for _ in range(num_timed):
        started = time.perf_counter()
        proposal = _next(brain)
        seconds.append(time.perf_counter() - started)
        _train(brain, proposal, table, rng)
    return 1e3 * statistics.median(seconds)


def _drawn(num_levels: int, rng: np.random.Generator) -> float:
    return rng.integers(num_levels) / (num_levels - 1) if num_levels else rng.random()


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
