"""Translates a parameter of another tool's sweep into this grammar: W&B, Ray Tune, Optuna, Hydra, NNI, Ax.

Nothing is applied silently: the result is a line for the user to write. If the meaning differs, a note says how.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from search.space.document import MAX_NUMBER, parse_number

MAX_TEXT = 400
MAX_SHOWN = 12  # values of a list that are written in full
TELLING = {
    "distribution", "type", "_type", "_value", "bounds", "value_type", "probabilities", "weights", "grid_search", "mu",
    "sigma", "mean", "std", "lambda", "is_ordered", "q",
}  # fmt: skip
"""Keys that no parameter has here; they identify another tool's entry."""


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A parameter in this grammar's keys, as far as it is known, and what differs from the original."""

    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    values: tuple[Any, ...] = ()
    value: Any = None
    default: Any = None
    is_formula: bool = False
    note: str = ""

    def written(self, *, is_whole: bool = False) -> str:
        """`{min: 1, max: 8, default: 4}`, and the note."""
        note = f" ({self.note})" if self.note else ""
        if self.value is not None or len(self.values) == 1:
            return f"{{value: {_text(self.values[0] if self.values else self.value)}}}{note}"
        if self.values:
            shown = [_text(value) for value in self.values[:MAX_SHOWN]] + ["..."] * (len(self.values) > MAX_SHOWN)
            default = self.values[0] if self.default is None else self.default
            return f"{{values: [{', '.join(shown)}], default: {_text(default)}}}{note}"
        if self.is_formula:
            return f"{{derive: ...}}{note}"
        if self.low is None or self.high is None:
            return f"{{min: ..., max: ..., default: ...}}{note}"
        low, high = (round(end) if is_whole else end for end in (self.low, self.high))
        parts = [f"min: {_text(low)}", f"max: {_text(high)}"]
        parts += ["log: true"] * self.log + ([f"step: {_text(self.step)}"] if self.step else [])
        default = self._middle(is_whole) if self.default is None else self.default
        return f"{{{', '.join([*parts, f'default: {_text(default)}'])}}}{note}"

    def _middle(self, is_whole: bool) -> float:
        """A default if the other tool has none: the middle, on the axis of the search and on a step."""
        assert self.low is not None and self.high is not None
        is_log = self.log and self.low > 0 and self.high > 0
        middle = math.sqrt(self.low * self.high) if is_log else (self.low + self.high) / 2
        if self.step:
            return float(f"{self.low + (middle - self.low) // self.step * self.step:.6g}")
        middle = float(f"{middle:.1g}") if is_log else float(f"{middle:.2g}")
        middle = min(max(middle, self.low), self.high)
        return round(middle) if is_whole else middle


def translated(entry: Any) -> Ours | None:
    """The meaning of an entry of `parameters` if it is another tool's; None if it is not, or if it is unclear."""
    if isinstance(entry, str):
        return _of_text(entry)
    if isinstance(entry, list):
        return Ours(values=tuple(entry)) if _are_scalars(entry) else None
    if not isinstance(entry, dict) or not TELLING & entry.keys():
        return None
    if "grid_search" in entry:
        values = entry["grid_search"]
        return _choice(values if isinstance(values, list) else [])
    kind = entry.get("distribution", entry.get("_type", entry.get("type")))
    arguments = entry.get("_value")
    if isinstance(arguments, list):
        return _sampled(str(kind), arguments, {}, tool="nni")
    named = dict(entry)
    if isinstance(bounds := named.get("bounds"), list) and len(bounds) == 2:
        named |= {"min": bounds[0], "max": bounds[1]}
    if kind is None:
        kind = _guessed(named)
    return _sampled(str(kind), [], named, tool="wandb" if "distribution" in entry else "")


def as_ours(entry: Any) -> Ours | None:
    """An entry in this grammar that belongs at another path; None if it is not one of the simple forms."""
    if not isinstance(entry, dict):
        return None if isinstance(entry, list) or entry is None else Ours(value=entry)
    if _are_scalars(entry.get("values")) and entry["values"]:
        return Ours(values=tuple(entry["values"]), default=entry.get("default"))
    if entry.get("value") is not None and _are_scalars([entry["value"]]):
        return Ours(value=entry["value"])
    if (low := _number(entry.get("min"))) is not None and (high := _number(entry.get("max"))) is not None:
        step, default = _number(entry.get("step")), _number(entry.get("default"))
        return Ours(low=low, high=high, log=entry.get("log") is True, step=step, default=default)
    return None


