"""The keys of a space file as pydantic models: what may stand where, and the JSON schema that editors read.

Only shapes and types are checked here; what needs the whole space (names in expressions, presets against ranges) is
checked in space.py. The descriptions below are what an editor shows and what spaces/README.md is held against.
"""

from __future__ import annotations

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from search.document import Document, Fault, SpaceError

MEASUREMENTS = ("loss", "bits_per_byte", "tokens_per_second", "peak_vram_bytes", "num_params", "train_seconds")
QUALITIES = ("memory_span", "adaptation_speed", "stability", "convergence_speed", "overfitting", "locality")
"""What the guides speak of and no trial measures; kept so that a space can say all that its guide says."""

MISTAKEN_KEYS = {
    "low": "min", "lower": "min", "minimum": "min", "from": "min", "lo": "min",
    "high": "max", "upper": "max", "maximum": "max", "to": "max", "hi": "max",
    "choices": "values", "options": "values", "categorical": "values", "enum": "values", "grid": "values",
    "const": "value", "constant": "value", "fixed": "value",
    "log_uniform": "log", "logscale": "log", "log_scale": "log", "distribution": "min, max and log",
    "q": "step", "condition": "when", "if": "when", "depends_on": "when", "formula": "derive", "expr": "derive",
    "constraints": "rules", "params": "parameters", "hyperparameters": "parameters", "search_space": "parameters",
    "model": "family", "description": "about", "objective": "metric", "direction": "goal", "mode": "goal",
}  # fmt: skip
"""Keys of other tools, and what they are called here."""


def _one_line(value: Any) -> Any:
    return " ".join(value.split()) if isinstance(value, str) else value


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a number, got true or false")
    return value


Text = Annotated[str, BeforeValidator(_one_line)]
Number = Annotated[int | float, BeforeValidator(_not_bool)]
Expression = Annotated[str, Field(min_length=1, description="arithmetic over parameter names")]
Bound = Annotated[int | float | Expression, BeforeValidator(_not_bool)]
Scalar = bool | int | float | str
Tokens = Annotated[int, BeforeValidator(_not_bool), Field(gt=0, description="a token count such as 500K or 27M")]
Measured = Literal["loss", "bits_per_byte", "tokens_per_second", "peak_vram_bytes", "num_params", "train_seconds"]
Affected = Literal[
    "loss", "bits_per_byte", "tokens_per_second", "peak_vram_bytes", "num_params", "train_seconds",
    "memory_span", "adaptation_speed", "stability", "convergence_speed", "overfitting", "locality",
]  # fmt: skip
Direction = Literal["up", "down", "none", "valley", "hill"]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class MetricSpec(_Entry):
    name: Measured = Field("loss", description="the measurement to optimise")
    goal: Literal["minimize", "maximize"] = "minimize"


class LimitSpec(_Entry):
    min: Number | None = Field(None, description="the smallest value allowed")
    max: Number | None = Field(None, description="the largest value allowed")


class BudgetSpec(_Entry):
    trials: int = Field(64, description="configurations to train, presets included")
    min_tokens: Tokens = Field(1_000_000, description="the first rung: every trial is trained this far")
    max_tokens: Tokens = Field(27_000_000, description="the last rung: training tokens of a finished trial")
    eta: int = Field(3, ge=2, le=10, description="rungs are eta times apart; about one trial in eta goes on from each")
    eval_tokens: Tokens = Field(131_072, description="held-out tokens predicted at each rung, at most")
    limits: dict[str, LimitSpec] = Field({}, description="limits that hold for this budget, beside those of the space")


class ParameterSpec(_Entry):
    min: Bound | None = Field(None, description="the smallest value, a number or an expression")
    max: Bound | None = Field(None, description="the largest value, a number or an expression")
    log: bool = Field(False, description="search the range on a logarithmic axis")
    step: Number | None = Field(None, description="distance between values of a range")
    values: list[Scalar] | None = Field(None, description="the values to choose from")
    value: Scalar | None = Field(None, description="one value, not searched")
    derive: Expression | None = Field(None, description="computed from other parameters, not searched")
    default: Scalar | None = Field(None, description="the guide's own value (in a range it may be an expression)")
    when: Expression | None = Field(None, description="searched only where this holds")
    effect: dict[Affected, Direction] = Field({}, description="what raising the parameter does, according to the guide")
    why: Text = Field("", description="what the guide says about it")
    source: Text = Field("", description="where the guide says it")


class RuleSpec(_Entry):
    require: Expression = Field(description="must hold for every configuration")
    why: Text = ""
    source: Text = ""


class GoalSpec(_Entry):
    raises: list[str] = Field([], alias="raise", description="parameters kept at or above their default")
    lowers: list[str] = Field([], alias="lower", description="parameters kept at or below their default")
    set: dict[str, Bound] = Field({}, description="parameters fixed to a value or an expression")
    why: Text = ""
    source: Text = ""


