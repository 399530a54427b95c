"""The keys of a space file as pydantic models: what may stand where, and the JSON schema that editors read.

Only shapes and types are checked here; what needs the whole space (names in expressions, presets against ranges) is
checked in loading.py and checking.py. The descriptions below are what an editor shows and what spaces/README.md is
held against.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema

from search.space.document import NUMBER_PATTERN, Document, Faults, Path_, given
from search.space.measurement import MEASURED
from search.space.sweeps import without_foreign

MEASUREMENTS = tuple(MEASURED)
QUALITIES = ("memory_span", "adaptation_speed", "stability", "convergence_speed", "overfitting", "locality")
"""What the guides speak of and no trial measures; kept so that a space can say all that its guide says."""

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
    "objectives": "metrics",
}  # fmt: skip
"""Keys of other tools, and what they are called here."""

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
"""Common names of measurements and directions, and what they are called here."""

CONTEXT = (
    "tokens", "corpus_bytes", "non_ascii_fraction", "cjk_fraction", "num_params", "vram_gib", "memory_gib", "num_gpus"
)  # fmt: skip
"""What advice may hang on beside parameters: the training text, the model, the machine (see context.py)."""

PLACEHOLDERS: dict[str, dict[str, str]] = {
    "rules": {"require": "0 == 0"},
    "advice": {"when": "0 == 0", "say": ""},
    "claims": {"id": "", "measurement": "loss"},
}
"""What stands for an entry of a list whose shape is wrong, until the faults are reported."""

MAX_ENTRIES = 100  # of a section; keeps every check short
MAX_VALUES = 200  # of a parameter

_NUMBER_TEXT = {"type": "string", "pattern": f"^{NUMBER_PATTERN}$"}
_NUMBER_SCHEMA = {"anyOf": [{"type": "number"}, _NUMBER_TEXT]}
_EXPRESSION_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 400}


def _expecting(words: str, *kinds: type, minimum: int | None = None, maximum: int | None = None) -> PlainValidator:
    """A validator with our own words: one of `kinds` (a bool is no number), and within the bounds."""

    def validated(value: Any) -> Any:
        if value is None:  # the default; an entry without a value was refused by the document
            return None
        if kinds == (int,) and isinstance(value, float) and value.is_integer():
            value = int(value)
        is_kind = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if not is_kind or (isinstance(value, str) and not value.strip() and "text" not in words):
            quote = "; put it in quotes" if words == "text" and isinstance(value, (bool, int, float)) else ""
            raise ValueError(f"expected {words}, got {given(value)}{quote}")
        if minimum is not None and value < minimum:
            raise ValueError(f"{given(value)} is too small; at least {minimum}")
        if maximum is not None and value > maximum:
            raise ValueError(f"{given(value)} is too large; at most {maximum}")
        return " ".join(value.split()) if words == "text" else value

    return PlainValidator(validated)


def _whole(words: str, minimum: int, maximum: int | None = None) -> tuple[PlainValidator, WithJsonSchema]:
    bounds = {"minimum": minimum, **({} if maximum is None else {"maximum": maximum})}
    schema = {"anyOf": [{"type": "integer", **bounds}, {**_NUMBER_TEXT, "pattern": f"^(?!-){NUMBER_PATTERN}$"}]}
    return _expecting(words, int, minimum=minimum, maximum=maximum), WithJsonSchema(schema)


Text = Annotated[str, _expecting("text", str), WithJsonSchema({"type": "string"})]
Flag = Annotated[bool, _expecting("true or false", bool), WithJsonSchema({"type": "boolean"})]
Number = Annotated[
    int | float | None, _expecting("a number such as 0.5, 27M or 12 GiB", int, float), WithJsonSchema(_NUMBER_SCHEMA)
]
Expression = Annotated[
    str | None, _expecting("an expression over parameter names", str), WithJsonSchema(_EXPRESSION_SCHEMA)
]
Bound = Annotated[
    int | float | str | None,
    _expecting("a number or an expression", int, float, str),
    WithJsonSchema({"anyOf": [{"type": "number"}, _EXPRESSION_SCHEMA]}),
]
Scalar = Annotated[
    bool | int | float | str | None,
    _expecting("one value", bool, int, float, str),
    WithJsonSchema({"type": ["boolean", "number", "string"]}),
]
Name = Annotated[str, _expecting("a parameter's name", str), WithJsonSchema({"type": "string"})]
Tokens = Annotated[int, *_whole("a token count such as 500K or 27M", 1)]
Measured = Literal["loss", "bits_per_byte", "tokens_per_second", "peak_vram_bytes", "num_params", "train_seconds"]
Affected = Literal[
    "loss", "bits_per_byte", "tokens_per_second", "peak_vram_bytes", "num_params", "train_seconds",
    "memory_span", "adaptation_speed", "stability", "convergence_speed", "overfitting", "locality",
]  # fmt: skip
Direction = Literal["up", "down", "none", "valley", "hill"]

WHY = "what the guide says about it"
SOURCE = "where the guide says it"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    example: ClassVar[str] = "{key: value}"


class MetricSpec(_Entry):
    """What the search optimises."""

    example: ClassVar = "{name: loss, goal: minimize}"

    name: Measured = Field("loss", description="the measurement to optimise")
    goal: Literal["minimize", "maximize"] = Field("minimize", description="which way is better")

    @classmethod
    def of(cls, name: str) -> MetricSpec:
        """The metric of that measurement. Raises ValueError for a name that is none."""
        if name not in MEASUREMENTS:
            raise ValueError(unknown_measurement(name))
        return cls(name=name, goal="maximize" if MEASURED[name].is_better_higher else "minimize")  # type: ignore[arg-type]

    def signed(self, value: float | None) -> float:
        """A value of which less is better, whatever the goal; NaN where there is none."""
        if value is None:
            return math.nan
        return -value if self.goal == "maximize" else value


class LimitSpec(_Entry):
    """A bound on a measurement."""

    example: ClassVar = "{max: 12 GiB}"

    min: Number = Field(None, description="the smallest value allowed")
    max: Number = Field(None, description="the largest value allowed")


Limits = Annotated[dict[Measured, LimitSpec], Field(max_length=MAX_ENTRIES)]


class BudgetSpec(_Entry):
    """How many configurations are trained, and how far."""

    example: ClassVar = "{trials: 64, min_tokens: 1M, max_tokens: 27M}"

    trials: Annotated[int, *_whole("a whole number", 1)] = Field(
        64, description="configurations to train, presets included"
    )
    min_tokens: Tokens = Field(1_000_000, description="the first rung: every trial is trained this far")
    max_tokens: Tokens = Field(27_000_000, description="the last rung: training tokens of a finished trial")
    eta: Annotated[int, *_whole("a whole number", 2, 10)] = Field(
        3, description="how far rungs are apart: each is eta times the tokens of the one before"
    )
    eval_tokens: Tokens = Field(131_072, description="held-out tokens predicted at each rung, at most")
    min_steps: Annotated[int, *_whole("a whole number", 1)] = Field(
        1, description="optimizer steps that max_tokens must hold; a configuration with larger steps is not launched"
    )
    limits: Limits = Field({}, description="limits that hold for this budget, beside those of the space")
    set: dict[str, Scalar] = Field({}, description="parameters that have one value in this budget, in presets too")


class ParameterSpec(_Entry):
    """A parameter of the guide: a range, a list of values, one value, or a formula."""

    example: ClassVar = "{min: 1, max: 8, default: 4} or {value: 4}"

    min: Bound = Field(None, description="the smallest value, a number or an expression")
    max: Bound = Field(None, description="the largest value, a number or an expression")
    log: Flag = Field(False, description="search the range on a logarithmic axis")
    step: Number = Field(None, description="distance between values of a range")
    values: Annotated[list[Scalar] | None, Field(max_length=MAX_VALUES)] = Field(
        None, description="the values to choose from"
    )
    value: Scalar = Field(None, description="one value, not searched")
    derive: Expression = Field(None, description="computed from other parameters, not searched")
    default: Scalar = Field(None, description="the guide's own value (in a range it may be an expression)")
    when: Expression = Field(None, description="the parameter is there only where this holds")
    aliases: list[Name] = Field([], max_length=MAX_ENTRIES, description="other names that presets and --set may use")
    effect: dict[Affected, Direction] = Field({}, description="what raising the parameter does, according to the guide")
    why: Text = Field("", description=WHY)
    source: Text = Field("", description=SOURCE)


class RuleSpec(_Entry):
    """A relation between parameters that must hold."""

    example: ClassVar = "{require: d_model % n_heads == 0}"

    require: Expression = Field(description="must hold for every configuration")
    why: Text = Field("", description=WHY)
    source: Text = Field("", description=SOURCE)


class GoalSpec(_Entry):
    """An intention that the guide documents, as a narrowing of the space."""

    example: ClassVar = "{raise: [d_model], lower: [learning_rate]}"

    raises: list[Name] = Field([], alias="raise", description="parameters kept at or above their default")
    lowers: list[Name] = Field([], alias="lower", description="parameters kept at or below their default")
    set: dict[str, Scalar] = Field({}, description="parameters fixed to a value or an expression")
    why: Text = Field("", description=WHY)
    source: Text = Field("", description=SOURCE)


class PresetSpec(_Entry):
    """A configuration the guide recommends: parameters and their values; those not named keep their defaults."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    __pydantic_extra__: dict[str, Scalar]
    example: ClassVar = "{d_model: 64, learning_rate: 1e-3}"

    why: Text = Field("", description=WHY)
    source: Text = Field("", description=SOURCE)

    @property
    def values(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__)


