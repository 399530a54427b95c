"""What other tools call their samplers and their early stopping, and what to write here."""

from __future__ import annotations

import re
from typing import Any

SAMPLER_KEYS = (
    "sampler", "search_alg", "searcher", "tuner", "algorithm", "advisor", "method", "search_strategy", "optimizer",
)  # fmt: skip
STOPPING_KEYS = ("early_terminate", "pruner", "assessor", "early_stopping", "stopper", "scheduler")

_SAMPLERS = {
    "tpe": "tpe tpesampler hyperopt hyperoptsearch optuna optunasearch tpesearch tpebased",
    "gp": "gp gpsampler bayes bayesian bayesopt bayesoptsearch gaussianprocess botorch gptuner ax axsearch skopt",
    "cmaes": "cmaes cmaessampler cma cmaessearch",
    "random": "random randomsampler randomsearch basicvariant basicvariantgenerator",
    "qmc": "qmc qmcsampler sobol halton",
    "grid": "grid gridsampler gridsearch bruteforce bruteforcesampler",
    "nsga2": "nsga2 nsgaii nsgaiisampler evolution evolutiontuner evolutionary",
    "nsga3": "nsga3 nsgaiii nsgaiiisampler",
}
_STOPPERS = {
    "asha": "asha ashascheduler asynchyperband asynchyperbandscheduler successivehalving successivehalvingpruner sha",
    "hyperband": "hyperband hyperbandscheduler hyperbandpruner hyperbandforbohb bohb bohbadvisor tunebohb",
    "median": "median medianpruner medianstop medianstopping medianstoppingrule percentilepruner",
    "none": "none nop noppruner fifo fifoscheduler",
}
_OURS = {
    "sampler": {theirs: ours for ours, names in _SAMPLERS.items() for theirs in names.split()},
    "stopping": {theirs: ours for ours, names in _STOPPERS.items() for theirs in names.split()},
}
_DEFAULTS = {
    "sampler": "a model of all trials so far proposes",
    "stopping": "a model pauses weak trials at the budget's rungs (min_tokens, eta)",
}


def about_search(key: str, entry: Any) -> str | None:
    """What to write for another tool's sampler or early stopping; None for any other key."""
    if key in SAMPLER_KEYS and key != "optimizer" or key == "optimizer" and our_name("sampler", entry):
        return _advice("sampler", entry)
    if key in STOPPING_KEYS:
        return _advice("stopping", entry)
    return None


def is_schedule(entry: Any) -> bool:
    """Whether `scheduler` is of learning rates."""
    return not isinstance(entry, dict) and str(entry).lower() in ("constant", "cosine", "wsd", "linear")


def _advice(part: str, entry: Any) -> str:
    default = f"or leave it out: {_DEFAULTS[part]}"
    if (ours := our_name(part, entry)) is None:
        return f"write search: {{{part}: {'tpe' if part == 'sampler' else 'asha'}}} or another name, {default}"
    return f"write search: {{{part}: {ours}}}, {default}"


def our_name(part: str, entry: Any) -> str | None:
    """Our name for what an entry says: a name, or a mapping with one."""
    if isinstance(entry, dict):
        names = [entry.get(key) for key in ("type", "name", "class_name", "className", "builtinTunerName", "_target_")]
        entry = next((name for name in names if isinstance(name, str)), None)
    if not isinstance(entry, str):
        return None
    last = re.split(r"[.:]", entry.partition("(")[0])[-1]
    return _OURS[part].get(re.sub(r"[^a-z0-9]", "", last.lower()))