class PresetSpec(_Entry):
    """Parameters and their values, beside `why` and `source`; the parameters not named keep their defaults."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    __pydantic_extra__: dict[str, Scalar]

    why: Text = ""
    source: Text = ""

    @property
    def values(self) -> dict[str, Scalar]:
        return dict(self.__pydantic_extra__)


class SpaceSpec(_Entry):
    """A tinysearch space: the ranges, rules and trade-offs of one model family's guide."""

    family: str = Field(description="the model family that the trainer builds")
    about: Text = ""
    source: Text = Field("", description="the guide that this space writes down")
    metric: MetricSpec = MetricSpec()
    limits: dict[str, LimitSpec] = Field({}, description="bounds on measurements; a trial beyond one is infeasible")
    budget: BudgetSpec = Field(BudgetSpec(), description="how much to train when no other budget is named")
    budgets: dict[str, BudgetSpec] = Field({}, description="named budgets, taken with --budget NAME")
    parameters: dict[str, ParameterSpec] = Field(min_length=1)
    not_searched: dict[str, Text] = Field({}, description="documented parameters that no search touches, and why")
    rules: list[RuleSpec] = []
    goals: dict[str, GoalSpec] = {}
    presets: dict[str, PresetSpec] = Field(
        {}, description="configurations the guide recommends; the first is the reference"
    )


def read_spec(document: Document) -> SpaceSpec:
    """The document as a SpaceSpec. Raises SpaceError with every fault that its shape has."""
    try:
        return SpaceSpec.model_validate(document.value)
    except ValidationError as error:
        faults: dict[tuple[str, str], Fault] = {}
        for detail in error.errors():
            fault = _fault(document, detail)
            faults.setdefault((fault.where, fault.message), fault)
        raise SpaceError(document.source, list(faults.values())) from None


def json_schema() -> dict[str, Any]:
    """The JSON schema of a space file (draft 2020-12), with the units that the loader reads as numbers."""
    schema = SpaceSpec.model_json_schema(by_alias=True)
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "tinysearch space"
    _allow_units(schema)
    return schema


def _allow_units(node: Any) -> None:
    """`27M` and `12 GiB` are text to an editor: let a number also be such text."""
    if isinstance(node, list):
        for item in node:
            _allow_units(item)
    elif isinstance(node, dict):
        for key, item in list(node.items()):
            if key == "type" and item in ("integer", "number"):
                bounds = {k: node.pop(k) for k in ("exclusiveMinimum", "minimum", "maximum", "default") if k in node}
                default = {"default": bounds.pop("default")} if "default" in bounds else {}
                del node["type"]
                unit = {"type": "string", "pattern": r"^[-+0-9._eE]+ ?([KMGT]i?B|[KMBGT]|%)?$"}
                node.update(default, anyOf=[{"type": item, **bounds}, unit])
                return
            _allow_units(item)


def _fault(document: Document, detail: Any) -> Fault:
    """A pydantic error as a fault in our words, at the entry's line."""
    # pydantic appends the tried type of a union ("int", "str"); only entries of the document are kept
    path = _longest_existing(document.value, detail["loc"])
    given = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            key = str(detail["loc"][-1])
            known = _known_keys(tuple(detail["loc"][:-1]))
            return document.fault((*path[:-1], key) if path and path[-1] == key else path, _unknown_key(key, known))
        case "missing":
            return document.fault(path, f"{detail['loc'][-1]!r} is missing")
        case "literal_error":
            expected = detail["ctx"]["expected"]
            return document.fault(path, f"{given!r} is none of {expected}")
        case (
            "int_type"
            | "int_from_float"
            | "float_type"
            | "string_type"
            | "bool_type"
            | "list_type"
            | "dict_type"
            | "model_type"
        ):
            kind = detail["type"].split("_")[0]
            words = {"int": "a whole number", "float": "a number", "string": "text", "bool": "true or false",
                     "list": "a list", "dict": "a mapping", "model": "a mapping"}  # fmt: skip
            return document.fault(path, f"expected {words[kind]}, got {_shown(given)}")
    message = detail["msg"].removeprefix("Value error, ")
    return document.fault(path, f"{message[0].lower()}{message[1:]} (got {_shown(given)})")


def _longest_existing(value: Any, loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    path: list[int | str] = []
    for part in loc:
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            break
        path.append(part)
    return tuple(path)


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    """The keys allowed at `path`: the model reached by walking the fields' own types."""
    models: dict[str, type[BaseModel]] = {
        "metric": MetricSpec, "limits": LimitSpec, "budget": BudgetSpec, "budgets": BudgetSpec,
        "parameters": ParameterSpec, "rules": RuleSpec, "goals": GoalSpec, "presets": PresetSpec,
    }  # fmt: skip
    model = SpaceSpec if not path else models.get(str(path[0]), SpaceSpec)
    if len(path) > 2 and "limits" in path:
        model = LimitSpec
    return [f.alias or name for name, f in model.model_fields.items()]


def _unknown_key(key: str, known: list[str]) -> str:
    if (ours := MISTAKEN_KEYS.get(key)) and any(part in known for part in ours.replace(",", " ").split()):
        return f"unknown key {key!r}; here it is called {ours}"
    near = difflib.get_close_matches(key, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown key {key!r}. Known: {', '.join(known)}.{hint}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