class AdviceSpec(_Entry):
    """What the guide recommends where its recommendation hangs on the data, the hardware or the model's size."""

    example: ClassVar = "{when: tokens < 5e6, say: text, suggest: {dropout: 0.2}}"

    when: Expression = Field(description="where it applies; also over tokens, num_params, vram_gib and the like")
    say: Text = Field(description="the advice in a sentence")
    suggest: dict[str, Scalar] = Field({}, description="parameters and their values, or expressions that give them")
    preset: Name = Field("", description="the preset that it recommends")
    source: Text = Field("", description=SOURCE)


class ClaimSpec(_Entry):
    """A number that the guide states of a measurement; recorded, and checked by an audit only."""

    example: ClassVar = "{id: nano-params, measurement: num_params, preset: nano, value: 5M}"

    id: Name = Field(description="a name of its own")
    measurement: Measured = Field(description="what the number is of")
    preset: Name = Field("", description="the preset that it is about")
    set: dict[str, Scalar] = Field({}, description="values that differ from the preset's, or from the defaults")
    against: dict[str, Scalar] = Field({}, description="values of a second configuration: the number is the ratio")
    value: Number = Field(None, description="about this much")
    min: Number = Field(None, description="at least this much")
    max: Number = Field(None, description="at most this much")
    hardware: Text = Field("", description="what the guide measured it on")
    why: Text = Field("", description=WHY)
    source: Text = Field("", description=SOURCE)


