"""Numbers and times on the command line: what each option accepts, checked before anything is read or written.

They are parsed as in a space file, so `1e6`, `1M` and `1_000_000` are the same number in both.
"""

from __future__ import annotations

import math

MIN_HANG_MINUTES = 0.5  # the first step reads the text, builds the model and may compile it
MAX_HANG_MINUTES = 60 * 24 * 30
MAX_SEED = 2**63 - 1  # torch takes twice as much, and `confirm` counts up from a search's seed
MAX_TRIALS = 10**9


def check_seed(seed: int) -> None:
    """Raises ValueError for a seed that torch does not accept."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"--seed {seed}: give a whole number from 0 to {MAX_SEED}")


def check_trials(asked: str | None) -> int | None:
    """The number in `N` or `+N`; None if the option was not given. Raises ValueError."""
    if asked is None:
        return None
    number = _whole(asked)
    if number is None:
        raise ValueError(f"--trials {asked}: give a number, or +N for N more")
    if number < 1:
        raise ValueError(f"--trials {asked}: give at least 1")
    if number > MAX_TRIALS:
        raise ValueError(f"--trials {asked}: give at most {MAX_TRIALS:,}")
    return number


def number_of_tokens(asked: str | None) -> int | None:
    """`54M` as a number; None if the option was not given. Raises ValueError."""
    if asked is None:
        return None
    number = _whole(asked)
    if number is None or number < 1:
        raise ValueError(f"--max-tokens {asked}: give a token count such as 500K or 27M")
    return number


def gpu_share(trials_per_gpu: str) -> float | None:
    """The share of a GPU for each of that many trials; None for `auto`. Raises ValueError."""
    if trials_per_gpu == "auto":
        return None
    number = _whole(trials_per_gpu)
    if number is None or not 1 <= number <= 100:
        raise ValueError(f"--trials-per-gpu {trials_per_gpu}: give a number of trials, or auto")
    return 1 / number


def seconds_to_hang(minutes: float) -> float:
    """The minutes in seconds. Raises ValueError if they are out of range."""
    if not MIN_HANG_MINUTES <= minutes <= MAX_HANG_MINUTES:
        raise ValueError(f"--hang-minutes {minutes:g}: give {MIN_HANG_MINUTES:g} to {MAX_HANG_MINUTES:,} minutes")
    return minutes * 60


def _whole(text: str) -> int | None:
    from search.space.document import parse_number  # needs YAML, which `--help` can do without

    number = parse_number(text)
    if number is None or not math.isfinite(number) or number != int(number):
        return None
    return int(number)