def _guessed(named: Mapping[str, Any]) -> str:
    if "mu" in named or "mean" in named:
        return "normal"
    if "values" in named or "choices" in named:
        return "categorical"
    return "uniform"


def _of_text(text: str) -> Ours | None:
    """`tune.loguniform(1e-4, 1e-1)`, `range(1, 5)`, `0.1,0.01`: a call, or Hydra's list of values."""
    if len(text) > MAX_TEXT:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and all(part and not re.search(r"[(){}\[\]]", part) for part in parts):
        return Ours(values=tuple(_scalar(part) for part in parts))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python only warns about `1if a else 2`
            tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    return _of_call(tree, depth=0)


def _of_call(tree: ast.expr, depth: int) -> Ours | None:
    if not isinstance(tree, ast.Call) or depth > 3:
        return None
    parts = ast.unparse(tree.func).split(".")
    name = parts[-1]
    tool = {"hp": "hyperopt", "tune": "ray", "trial": "optuna"}.get(parts[0], "") if len(parts) > 1 else ""
    inner = next((arg for arg in reversed(tree.args) if isinstance(arg, ast.Call)), None)
    if inner is not None and name in ("tag", "int", "float", "shuffle", "sort"):  # Hydra's
        found = _of_call(inner, depth + 1)
        is_log = name == "tag" and any(isinstance(arg, ast.Name) and arg.id == "log" for arg in tree.args)
        return found and replace(found, log=found.log or is_log)
    arguments = [_literal(arg) for arg in tree.args]
    named = {keyword.arg: _literal(keyword.value) for keyword in tree.keywords if keyword.arg}
    return _sampled(name, arguments, named, tool=tool)


def _sampled(kind: str, arguments: list[Any], named: Mapping[str, Any], *, tool: str) -> Ours | None:
    """The distribution of that name as a parameter here; None for a name that no tool has."""
    plain = re.sub(r"^(suggest|random)_?", "", kind.lower()).replace("_", "").replace("-", "")
    if arguments and isinstance(arguments[0], str) and (tool in ("hyperopt", "optuna") or kind.startswith("suggest")):
        arguments = arguments[1:]  # a label
    if plain in ("choice", "categorical", "gridsearch", "ordinal", "list", "categoricalwprobabilities", "discrete"):
        listed = arguments[0] if len(arguments) == 1 and isinstance(arguments[0], list) else arguments
        found = _choice(listed or named.get("values") or named.get("choices") or named.get("categories") or [])
        weighted = "probabilities" in named or "weights" in named
        return replace(found, note="all values are alike likely at first") if weighted else found
    if plain in ("constant", "fixed"):
        value = (arguments or [named.get("value")])[0]
        return Ours(value=value) if _are_scalars([value]) else Ours(note=PARTS)
    if plain == "samplefrom":
        return Ours(is_formula=True, note="an expression over other parameters")
    if plain in ("normal", "qnormal", "lognormal", "qlognormal", "randn", "qrandn", "gauss", "truncatednormal"):
        return _normal(plain, arguments, named)
    if plain in ("beta", "qbeta", "exponential", "gamma"):
        return Ours(note=f"there is no {kind} distribution; give the range that it stands for")
    if plain in _RANGES:
        return _range(plain, arguments, named, tool)
    return None


_WHOLE = ("int", "intuniform", "randint", "qrandint", "lograndint", "qlograndint", "uniformint", "range", "integer")
_LOG = (
    "loguniform", "loguniformvalues", "qloguniform", "qloguniformvalues", "lograndint", "qlograndint",
    "invloguniform", "invloguniformvalues", "logfloat", "logint", "logspace", "reverseloguniform",
)  # fmt: skip
_RANGES = (
    *_WHOLE, *_LOG, "uniform", "quniform", "quniformvalues", "float", "double", "interval", "discreteuniform",
    "continuous",
)  # fmt: skip