class SpaceSpec(_Entry):
    """A tinysearch space: the ranges, rules and trade-offs of one model family's guide."""

    family: Text = Field(
        description="the model family that the trainer builds, such as hybrid; or one of your own, as ./file.py or "
        "package.module"
    )
    about: Text = Field("", description="what this space is, in a sentence")
    source: Text = Field("", description="the guide that this space writes down")
    guide: Text = Field("", description="its short name, said before the source of a rule, an advice or a parameter")
    metric: MetricSpec = Field(MetricSpec(), description="what the search optimises")
    metrics: list[Measured] = Field(
        [],
        max_length=len(MEASUREMENTS),
        description="several measurements to optimise at once, in place of metric; the search is for their front",
        json_schema_extra={"minItems": 2, "uniqueItems": True},
    )
    limits: Limits = Field({}, description="bounds on measurements; a trial beyond one is infeasible")
    budget: BudgetSpec = Field(BudgetSpec(), description="how much to train when no other budget is named")
    budgets: dict[str, BudgetSpec] = Field(
        {}, max_length=MAX_ENTRIES, description="named budgets, taken with --budget NAME"
    )
    parameters: dict[str, ParameterSpec] = Field(
        max_length=MAX_ENTRIES,
        description="the guide's parameters by name",
        json_schema_extra={"minProperties": 1},
    )
    not_searched: dict[str, Text] = Field(
        {}, max_length=MAX_ENTRIES, description="documented parameters that no search touches, and why"
    )
    rules: list[RuleSpec] = Field([], max_length=MAX_ENTRIES, description="relations between parameters that must hold")
    goals: dict[str, GoalSpec] = Field(
        {}, max_length=MAX_ENTRIES, description="intentions the guide documents, taken with --goal NAME"
    )
    presets: dict[str, PresetSpec] = Field(
        {}, max_length=MAX_ENTRIES, description="configurations the guide recommends; the first is the reference"
    )
    advice: list[AdviceSpec] = Field(
        [], max_length=MAX_ENTRIES, description="recommendations that hang on the data or the hardware"
    )
    claims: list[ClaimSpec] = Field([], max_length=MAX_ENTRIES, description="numbers that the guide states")

    @property
    def objectives(self) -> tuple[MetricSpec, ...]:
        """What the search optimises: the metrics, or the one metric."""
        return tuple(map(MetricSpec.of, self.metrics)) or (self.metric,)

    def cited(self, source: str) -> str:
        """A source as it is told away from its file: the guide's short name before it."""
        return ", ".join(filter(None, [self.guide, source])) if source else ""


