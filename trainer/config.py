"""What a training run is: one frozen dataclass for the run and one for each family.

No torch here, so that a search can check a configuration in microseconds.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BYTE_VOCAB_SIZE = 256


class ConfigError(ValueError):
    """A configuration that cannot be trained; the message names every fault and what to do about it."""


@dataclass(frozen=True, kw_only=True)
class HybridConfig:
    """SSM blocks with one attention block (see trainer/models/hybrid.py)."""

    vocab_size: int = BYTE_VOCAB_SIZE
    d_model: int = 128
    d_state: int = 16
    n_layers: int = 4
    n_heads: int = 4
    max_seq: int = 512
    attn_layer_idx: int = 2
    base_decay: float = 0.05
    context_factor: float = 1.0

    def faults(self) -> list[str]:
        """One sentence for each reason why this model cannot be built."""
        return [
            *_at_least(self, 1, "vocab_size", "d_model", "d_state", "n_layers", "n_heads", "max_seq"),
            *_require(
                self.n_heads < 1 or self.d_model % self.n_heads == 0,
                f"n_heads {self.n_heads} does not divide d_model {self.d_model}",
            ),
            *_require(
                self.n_heads < 1 or self.d_model % self.n_heads != 0 or self.d_model // self.n_heads % 2 == 0,
                f"the head width d_model / n_heads = {self.d_model // max(self.n_heads, 1)} is odd; "
                "rotary embeddings turn pairs",
            ),
            *_require(
                0 <= self.attn_layer_idx < self.n_layers,
                f"attn_layer_idx {self.attn_layer_idx} is no block of {self.n_layers}; use 0 to n_layers - 1",
            ),
            *_require(self.base_decay >= 0, f"base_decay {self.base_decay} is negative"),
            *_require(self.context_factor > 0, f"context_factor {self.context_factor} is not positive; 1 is neutral"),
        ]


MODEL_CONFIGS: dict[str, type] = {"hybrid": HybridConfig}

PRECISIONS = ("fp32", "bf16", "fp16")
SCHEDULES = ("constant", "cosine", "wsd")
TOKEN_DTYPES = ("uint16", "uint32")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run: a model, the text, the optimizer, and the token counts at which it is measured.

    `rungs` are token counts, ascending; the run evaluates exactly at each and ends at the last, which is also
    the horizon of the learning-rate schedule. `data` empty means Python's standard-library sources.
    A `vocab_size` of 256 reads bytes; a larger one trains a byte-level BPE of that size on the training text.
    """

    family: str
    model: Any  # the family's own config: MODEL_CONFIGS[family]
    rungs: tuple[int, ...]

    data: tuple[str, ...] = ()
    token_dtype: str = "uint16"  # of .bin files, whose tokens have no header
    cache_dir: str | None = None  # None: the user's cache folder
    eval_tokens: int = 131_072  # predicted held-out tokens at each rung, at most

    seq_len: int = 128
    batch_size: int = 32
    accumulate_grad_batches: int = 1

    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_ratio: float = 0.02  # of the budget in tokens
    min_lr_ratio: float = 0.1  # of learning_rate, at the end of the decay
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip_norm: float = 1.0  # 0: off

    precision: str = "fp32"
    device: str = "auto"  # "auto": cuda where there is one, else cpu
    compile: bool = False
    num_threads: int | None = None  # None: torch's own choice
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "rungs", tuple(self.rungs))
        object.__setattr__(self, "data", tuple(self.data))
        if faults := self.faults():
            raise ConfigError("; ".join(faults))

    def faults(self) -> list[str]:
        """One sentence for each reason why this run cannot be trained."""
        expected = MODEL_CONFIGS.get(self.family)
        if expected is None:
            return [unknown_name("family", self.family, MODEL_CONFIGS)]
        if not isinstance(self.model, expected):
            return [f"model is a {type(self.model).__name__}, but family {self.family!r} takes a {expected.__name__}"]
        rungs = self.rungs
        return [
            *self.model.faults(),
            *_at_least(self, 1, "seq_len", "batch_size", "accumulate_grad_batches", "eval_tokens"),
            *_require(
                bool(rungs) and rungs[0] > 0 and all(a < b for a, b in zip(rungs, rungs[1:], strict=False)),
                f"rungs {list(rungs)} must be ascending positive token counts",
            ),
            *_require(self.learning_rate > 0, f"learning_rate {self.learning_rate} is not positive"),
            *_one_of(self, "schedule", SCHEDULES),
            *_one_of(self, "precision", PRECISIONS),
            *_one_of(self, "token_dtype", TOKEN_DTYPES),
            *_require(0 <= self.warmup_ratio < 1, f"warmup_ratio {self.warmup_ratio} is not in [0, 1)"),
            *_require(0 <= self.min_lr_ratio <= 1, f"min_lr_ratio {self.min_lr_ratio} is not in [0, 1]"),
            *_require(self.weight_decay >= 0, f"weight_decay {self.weight_decay} is negative"),
            *_require(0 <= self.beta1 < 1, f"beta1 {self.beta1} is not in [0, 1)"),
            *_require(0 <= self.beta2 < 1, f"beta2 {self.beta2} is not in [0, 1)"),
            *_require(self.grad_clip_norm >= 0, f"grad_clip_norm {self.grad_clip_norm} is negative"),
            *_require(
                getattr(self.model, "max_seq", self.seq_len) >= self.seq_len,
                f"seq_len {self.seq_len} is longer than max_seq {getattr(self.model, 'max_seq', None)}",
            ),
        ]

    @property
    def budget_tokens(self) -> int:
        return self.rungs[-1]

    @property
    def tokens_per_step(self) -> int:
        """Training tokens of one optimizer step."""
        return self.batch_size * self.seq_len * self.accumulate_grad_batches

    @classmethod
    def from_flat(cls, family: str, values: Mapping[str, Any]) -> TrainConfig:
        """A run from one flat mapping, each name going to the model or to the run, whichever has it.

        Raises ConfigError for an unknown family, an unknown name or a value of the wrong type.
        """
        if family not in MODEL_CONFIGS:
            raise ConfigError(unknown_name("family", family, MODEL_CONFIGS))
        model_type = MODEL_CONFIGS[family]
        model_fields = {f.name for f in dataclasses.fields(model_type)}
        known = {*parameter_types(family), "rungs"}
        if unknown := [unknown_name("parameter", name, known) for name in values if name not in known]:
            raise ConfigError("; ".join(unknown))
        model = _build(model_type, {k: v for k, v in values.items() if k in model_fields})
        run = {k: v for k, v in values.items() if k not in model_fields}
        return _build(cls, {"family": family, "model": model, **run})

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`; also takes the flat form (`{"family": ..., "d_model": ..., ...}`)."""
        values = dict(document)
        family = values.pop("family", None)
        if family is None:
            raise ConfigError(f"the configuration has no family. Known: {', '.join(sorted(MODEL_CONFIGS))}")
        model = values.pop("model", {})
        if not isinstance(model, Mapping):
            raise ConfigError(f"model must be a mapping of parameters, not {model!r}")
        if twice := sorted(set(model) & set(values)):
            raise ConfigError(f"given twice, inside model and beside it: {', '.join(twice)}")
        return cls.from_flat(family, {**values, **model})

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_file(cls, path: str | Path) -> TrainConfig:
        """Read a JSON file. Raises ConfigError, naming the file, for anything that is not a configuration."""
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise ConfigError(f"{path}: not JSON: {error}") from None
        if not isinstance(document, dict):
            raise ConfigError(f"{path}: a configuration is a JSON object, not {type(document).__name__}")
        try:
            return cls.from_dict(document)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None


def parameter_types(family: str) -> dict[str, type]:
    """Every name that a configuration of this family may set, with its type: the model's fields and the run's."""
    types: dict[str, type] = {}
    for config in (MODEL_CONFIGS[family], TrainConfig):
        types |= {n: t for n, t in _hints(config).items() if n not in ("family", "model", "rungs")}
    return types


def unknown_name(kind: str, name: str, known: typing.Iterable[str]) -> str:
    """The sentence that refuses a name: what was given, what is known, and the nearest known one."""
    names = sorted(known)
    near = difflib.get_close_matches(str(name), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r}. Known: {', '.join(names)}.{hint}"


def _build(cls: type, values: Mapping[str, Any]) -> Any:
    """`cls(**values)` with every value's type checked against the field's annotation."""
    hints = _hints(cls)
    checked, faults = {}, []
    for name, value in values.items():
        try:
            checked[name] = _coerce(value, hints[name])
        except TypeError as error:
            faults.append(f"{name}: {error}")
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in values
    ]
    faults += [f"{name} is missing" for name in missing]
    if faults:
        raise ConfigError("; ".join(faults))
    return cls(**checked)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    """The types of a config's fields; cached, for `typing` compiles every annotation anew at each call."""
    return typing.get_type_hints(cls)


def _coerce(value: Any, hint: Any) -> Any:
    """`value` as `hint`, where an int may stand for a float and a whole float for an int. Raises TypeError."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin is tuple:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise TypeError(f"expected a list, got {value!r}")
        return tuple(_coerce(item, typing.get_args(hint)[0]) for item in value)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _coerce(value, next(arg for arg in typing.get_args(hint) if arg is not type(None)))
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and float(value).is_integer():
        return int(value)
    if hint in (str, bool) and isinstance(value, hint):
        return value
    raise TypeError(f"expected {hint.__name__}, got {value!r}")


def _at_least(config: Any, minimum: int, *names: str) -> list[str]:
    return [f"{n} {getattr(config, n)} is below {minimum}" for n in names if getattr(config, n) < minimum]


def _one_of(config: Any, name: str, allowed: tuple[str, ...]) -> list[str]:
    value = getattr(config, name)
    return [] if value in allowed else [unknown_name(name, value, allowed)]


def _require(holds: bool, otherwise: str) -> list[str]:
    return [] if holds else [otherwise]
