"""Recognises keys and entries from sweeps of other tools before the grammar does, and says what to write here instead.

Each such entry gets one message and is then left out, so that it hides no other fault of the file. A file without any
is unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from search.space.document import Faults, Path_, parse_number
from search.space.foreign_search import about_search, is_schedule
from search.space.synonyms import advice_for, note_of, synonym
from search.space.translation import PARTS, TELLING, Ours, as_ours, translated
from trainer.config import parameter_types
from trainer.families.registry import BUILT_IN

OUT = "leave it out"
NAMED = f"a study is named on the command line, by --name; {OUT}"
NO_PROGRAM = f"no program of yours is run: family names the model, and the trainer trains it; {OUT}"
NO_ACCOUNT = f"studies are kept in the folder runs/, or in a database (--storage); {OUT}"
METRIC = "write metric: {name: bits_per_byte, goal: minimize}"
MACHINE = f"the command line shares out the machine: --parallel, --gpus-per-trial, --cpus-per-trial; {OUT}"
UNTIL = f"give it as --until 8h, or as tokens of a trial: budget: {{max_tokens: N}}; {OUT}"

FOREIGN_KEYS: dict[str, str] = {
    **dict.fromkeys(("name", "study_name", "experiment_name", "experimentName", "sweep_name", "experiment"), NAMED),
    **dict.fromkeys(
        ("program", "command", "entrypoint", "script", "trial_command", "trialCommand", "trialCodeDirectory", "codeDir",
         "trial", "trainable"),
        NO_PROGRAM,
    ),
    **dict.fromkeys(
        ("project", "entity", "group", "job_type", "tags", "notes", "wandb", "storage", "local_dir", "storage_path",
         "experimentWorkingDirectory", "logdir", "log_dir", "output_dir", "run", "sweep"),
        NO_ACCOUNT,
    ),
    **dict.fromkeys(("minimize", "maximize", "optimize_mode", "optimization_config", "objective_name"), METRIC),
    **dict.fromkeys(
        ("resources_per_trial", "trialConcurrency", "trial_concurrency", "trialGpuNumber", "max_concurrent",
         "resources", "max_concurrent_trials", "concurrency", "trainingService", "training_service", "n_jobs",
         "num_workers"),
        MACHINE,
    ),
    **dict.fromkeys(("stop", "timeout", "time_budget_s", "maxExperimentDuration", "max_duration", "time_limit"), UNTIL),
    **dict.fromkeys(
        ("parameter_constraints", "parameterConstraints"), "write rules: [{require: d_model % n_heads == 0}]"
    ),
    **dict.fromkeys(("outcome_constraints", "metric_constraints"), "write limits: {num_params: {max: 2M}}"),
    "defaults": f"it is Hydra's; {OUT}",
    "imports": f"{NO_PROGRAM}",
}  # fmt: skip
"""Top-level keys of other tools that have no one-word counterpart here (those are in names.MISTAKEN_KEYS)."""

COUNTS = (
    "run_cap", "n_trials", "num_samples", "num_trials", "max_trials", "maxTrialNumber", "max_trial_number",
    "total_trials", "trials", "count", "max_evals",
)  # fmt: skip
SPACES = ("search_space", "searchSpace", "param_space", "hyperparameters", "params", "space", "config", "sweep_config")
"""What other tools call `parameters`."""


def without_foreign(value: dict[str, Any], faults: Faults, family: str) -> dict[str, Any]:
    """The values of a document without other tools' entries; each gets a message with what to write here."""
    names = parameters_of(family)
    value = dict(value)
    for key in list(value):
        if message := _about_key(key, value[key], names):
            faults.add(message, key)
        elif key == "hydra":
            faults.add(f"it is Hydra's; write what it sweeps under parameters, and {OUT}", key)
            for path, entry in _hydra(value[key]):
                _note(path, entry, names, faults)
        elif key in SPACES and isinstance(value[key], dict):
            faults.add("here it is called parameters", key)
            for name, entry in value[key].items():
                _note((key, name), entry, names, faults)
        else:
            continue
        del value[key]
    entries = value.get("parameters")
    if isinstance(entries, dict):
        foreign = [name for name, entry in entries.items() if _note(("parameters", name), entry, names, faults)]
        value["parameters"] = {name: entry for name, entry in entries.items() if name not in foreign}
    elif isinstance(entries, list):  # if it is not a list, the grammar reports it
        for i, entry in enumerate(entries):
            name = entry.get("name") if isinstance(entry, dict) else None
            if isinstance(name, str):
                rest = {key: part for key, part in entry.items() if key != "name"}
                faults.add(_written(name, translated(rest) or as_ours(rest), names), "parameters", i)
    return value


