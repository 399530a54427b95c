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
from typing import Any, ClassVar

BYTE_VOCAB_SIZE = 256


class ConfigError(ValueError):
    """A configuration that cannot be trained; the message names every fault and what to do about it."""


class ModelConfig:
    """What every family's config says about itself. A base of dataclasses, so it has no fields of its own."""

    def faults(self) -> list[str]:
        """One sentence for each reason why this model cannot be built."""
        raise NotImplementedError

    def faults_in(self, run: TrainConfig) -> list[str]:
        """One sentence for each reason why this model, though it can be built, cannot be trained by this run."""
        return []


@dataclass(frozen=True, kw_only=True)
class HybridConfig(ModelConfig):
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

    def faults_in(self, run: TrainConfig) -> list[str]:
        return _longer_than(run, "max_seq", self.max_seq)


ARCHS = ("gpt2", "llama")
ROPE_THETA = 10_000.0
LLAMA_FFN_MULTIPLE = 256  # a llama's feed-forward width, where not given, is rounded up to a multiple of this


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """GPT-2 or Llama blocks (see trainer/models/transformer.py).

    None stands for what the architecture itself does; the properties below say what that is.
    """

    arch: str = "gpt2"
    vocab_size: int = 8192
    context_length: int = 512
    d_model: int = 384
    n_layers: int = 4
    n_heads: int = 6
    n_kv_heads: int | None = None  # llama only; None or 0: n_heads
    d_ff: int | None = None
    dropout: float | None = None  # between the two products of the feed-forward part
    emb_dropout: float | None = None  # None, here and below: as dropout
    attn_dropout: float | None = None
    resid_dropout: float | None = None
    rope_theta: float = ROPE_THETA  # llama only
    norm_eps: float | None = None

    @property
    def kv_heads(self) -> int:
        return self.n_kv_heads or self.n_heads

    @property
    def head_width(self) -> int:
        return self.d_model // self.n_heads

    @property
    def ffn_width(self) -> int:
        if self.d_ff is not None:
            return self.d_ff
        multiple = LLAMA_FFN_MULTIPLE if self.arch == "llama" else 1
        return -(-4 * self.d_model // multiple) * multiple

    @property
    def eps(self) -> float:
        if self.norm_eps is not None:
            return self.norm_eps
        return 1e-6 if self.arch == "llama" else 1e-5

    def dropout_rate(self, place: str = "") -> float:
        """The share that is dropped at "emb", "attn" or "resid", or without a place in the feed-forward part."""
        rate = getattr(self, f"{place}_dropout") if place else self.dropout
        if rate is not None:
            return rate
        if place:
            return self.dropout_rate()
        return 0.0 if self.arch == "llama" else 0.1

    def faults(self) -> list[str]:
        if bad_arch := _one_of(self, "arch", ARCHS):
            return bad_arch
        sizes = _at_least(self, 1, "vocab_size", "context_length", "d_model", "n_layers", "n_heads")
        if self.d_ff is not None:
            sizes += _at_least(self, 1, "d_ff")
        if self.n_kv_heads is not None:
            sizes += _at_least(self, 0, "n_kv_heads")
        if sizes:
            return sizes
        is_llama, H, G = self.arch == "llama", self.n_heads, self.kv_heads
        return [
            *_require(self.d_model % H == 0, f"n_heads {H} does not divide d_model {self.d_model}"),
            *_require(
                not is_llama or self.d_model % H != 0 or self.head_width % 2 == 0,
                f"the head width d_model / n_heads = {self.head_width} is odd; rotary embeddings turn pairs",
            ),
            *_require(
                is_llama or G == H,
                f"n_kv_heads {G} differs from n_heads {H}, which only arch llama can do; leave it out for {self.arch}",
            ),
            *_require(not is_llama or H % G == 0, f"n_kv_heads {G} does not divide n_heads {H}"),
            *_require(
                is_llama or self.rope_theta == ROPE_THETA,
                f"rope_theta is for arch llama; {self.arch} learns its positions: leave it out",
            ),
            *_require(self.rope_theta > 0, f"rope_theta {self.rope_theta} is not positive"),
            *_require(self.eps > 0, f"norm_eps {self.eps} is not positive"),
            *_shares(self, "dropout", "emb_dropout", "attn_dropout", "resid_dropout"),
        ]

    def faults_in(self, run: TrainConfig) -> list[str]:
        return _longer_than(run, "context_length", self.context_length)


@dataclass(frozen=True, kw_only=True)
class BDHConfig(ModelConfig):
    """Baby Dragon Hatchling (see trainer/models/bdh.py); the names are its guide's."""

    vocab_size: int = BYTE_VOCAB_SIZE
    n_embd: int = 256
    n_layer: int = 6
    n_head: int = 4
    mlp_internal_dim_multiplier: int = 128
    dropout: float = 0.1

    @property
    def latent_width(self) -> int:
        """Of one head."""
        return self.mlp_internal_dim_multiplier * self.n_embd // self.n_head

    def faults(self) -> list[str]:
        if sizes := _at_least(self, 1, "vocab_size", "n_embd", "n_layer", "n_head", "mlp_internal_dim_multiplier"):
            return sizes
        latent = self.mlp_internal_dim_multiplier * self.n_embd
        return [
            *_require(
                latent % (2 * self.n_head) == 0,
                f"n_head {self.n_head} does not split mlp_internal_dim_multiplier * n_embd = {latent} into even parts, "
                "and rotary embeddings turn pairs",
            ),
            *_shares(self, "dropout"),
        ]

    def faults_in(self, run: TrainConfig) -> list[str]:
        return _require(
            run.precision != "fp16",
            "precision fp16 overflows in bdh: its attention scores, sums over all latents, are never scaled and start "
            "at several hundred; use bf16 or fp32",
        )


@dataclass(frozen=True, kw_only=True)
class GhostConfig(ModelConfig):
    """Mamba blocks over bytes, skipped by bytes that are easy to predict (see trainer/models/ghost.py)."""

    # The published model has no setting for these; they are what its parameter counts imply.
    d_state: ClassVar[int] = 16
    d_conv: ClassVar[int] = 4
    expand: ClassVar[int] = 2
    ffn_ratio: ClassVar[int] = 4
    tokenizer_state: ClassVar[int] = 16
    norm_eps: ClassVar[float] = 1e-5

    vocab_size: int = BYTE_VOCAB_SIZE
    dim: int = 256
    layers: int = 6
    max_depth: int | None = None  # the most layers that a byte runs; None: all
    threshold: float = 0.5  # of surprise, above which a byte runs them; 0: every byte does

    def faults(self) -> list[str]:
        return [
            *_at_least(self, 1, "vocab_size", "dim", "layers"),
            *_require(
                self.max_depth is None or 1 <= self.max_depth <= self.layers,
                f"max_depth {self.max_depth} is not in 1 to layers {self.layers}; leave it out to use every layer",
            ),
            *_require(
                0 <= self.threshold < 1,
                f"threshold {self.threshold} is not in [0, 1): a surprise is 1 - p; 0 keeps every byte",
            ),
        ]

    @property
    def depth(self) -> int:
        """The most layers that a byte runs."""
        return self.layers if self.max_depth is None else self.max_depth

    @property
    def dt_rank(self) -> int:
        return -(-self.dim // 16)


MODEL_CONFIGS: dict[str, type[ModelConfig]] = {
    "ghost": GhostConfig,
    "hybrid": HybridConfig,
    "transformer": TransformerConfig,
    "bdh": BDHConfig,
}

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
            *self.model.faults_in(self),
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
        hints = _hints(config)
        names = {f.name for f in dataclasses.fields(config)} - {"family", "model", "rungs"}  # no class constants
        types |= {name: hint for name, hint in hints.items() if name in names}
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


def _longer_than(run: TrainConfig, name: str, limit: int) -> list[str]:
    return _require(run.seq_len <= limit, f"seq_len {run.seq_len} is longer than {name} {limit}")


def _one_of(config: Any, name: str, allowed: tuple[str, ...]) -> list[str]:
    value = getattr(config, name)
    return [] if value in allowed else [unknown_name(name, value, allowed)]


def _shares(config: Any, *names: str) -> list[str]:
    values = {name: getattr(config, name) for name in names}
    return [f"{n} {v} is not in [0, 1)" for n, v in values.items() if v is not None and not 0 <= v < 1]


def _require(holds: bool, otherwise: str) -> list[str]:
    return [] if holds else [otherwise]
