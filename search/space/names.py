"""Unknown names and keys: what they are called here, if they are known from other tools or misspelt."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from search.space.document import given
from search.space.measurement import MEASURED

MEASUREMENTS = tuple(MEASURED)

MISTAKEN_KEYS = {
    "low": "min", "lower": "min", "minimum": "min", "from": "min", "lo": "min", "min_value": "min",
    "high": "max", "upper": "max", "maximum": "max", "to": "max", "hi": "max", "max_value": "max",
    "choices": "values", "options": "values", "categorical": "values", "enum": "values", "grid": "values",
    "const": "value", "constant": "value", "fixed": "value",
    "log_uniform": "log", "logscale": "log", "log_scale": "log", "distribution": "min, max and log",
    "q": "step", "condition": "when", "if": "when", "depends_on": "when", "formula": "derive", "expr": "derive",
    "constraints": "rules", "params": "parameters", "hyperparameters": "parameters", "search_space": "parameters",
    "model": "family", "description": "about", "objective": "metric", "direction": "goal", "mode": "goal",
    "rule": "require", "reason": "why", "increase": "raise", "decrease": "lower", "num_trials": "trials",
    "objectives": "metrics", "scheduler": "stopping", "pruner": "stopping", "early_terminate": "stopping",
    "early_stopping": "stopping", "stopper": "stopping", "method": "sampler", "searcher": "sampler",
    "search_alg": "sampler", "algorithm": "sampler", "optimizer": "sampler", "tuner": "sampler",
}  # fmt: skip
"""Keys of other tools, and their names here."""

MISTAKEN_NAMES = {
    "val_loss": "loss", "eval_loss": "loss", "valid_loss": "loss", "validation_loss": "loss", "test_loss": "loss",
    "val/loss": "loss", "eval/loss": "loss", "perplexity": "loss", "ppl": "loss", "bpc": "bits_per_byte",
    "vram_bytes": "peak_vram_bytes", "peak_memory": "peak_vram_bytes", "gpu_memory": "peak_vram_bytes",
    "num_parameters": "num_params", "n_params": "num_params", "size": "num_params", "tok/s": "tokens_per_second",
    "tokens_per_sec": "tokens_per_second", "bpb": "bits_per_byte", "speed": "tokens_per_second",
    "throughput": "tokens_per_second",
    "memory": "peak_vram_bytes", "vram": "peak_vram_bytes", "params": "num_params", "parameters": "num_params",
    "time": "train_seconds", "increase": "up", "higher": "up", "decrease": "down", "lower": "down",
    "neutral": "none", "max": "maximize", "min": "minimize",
}  # fmt: skip
"""Common names of measurements and directions, and their names here."""


def unknown_key(key: str, fields: dict[str, Any]) -> str:
    known = [field.alias or name for name, field in fields.items()]
    if (ours := MISTAKEN_KEYS.get(key)) and any(part in known for part in ours.replace(",", " ").split()):
        return f"unknown key {given(key)}; here it is called {ours}"
    return unknown("key", key, known)


def unknown_measurement(name: str) -> str:
    """The message for an unknown measurement."""
    return unknown("measurement", name, MEASUREMENTS)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = [ours] if (ours := MISTAKEN_NAMES.get(name)) in known else difflib.get_close_matches(name[:60], known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {given(name)}. Known: {', '.join(known)}.{hint}"