def parameters_of(family: str) -> dict[str, type]:
    """What a configuration of the family may set; if the family is empty, of any of the trainer's."""
    families = [family] if family else BUILT_IN
    return {name: kind for known in families for name, kind in parameter_types(known).items()}


def _about_key(key: str, entry: Any, names: dict[str, type]) -> str | None:
    """What to do about a top-level key; None if it may be valid here, or is unknown to all tools."""
    if (key != "scheduler" or not is_schedule(entry)) and (advice := about_search(key, entry)):
        return advice
    if key in COUNTS:
        is_number = isinstance(entry, (int, float)) and not isinstance(entry, bool)
        return f"write budget: {{trials: {entry if is_number else 'N'}}}"
    if key in FOREIGN_KEYS:
        return FOREIGN_KEYS[key]
    if key in ("mode", "direction", "goal") and entry in ("min", "max", "minimize", "maximize"):
        return METRIC
    if key != "model" and (advice := advice_for(key)):
        return advice
    if not key.isidentifier() or key in ("model", "hydra"):
        is_dotted = "." in key and synonym(key, names) is not None
        return f"write it under parameters, as {synonym(key, names)}" if is_dotted else None
    if (ours := synonym(key, names)) is not None:
        found = translated(entry) or as_ours(entry)
        return f"belongs under parameters: write {_entry(ours, found, names)}"
    return None


def _hydra(value: Any) -> Iterator[tuple[Path_, Any]]:
    """The swept parameters of Hydra's section, with their paths."""
    for path in (("sweeper", "params"), ("sweeper", "search_space")):
        swept = value
        for key in path:
            swept = swept.get(key) if isinstance(swept, dict) else None
        if isinstance(swept, dict):
            yield from ((("hydra", *path, name), entry) for name, entry in swept.items())


def _note(path: Path_, entry: Any, names: dict[str, type], faults: Faults) -> bool:
    """Report a parameter that is another tool's, by its name or its entry; returns whether it is."""
    name = str(path[-1])
    if path[0] == "parameters" and name in names and not _is_foreign(entry):
        if (wrong := _about_values(entry)) is None:
            return False
        faults.add(wrong[1], *path, *wrong[0])
        return True
    inner = entry.get("parameters", entry) if isinstance(entry, dict) else None
    are_mappings = isinstance(inner, dict) and bool(inner) and all(isinstance(part, dict) for part in inner.values())
    if isinstance(inner, dict) and are_mappings and name not in names:
        below = (*path, *(["parameters"] if inner is not entry else []))
        for key, part in inner.items():
            meant = translated(part) or as_ours(part)
            faults.add(f"parameters are not nested here: {_written(key, meant, names)}", *below, key)
        return True
    found = translated(entry)
    if found is None:
        if (ours := synonym(name, names)) is None and (advice := advice_for(name)):
            faults.add(f"{advice}", *path)
            return True
        if path[0] == "parameters" and not (ours and not name.isidentifier()):
            return False  # the grammar says what is wrong, and the loader what the name may mean
        found = as_ours(entry)
    faults.add(_written(name, found, names), *path)
    return True


def _is_foreign(entry: Any) -> bool:
    if isinstance(entry, dict):
        return bool(TELLING & entry.keys())
    return isinstance(entry, list) or (isinstance(entry, str) and parse_number(entry) is None)


def _about_values(entry: Any) -> tuple[Path_, str] | None:
    """Where an entry's values are lists, mappings or too many, and what to do; None if they are not."""
    if not isinstance(entry, dict):
        return None
    for key in ("value", "default"):
        if isinstance(entry.get(key), (dict, list)):
            return (key,), f"expected one value, got {_kind(entry[key])}; {PARTS}"
    values = entry.get("values")
    for i, value in enumerate(values if isinstance(values, list) else []):
        if isinstance(value, (dict, list)):
            return ("values", i), f"expected one value, got {_kind(value)}; {PARTS}"
    return None


def _kind(value: Any) -> str:
    return "a mapping" if isinstance(value, dict) else "a list"


def _written(name: str, found: Ours | None, names: dict[str, type]) -> str:
    """`write learning_rate: {min: 1e-05, max: 0.1, log: true, default: 0.001}`."""
    ours = name if name in names else synonym(name, names)
    if ours is None and (advice := advice_for(name)):
        return advice
    return f"write {_entry(ours or name, found, names)}"


def _entry(name: str, found: Ours | None, names: dict[str, type]) -> str:
    if note := note_of(name):  # the other tool uses another unit
        found, name = None, f"{name}{note}"
    is_whole = "int" in str(names.get(name, "")) and "float" not in str(names.get(name, ""))
    return f"{name}: {(found or Ours()).written(is_whole=is_whole)}"
