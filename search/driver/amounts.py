"""Numbers and times of the command line: what each option takes, checked before anything is read, made or written.

They are read as in a space file, so that `1e6`, `1M` and `1_000_000` are one number in both.
"""

from __future__ import annotations

import math

from search.driver.deadline import check_until
from search.driver.hardware import check_shares
from search.space.document import parse_number
from search.worker.object_store import check_url

MIN_HANG_MINUTES = 0.5  # a first step reads the text, builds the model and may compile it
MAX_HANG_MINUTES = 60 * 24 * 30
MAX_SEED = 2**63 - 1  # torch takes twice as much, and `confirm` counts on from a search's seed
MAX_TRIALS = 10**9


def check_amounts(
    *,
    trials: str | None = None,
    max_tokens: str | None = None,
    until: str | None = None,
    hang_minutes: float = 30.0,
    seed: int = 0,
    storage_path: str | None = None,
    trials_per_gpu: str | None = None,
    gpus_per_trial: float | None = None,
    cpus_per_trial: float | None = None,
    parallel: int | None = None,
) -> None:
    """Raises ValueError for the first of these options of a search that can mean nothing."""
    check_trials(trials)
    number_of_tokens(max_tokens)
    if until is not None:
        check_until(until)
    seconds_to_hang(hang_minutes)
    if trials_per_gpu is not None:
        gpu_share(trials_per_gpu)
    check_shares(gpus_per_trial=gpus_per_trial, cpus_per_trial=cpus_per_trial, parallel=parallel)
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"--seed {seed}: give a whole number from 0 to {MAX_SEED}")
    if storage_path is not None:
        check_url(storage_path)


def check_trials(asked: str | None) -> int | None:
    """The number in `N` or `+N`; None if nothing was asked. Raises ValueError."""
    if asked is None:
        return None
    number = _whole(asked)
    if number is None:
        raise ValueError(f"--trials {asked}: give a number, or +N for N more")
    if number < 1:
        raise ValueError(f"--trials {asked} is no search; give at least 1")
    if number > MAX_TRIALS:
        raise ValueError(f"--trials {asked}: give at most {MAX_TRIALS:,}")
    return number


def number_of_tokens(asked: str | None) -> int | None:
    """`54M` as a number; None if nothing was asked. Raises ValueError."""
    if asked is None:
        return None
    number = _whole(asked)
    if number is None or number < 1:
        raise ValueError(f"--max-tokens {asked}: give a token count such as 500K or 27M")
    return number


def gpu_share(trials_per_gpu: str) -> float | None:
    """The share of a GPU of each of so many trials; None for `auto`. Raises ValueError."""
    if trials_per_gpu == "auto":
        return None
    number = _whole(trials_per_gpu)
    if number is None or not 1 <= number <= 100:
        raise ValueError(f"--trials-per-gpu {trials_per_gpu}: give a number of trials, or auto")
    return 1 / number


def seconds_to_hang(minutes: float) -> float:
    """Raises ValueError unless it is a time to wait."""
    if not MIN_HANG_MINUTES <= minutes <= MAX_HANG_MINUTES:
        raise ValueError(f"--hang-minutes {minutes:g}: give {MIN_HANG_MINUTES:g} to {MAX_HANG_MINUTES:,} minutes")
    return minutes * 60


def _whole(text: str) -> int | None:
    number = parse_number(text)
    if number is None or not math.isfinite(number) or number != int(number):
        return None
    return int(number)