def _range(plain: str, arguments: list[Any], named: Mapping[str, Any], tool: str) -> Ours:
    ends = [_first(named, *names) for names in (("min", "low", "lower", "start"), ("max", "high", "upper", "stop"))]
    numbers = [_number(argument) for argument in arguments]
    if plain == "range" and len(numbers) == 1:
        numbers = [0, *numbers]
    low, high = (numbers[i] if i < len(numbers) else ends[i] for i in (0, 1))
    step = _first(named, "q", "step")
    if len(numbers) > 2 and step is None and ("q" in plain or plain in ("range", "discreteuniform")):
        step = numbers[2]
    step = step if step and step > 0 else None
    is_log = plain in _LOG or named.get("log") is True or named.get("log_scale") is True
    note = ""
    if low is not None and high is not None:
        if (plain == "loguniform" and tool in ("wandb", "hyperopt")) or (tool == "wandb" and plain == "qloguniform"):
            low, high = _exp(low), _exp(high)
            note = "the ends there are exponents of e"
        elif plain == "invloguniform" and tool == "wandb":
            low, high = _exp(-high), _exp(-low)
        is_open = (
            plain == "range" and numbers or plain in ("randint", "lograndint") and tool in ("ray", "nni", "hyperopt")
        )
        if is_open and high > low:
            last = high - (step or 1)
            high = low + math.floor((high - low - 1e-9 * (step or 1)) / step) * step if step else last
            note = "the end is included here"
        if step and not is_log:
            high = low + math.floor((high - low) / step + 1e-9) * step
    if is_log and step and step != 1:
        note, step = "a logarithmic range has no step", None
    if step == 1 and (plain in _WHOLE or _are_whole(low, high)):
        step = None
    return Ours(low=_tidy(low), high=_tidy(high), log=is_log, step=_tidy(step), note=note)


def _normal(plain: str, arguments: list[Any], named: Mapping[str, Any]) -> Ours:
    numbers = [_number(argument) for argument in arguments]
    mu = numbers[0] if numbers else _first(named, "mu", "mean", "loc")
    sigma = numbers[1] if len(numbers) > 1 else _first(named, "sigma", "std", "sd", "scale")
    mu, sigma = (0.0 if mu is None else mu), (1.0 if sigma is None else sigma)
    ends = [mu - 2 * sigma, mu + 2 * sigma]
    is_log = "log" in plain
    if is_log:
        ends, mu = [_exp(end) for end in ends], _exp(mu)
    note = "there is no normal distribution: its range, two sigma to either side"
    return Ours(low=_tidy(ends[0]), high=_tidy(ends[1]), log=is_log, default=_tidy(mu), note=note)


def _choice(values: list[Any]) -> Ours:
    return Ours(values=tuple(values)) if values and _are_scalars(values) else Ours(note=PARTS if values else "")


PARTS = "a parameter has one value in each trial: make each part a parameter of its own"
"""What to do about a list or a mapping where one value is expected."""


def _first(named: Mapping[str, Any], *names: str) -> float | None:
    return next((number for name in names if (number := _number(named.get(name))) is not None), None)


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        value = parse_number(value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and abs(value) <= MAX_NUMBER else None


def _exp(value: float) -> float:
    return float(f"{math.exp(max(-30.0, min(30.0, value))):.3g}")


def _tidy(value: float | None) -> float | None:
    """The number without digits that come from rounding."""
    return value if value is None or isinstance(value, int) else float(f"{value:.6g}")


def _are_whole(*values: float | None) -> bool:
    return all(isinstance(value, int) for value in values)


def _are_scalars(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, (bool, int, float, str)) for value in values)


def _literal(node: ast.expr) -> Any:
    """A number, text, or a list of them; a bare word is text, as in Hydra."""
    if isinstance(node, ast.Name):
        return {"true": True, "false": False}.get(node.id, node.id)
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        text = ast.unparse(node)
        return text if (number := parse_number(text)) is None else number


def _scalar(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    number = parse_number(text)
    return text if number is None else number


def _text(value: Any) -> str:
    """A value as YAML: 1e-05 rather than 0.00001, and no fraction if it is whole."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    needs_quotes = isinstance(value, str) and (not re.fullmatch(r"[A-Za-z_][\w ./-]*", text) or _scalar(text) != text)
    return repr(text) if needs_quotes else text
