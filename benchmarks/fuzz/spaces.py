"""Space files to fuzz with, and what loading one means."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from benchmarks.fuzz.campaign import Opening
from benchmarks.fuzz.damage import damaged
from search.space.expression import FUNCTIONS
from search.space.loading import load_space
from search.space.narrowing import narrow
from search.space.spec import SpaceSpec
from search.strategy.feasibility import assess
from trainer.config import parameter_types
from trainer.families.registry import BUILT_IN

SPACES = Path(__file__).resolve().parent.parent.parent / "spaces"
NUM_SAMPLES = 20  # that `assess` draws: enough to evaluate every rule and condition

DUMPER = getattr(yaml, "CDumper", yaml.Dumper)  # ten times faster, where it was built

WRONG: tuple[Any, ...] = (
    None, True, "", " ", "x", "é", "a" * 1000, 0, -1, 0.5, 2**53, 2**60, float("inf"), float("nan"), [], [[]], {},
    {"x": 1}, [1, "a", None], "9**9**9", "1 / 0", "n_layers / 0", "(" * 90 + "1" + ")" * 90, "2 ** (2 ** n_layers)",
    "d_model ** d_model", "-" * 90 + "1", "round(1e300)", "log2(0)", "sqrt(-1)", "max(1, 2, 'a')", "d_model in [1, 2]",
    "not d_model", "min(d_model)", "lambda: 1", "d_model if d_model else 'x'", "'a' * 9", "True + True", "1e-320 * 1",
    list(range(10_000)), {f"k{i}": i for i in range(10_000)}, {"min": 8, "max": 2, "default": 4}, {"derive": "d_model"},
    {"min": "n_layers", "max": "d_model", "default": 1}, {"values": list(range(300)), "default": 1},
    {"min": 1e-300, "max": 1e300, "log": True, "default": 1}, {"min": 0, "max": 2**53, "default": 1, "step": 1e-9},
)  # fmt: skip
"""What may stand where something else should."""


def space_file(seed: int, number: int) -> bytes:
    """The content of a space file: one of ours with damaged bytes, with wrong values, or made of the grammar's keys."""
    rng = random.Random(f"space {seed} {number}")
    path = rng.choice(sorted(SPACES.glob("*.yaml")))
    if number % 3 == 0:
        return damaged(path.read_bytes(), rng)
    tree = yaml.safe_load(path.read_bytes()) if number % 3 == 1 else _invented(rng)
    for _ in range(rng.randint(number % 3 % 2, 2)):
        _spoil(tree, rng)
    dump = json.dumps if rng.random() < 0.5 else _as_yaml
    return dump(tree).encode("utf-8", "surrogatepass")


def space_case(scratch: Path, number: int, *, seed: int) -> Opening:
    """Writes a space file under `scratch`; what comes back opens it."""
    path = scratch / "space.yaml"
    path.write_bytes(space_file(seed, number))
    return partial(open_space, path)


def open_space(path: Path) -> None:
    """All that `tinysearch validate` does, with every budget and goal, and few draws."""
    space = load_space(path)
    for budget in (space.spec.budget, *space.spec.budgets.values()):
        assess(narrow(space, budget=budget), budget, num_samples=NUM_SAMPLES)
    for goal in space.spec.goals:
        assess(narrow(space, goals=[goal]), space.budget(), num_samples=NUM_SAMPLES)


def _invented(rng: random.Random) -> dict[str, Any]:
    """A space of a real family, whose parameters and relations are drawn at random and mostly fit together."""
    family = rng.choice(BUILT_IN)
    types = parameter_types(family)
    names = rng.sample(sorted(types), rng.randint(1, min(12, len(types))))
    keys = sorted(SpaceSpec.model_fields)
    tree: dict[str, Any] = {"family": family, "parameters": {name: _parameter(rng, names) for name in names}}
    tree["rules"] = [{"require": _expression(rng, names)} for _ in range(rng.randint(0, 3))]
    tree["goals"] = {"g": {rng.choice(("raise", "lower")): [rng.choice(names)]}} if rng.random() < 0.3 else {}
    tree["presets"] = {"p": {rng.choice(names): _number(rng)}} if rng.random() < 0.5 else {}
    if rng.random() < 0.3:
        tree[rng.choice(keys)] = rng.choice(WRONG)
    return tree


def _parameter(rng: random.Random, names: list[str]) -> dict[str, Any]:
    low, high = sorted((rng.randint(1, 8), rng.randint(9, 64)))
    kind = rng.randrange(5)
    if kind == 0:
        return {"values": [low, high, low + high], "default": low}
    if kind == 1:
        return {"value": low}
    if kind == 2:
        return {"derive": _expression(rng, names)}
    if kind == 3:
        return {"min": low, "max": f"max({low}, {_expression(rng, names)})", "default": low}
    return {"min": low, "max": high, "default": low, "when": _expression(rng, names), "log": rng.random() < 0.3}


def _expression(rng: random.Random, names: list[str], depth: int = 0) -> str:
    if depth > 3 or rng.random() < 0.3:
        return rng.choice((rng.choice(names), str(_number(rng))))
    inner = [_expression(rng, names, depth + 1) for _ in range(3)]
    operator = rng.choice(("+", "-", "*", "/", "//", "%", "**", "<", "==", "and", "or", "in"))
    if operator == "in":
        return f"({inner[0]} in [{inner[1]}, {inner[2]}])"
    function = rng.choice(sorted(FUNCTIONS))
    called = f"{function}({', '.join(inner[:2] if function in ('min', 'max') else inner[:1])})"
    return rng.choice((f"({inner[0]} {operator} {inner[1]})", called, f"({inner[0]} if {inner[1]} else {inner[2]})"))


def _number(rng: random.Random) -> int | float:
    return rng.choice((0, 1, 2, 3, 8, 64, -1, 0.5, 1e-9, 10**6, 2**53))


def _spoil(tree: Any, rng: random.Random) -> None:
    """Put something else at a random place below: a value that is wrong, or one that is only another."""
    while isinstance(tree, (dict, list)) and tree:
        key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        if isinstance(tree[key], (dict, list)) and tree[key] and rng.random() < 0.8:
            tree = tree[key]
            continue
        match rng.randrange(8):
            case 0 if isinstance(tree, dict):
                tree[rng.choice(("x", "min", "values", "when", "a" * 500, "é\n"))] = rng.choice(WRONG)
            case 1:
                del tree[key]
            case 2:
                tree[key] = _nested(rng)
            case 3:
                tree[key] = rng.choice(WRONG)
            case _:
                tree[key] = _another(tree[key], rng)
        return


def _another(value: Any, rng: random.Random) -> Any:
    """A value of the same kind; for a text that computes something, a formula."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return rng.choice((value + 1, value - 1, value * 2, value // 2, -value, value * 1e-3, value * 1000, 0))
    if isinstance(value, str) and (names := [word for word in value.split() if word.isidentifier()]):
        return _expression(rng, names)
    return value


def _nested(rng: random.Random) -> Any:
    value: Any = 1
    for _ in range(rng.choice((3, 20, 200))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def _as_yaml(tree: Any) -> str:
    return yaml.dump(tree, allow_unicode=True, Dumper=DUMPER)  # with anchors, where a value stands twice
