"""How long a proposal takes with each sampler, when its study holds 50, 200 and 1,000 trials.

The trials are random configurations of a space, each with a value at every rung from a smooth formula with noise; two
thirds were stopped at the first rung, as early stopping would. Each sampler sees the same trials. A proposal is timed
with everything that belongs to it: the mirror, the sampler's own fitting, moving to valid values, rules and limits, and
asking again. Between proposals one more trial is learned, so that nothing can be reused. Figures are medians, and CPU
time, so that other programs do not count.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from search.space.loading import load_space
from search.space.spec import SAMPLERS, Named
from search.strategy.choice import SeenTrial, State
from search.strategy.curves import Curve
from search.strategy.feasibility import Feasibility
from search.strategy.samplers import Choosing, strategy_of
from search.strategy.sampling import Candidates

SIZES = (50, 200, 1000)
NUM_TIMED = 5
RUNGS = (1000, 3000, 9000)
OPTIONS: dict[str, dict[str, Any]] = {"grid": {"points": 2}, "cmaes": {"consider_pruned_trials": True}}


def proposal_ms(space_file: Path, sampler: str, num_trials: int, *, num_timed: int = NUM_TIMED, seed: int = 0) -> float:
    """The median CPU time of a proposal, in milliseconds, of a study with so many trials."""
    space = load_space(space_file)
    candidates = Candidates(space, Feasibility.of(space, space.budget()).reasons_against, seed)
    decides = strategy_of(
        Named(sampler, OPTIONS.get(sampler, {})), Named("none"), Choosing(space, candidates, RUNGS, 3, seed)
    )
    rng = np.random.default_rng(seed)
    curves: list[Curve] = []

    def learn(values: dict[str, Any], attrs: dict[str, Any]) -> None:
        number = len(curves)
        is_finished = number % 3 == 0
        shown = RUNGS if is_finished else RUNGS[:1]
        quality = float(np.square(candidates.point(values) - 0.4).mean() + 0.02 * rng.normal())
        measured = {tokens: (quality + 1 / math.log(tokens),) for tokens in shown}
        candidates.start(values)
        curves.append(Curve(number, candidates.point(values), {i: measured[t][0] for i, t in enumerate(shown)}))
        state = State.FINISHED if is_finished else State.PAUSED
        decides.learn(SeenTrial(number, values, state, measured, attrs))

    while len(curves) < num_trials:
        learn(candidates.random(rng), {})
    times = []
    for _ in range(num_timed):
        started = time.process_time()
        choice = decides.next(curves, can_start=True)
        times.append(time.process_time() - started)
        learn(choice.values, dict(choice.origin.attrs))  # type: ignore[union-attr]  # with `none` it is a start
    return 1e3 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, default=Path("spaces/hybrid.yaml"))
    parser.add_argument("--samplers", default=",".join(name for name in SAMPLERS if name not in ("optunahub", "grid")))
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sizes = [int(size) for size in options.sizes.split(",")]
    print("milliseconds a proposal, by the number of trials")
    print(f"{'sampler':<10}" + "".join(f"{size:>10,}" for size in sizes))
    for sampler in options.samplers.split(","):
        row = [proposal_ms(options.space, sampler, size) for size in sizes]
        print(f"{sampler:<10}" + "".join(f"{ms:>10,.1f}" for ms in row), flush=True)


if __name__ == "__main__":
    main()