def read_spec(document: Document, faults: Faults, family: str) -> SpaceSpec:
    """The document as a SpaceSpec, without the entries whose shape is wrong: these are noted in `faults`.

    So the other entries can still be checked. `family` is the space's, empty where it is unknown. Raises SpaceError
    where nothing is left to check.
    """
    value = document.value
    for path in faults.unread:
        value = _without(value, path)
    value = without_foreign(value, faults, family)
    try:
        return SpaceSpec.model_validate(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            path = _existing(document.value, detail["loc"])
            _note(faults, detail, path)
            value = _without(value, path)
    try:
        return SpaceSpec.model_validate({"family": "", **value})
    except ValidationError:  # all parameters are missing now
        faults.check()
        raise


def json_schema() -> dict[str, Any]:
    """The JSON schema of a space file (draft 2020-12), with the units that the loader reads as numbers."""
    schema = SpaceSpec.model_json_schema(by_alias=True, schema_generator=_Schema)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "tinysearch space"}


class _Schema(GenerateJsonSchema):
    """Without nulls and empty defaults: nobody writes them."""

    def default_schema(self, schema: Any) -> dict[str, Any]:
        generated = super().default_schema(schema)
        if generated.get("default") in (None, "", {}, []) or isinstance(generated.get("default"), dict):
            generated.pop("default", None)
        return generated

    def nullable_schema(self, schema: Any) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])


