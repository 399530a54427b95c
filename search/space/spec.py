"""The keys of a space file as pydantic models.

Only shapes and types are checked here. loading.py and checking.py check what needs the whole space (names in
expressions, presets against ranges), and diagnostics.py words the messages about wrong shapes. Editors show the
descriptions below, and a test compares spaces/README.md with them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema

from search.space.document import NUMBER_PATTERN, given
from search.space.measurement import MEASURED
from search.space.names import MEASUREMENTS, unknown_measurement

QUALITIES = ("memory_span", "adaptation_speed", "stability", "convergence_speed", "overfitting", "locality")
"""Effects that guides mention and no trial measures; allowed so that a space can state what its guide says."""

CONTEXT = (
    "tokens", "corpus_bytes", "non_ascii_fraction", "cjk_fraction", "num_params", "vram_gib", "memory_gib", "num_gpus"
)  # fmt: skip
"""What advice may read besides parameters: facts about the training text, the model, the machine (see context.py)."""

MAX_ENTRIES = 100  # of a section; keeps every check fast
MAX_VALUES = 200  # of a parameter

_NUMBER_TEXT = {"type": "string", "pattern": f"^{NUMBER_PATTERN}$"}
_NUMBER_SCHEMA = {"anyOf": [{"type": "number"}, _NUMBER_TEXT]}
_EXPRESSION_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 400}


def _expecting(words: str, *kinds: type, minimum: int | None = None, maximum: int | None = None) -> PlainValidator:
    """A validator with this project's messages: one of `kinds` (a bool is not a number), within the bounds."""

    def validated(value: Any) -> Any:
        if value is None:  # the default; the document has refused an entry without a value
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
_ONE_EXPRESSION = _expecting("an expression over parameter names", str), WithJsonSchema(_EXPRESSION_SCHEMA)
Expression = Annotated[str | None, *_ONE_EXPRESSION]
Condition = Annotated[str, *_ONE_EXPRESSION]
Bound = Annotated[
    int | float | str | None,
    _expecting("a number or an expression", int, float, str),
    WithJsonSchema({"anyOf": [{"type": "number"}, _EXPRESSION_SCHEMA]}),
]
_ONE_VALUE = (
    _expecting("one value", bool, int, float, str),
    WithJsonSchema({"type": ["boolean", "number", "string"]}),
)
Scalar = Annotated[bool | int | float | str | None, *_ONE_VALUE]
Given = Annotated[bool | int | float | str, *_ONE_VALUE]
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
        """The metric for that measurement. Raises ValueError for an unknown name."""
        if name not in MEASUREMENTS:
            raise ValueError(unknown_measurement(name))
        return cls(name=name, goal="maximize" if MEASURED[name].is_better_higher else "minimize")  # type: ignore[arg-type]  # it is one of MEASUREMENTS

    def signed(self, value: float | None) -> float:
        """The value, signed so that less is better; NaN if there is none."""
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
    set: dict[str, Given] = Field({}, description="parameters that have one value in this budget, in presets too")


@dataclass(frozen=True)
class Named:
    """A sampler or a way of stopping early: its name, and its options."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join([self.name, *(f"{name} {given(value)}" for name, value in self.options.items())])


def _named(value: Any) -> Named:
    """`tpe`, or `{name: tpe, multivariate: true}`."""
    if isinstance(value, Named):
        return value
    name, options = value, {}
    if isinstance(value, dict):
        name, options = value.get("name"), {key: item for key, item in value.items() if key != "name"}
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"expected a name such as tpe, or {{name: tpe, n_startup_trials: 8}}, got {given(value)}")
    return Named(name.strip(), options)


_Named = Annotated[
    Named,
    PlainValidator(_named),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
            ]
        }
    ),
]
SAMPLERS = ("curves", "tpe", "gp", "cmaes", "random", "qmc", "grid", "nsga2", "nsga3", "optunahub")
STOPPERS = ("curves", "asha", "hyperband", "median", "none")
CURVES = Named("curves")


class SearchSpec(_Entry):
    """Who proposes configurations, and who stops them early."""

    example: ClassVar = "{sampler: tpe, stopping: asha}"

    sampler: _Named = Field(
        default_factory=lambda: CURVES,
        description=f"who proposes: {', '.join(SAMPLERS)}, or your own class as ./file.py:Class or module:Class; with "
        "options as {name: tpe, n_startup_trials: 8}",
    )
    stopping: _Named = Field(
        default_factory=lambda: CURVES,
        description=f"who stops trials early: {', '.join(STOPPERS)}; with options as {{name: asha, kind: stop}}",
    )


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

    require: Condition = Field(description="must hold for every configuration")
    why: Text = Field("", description=WHY)
    source: Text = Field("", description=SOURCE)


class GoalSpec(_Entry):
    """An intention that the guide documents, as a narrowing of the space."""

    example: ClassVar = "{raise: [d_model], lower: [learning_rate]}"

    raises: list[Name] = Field([], alias="raise", description="parameters kept at or above their default")
    lowers: list[Name] = Field([], alias="lower", description="parameters kept at or below their default")
    set: dict[str, Given] = Field({}, description="parameters fixed to a value or an expression")
    why: Text = Field("", description=WHY)
    source: Text = Field("", description=SOURCE)


class PresetSpec(_Entry):
    """A configuration the guide recommends: parameters and their values; those not named keep their defaults."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)
    __pydantic_extra__: dict[str, Given]
    example: ClassVar = "{d_model: 64, learning_rate: 1e-3}"

    why: Text = Field("", description=WHY)
    source: Text = Field("", description=SOURCE)

    @property
    def values(self) -> dict[str, Any]:
        return dict(self.__pydantic_extra__)


class AdviceSpec(_Entry):
    """What the guide recommends depending on the data, the hardware or the model's size."""

    example: ClassVar = "{when: tokens < 5e6, say: text, suggest: {dropout: 0.2}}"

    when: Condition = Field(description="where it applies; also over tokens, num_params, vram_gib and the like")
    say: Text = Field(description="the advice in a sentence")
    suggest: dict[str, Given] = Field({}, description="parameters and their values, or expressions that give them")
    preset: Name = Field("", description="the preset that it recommends")
    source: Text = Field("", description=SOURCE)


class ClaimSpec(_Entry):
    """A number that the guide states for a measurement; only an audit checks it."""

    example: ClassVar = "{id: nano-params, measurement: num_params, preset: nano, value: 5M}"

    id: Name = Field(description="a name of its own")
    measurement: Measured = Field(description="what the number is of")
    preset: Name = Field("", description="the preset that it is about")
    set: dict[str, Given] = Field({}, description="values that differ from the preset's, or from the defaults")
    against: dict[str, Given] = Field({}, description="values of a second configuration: the number is the ratio")
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
    search: SearchSpec = Field(
        default_factory=SearchSpec, description="who proposes configurations, and who stops them early"
    )
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
        """A source as shown outside its file: with the guide's short name before it."""
        return ", ".join(filter(None, [self.guide, source])) if source else ""