def _note(faults: Faults, detail: Any, path: Path_) -> None:
    """A pydantic error in our words, at the entry's line."""
    given_there, loc = detail["input"], detail["loc"]
    match detail["type"]:
        case "extra_forbidden":
            faults.add(_unknown_key(str(loc[-1]), _type_at(loc[:-1]).model_fields), *path)
        case "missing" if faults.is_unread(*path, loc[-1]):
            pass
        case "missing":
            faults.add(f"{loc[-1]} is missing", *path)
        case "literal_error" if loc[-1] == "[key]":
            kind = "measurement" if "limits" in loc else "effect"
            faults.add(_unknown(kind, str(given_there), get_args(get_args(_type_at(loc[:-2]))[0])), *path)
        case "literal_error" if isinstance(given_there, str):
            kind = "measurement" if loc[0] == "metrics" or loc[-1] in ("name", "measurement") else "direction"
            faults.add(_unknown(kind, given_there, get_args(_type_at(loc))), *path)
        case "literal_error":
            faults.add(f"expected one of {', '.join(get_args(_type_at(loc)))}, got {given(given_there)}", *path)
        case "model_type":
            faults.add(f"expected a mapping such as {_type_at(loc).example}, got {given(given_there)}", *path)
        case "dict_type":
            faults.add(f"expected a mapping, got {given(given_there)}", *path)
        case "list_type":
            faults.add(f"expected a list, got {given(given_there)}", *path)
        case "too_long" if path[-1] == "values":
            most = f"has {detail['ctx']['actual_length']:,} entries; at most {detail['ctx']['max_length']}"
            faults.add(f"{most}; {_as_range(given_there)}", *path)
        case "too_long":
            faults.add(f"has {detail['ctx']['actual_length']:,} entries; at most {detail['ctx']['max_length']}", *path)
        case _:
            faults.add(detail["msg"].removeprefix("Value error, "), *path)


def _as_range(values: list[Any]) -> str:
    """What to write for a long list of numbers that are all equally far apart, or are not."""
    if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return "leave some out"
    step = values[1] - values[0]
    if step <= 0 or any(abs(b - a - step) > 1e-9 * max(1, abs(b)) for a, b in itertools.pairwise(values)):
        return f"write a range: min: {min(values)}, max: {max(values)}"
    every = "" if step == 1 else f", step: {step:g}"
    return f"write min: {values[0]}, max: {values[-1]}{every}"


def _existing(value: Any, loc: Iterable[int | str]) -> Path_:
    """The part of an error's place that is in the document; pydantic appends what it tried ("[key]")."""
    path: list[int | str] = []
    for part in loc:
        if isinstance(value, dict) and part in value or isinstance(value, list) and isinstance(part, int):
            value = value[part]  # type: ignore[index]
            path.append(part)
    return tuple(path)


def _without(value: dict[str, Any], path: Path_) -> dict[str, Any]:
    """The document's values without the entry of a section, or the section, that a fault lies in."""
    top = path[0] if path else None
    if top not in value:
        return value
    section = value[top]
    if len(path) > 1 and top in PLACEHOLDERS and isinstance(section, list):
        kept = [PLACEHOLDERS.get(str(top)) if i == path[1] else item for i, item in enumerate(section)]
        return {**value, top: kept}  # removing it would shift the others
    if len(path) > 1 and isinstance(section, dict) and top not in ("metric", "budget"):
        return {**value, top: {key: item for key, item in section.items() if key != path[1]}}
    return {key: item for key, item in value.items() if key != top}


def _type_at(loc: Iterable[int | str]) -> Any:
    """The type that the grammar has at a place: a model, or what its dicts and lists hold."""
    kind: Any = SpaceSpec
    for part in loc:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields = {field.alias or name: field for name, field in kind.model_fields.items()}
            kind = fields[str(part)].annotation
        else:
            kind = get_args(kind)[-1]
    return kind


def _unknown_key(key: str, fields: dict[str, Any]) -> str:
    known = [field.alias or name for name, field in fields.items()]
    if (ours := MISTAKEN_KEYS.get(key)) and any(part in known for part in ours.replace(",", " ").split()):
        return f"unknown key {given(key)}; here it is called {ours}"
    return _unknown("key", key, known)


def unknown_measurement(name: str) -> str:
    """The sentence that refuses a measurement's name."""
    return _unknown("measurement", name, MEASUREMENTS)


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    known = list(known)
    near = [ours] if (ours := MISTAKEN_NAMES.get(name)) in known else difflib.get_close_matches(name[:60], known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {given(name)}. Known: {', '.join(known)}.{hint}"
