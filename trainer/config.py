"""The configuration of a training run: one frozen dataclass for the run, which contains its model's (trainer/families).

No torch here, so that a search can check a configuration in microseconds.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.checks import ConfigError, at_least, one_of, require, unknown_name
from trainer.families.own import FamilyError, answering_for
from trainer.families.registry import BUILT_IN, family_of
from trainer.fields import field_types, from_values

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

    family: str  # one of the trainer's, or a file or module: see trainer/families/registry.py
    model: Any  # the family's config
    rungs: tuple[int, ...]

    data: tuple[str, ...] = ()
    token_dtype: str = "uint16"  # of .bin files, whose tokens have no header
    cache_dir: str | None = None  # None: the user's cache folder
    text_key: str = "text"  # the field or column of a record that has its text
    skip_bad: bool = False  # leave out records without text, and unreadable files, instead of refusing them
    eval_tokens: int = 131_072  # predicted held-out tokens at each rung, at most
    eval_bytes: int | None = None  # instead of eval_tokens: about this much held-out text, for every vocabulary

    seq_len: int = 128
    batch_size: int = 32
    accumulate_grad_batches: int = 1

    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_ratio: float = 0.02  # of the budget in tokens
    min_lr_ratio: float = 0.1  # of learning_rate, at the end of the decay
    ema_share: float = 0.0  # mean age of averaged weights, which rungs evaluate, as a share of the tokens; 0: off
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip_norm: float = 1.0  # 0: off

    precision: str = "fp32"
    fused_loss: bool = True  # fused with the head: the logits never exist all at once (see trainer/loss.py)
    device: str = "auto"  # "auto": cuda if there is one, else cpu
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
        try:
            family = family_of(self.family)
        except FamilyError as error:
            return [str(error)]
        expected = family.config
        if not isinstance(self.model, expected):
            return [f"model is a {type(self.model).__name__}, but family {self.family!r} takes a {expected.__name__}"]
        rungs = self.rungs
        with answering_for(family):
            of_model, of_both = self.model.faults(), self.model.faults_in(self)
        return [
            *of_model,
            *at_least(self, 1, "seq_len", "batch_size", "accumulate_grad_batches", "eval_tokens"),
            *require(self.eval_bytes is None or self.eval_bytes >= 1, f"eval_bytes {self.eval_bytes} is not positive"),
            *require(bool(self.text_key), "text_key is empty"),
            *require(
                bool(rungs) and rungs[0] > 0 and all(a < b for a, b in zip(rungs, rungs[1:], strict=False)),
                f"rungs {list(rungs)} must be ascending positive token counts",
            ),
            *require(self.learning_rate > 0, f"learning_rate {self.learning_rate} is not positive"),
            *one_of(self, "schedule", SCHEDULES),
            *one_of(self, "precision", PRECISIONS),
            *one_of(self, "token_dtype", TOKEN_DTYPES),
            *require(0 <= self.warmup_ratio < 1, f"warmup_ratio {self.warmup_ratio} is not in [0, 1)"),
            *require(0 <= self.min_lr_ratio <= 1, f"min_lr_ratio {self.min_lr_ratio} is not in [0, 1]"),
            *require(0 <= self.ema_share <= 0.5, f"ema_share {self.ema_share} is not in [0, 0.5]; 0 is off"),
            *require(self.weight_decay >= 0, f"weight_decay {self.weight_decay} is negative"),
            *require(0 <= self.seed < 2**64, f"seed {self.seed} is not in [0, 2**64), which is what torch takes"),
            *require(0 <= self.beta1 < 1, f"beta1 {self.beta1} is not in [0, 1)"),
            *require(0 <= self.beta2 < 1, f"beta2 {self.beta2} is not in [0, 1)"),
            *require(self.grad_clip_norm >= 0, f"grad_clip_norm {self.grad_clip_norm} is negative"),
            *of_both,
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
        """A run from one flat mapping; each name is a field of the model or of the run.

        Raises ConfigError for an unknown family, an unknown name or a value of the wrong type.
        """
        described = family_of(family)
        model_type: Any = described.config  # a dataclass, which its type does not say
        model_fields = {f.name for f in dataclasses.fields(model_type)}
        known = {*parameter_types(family), "rungs"}
        if unknown := [unknown_name("parameter", name, known) for name in values if name not in known]:
            raise ConfigError("; ".join(unknown))
        with answering_for(described):
            model = from_values(model_type, {k: v for k, v in values.items() if k in model_fields})
        run = {k: v for k, v in values.items() if k not in model_fields}
        return from_values(cls, {"family": family, "model": model, **run})

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> TrainConfig:
        """The inverse of `to_dict`; also takes the flat form (`{"family": ..., "d_model": ..., ...}`)."""
        values = dict(document)
        family = values.pop("family", None)
        if family is None:
            raise ConfigError(f"the configuration has no family. Known: {', '.join(BUILT_IN)}")
        model = values.pop("model", {})
        if not isinstance(model, Mapping):
            raise ConfigError(f"model must be a mapping of parameters, not {model!r}")
        if not isinstance(family, str):
            raise ConfigError(f"family is {family!r}, not a name")
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
    """Every name that a configuration of this family may set, with its type: the model's fields and the run's.

    Raises FamilyError for an unknown family, or one with a field that the run has too.
    """
    types: dict[str, type] = {}
    model: Any = family_of(family).config  # a dataclass, which its type does not say
    run_fields = {f.name for f in dataclasses.fields(TrainConfig)}
    if twice := [f.name for f in dataclasses.fields(model) if f.name in run_fields]:
        raise FamilyError(f"{model.__name__}.{twice[0]} is a field of every training run; give it another name")
    configs: tuple[type, ...] = (model, TrainConfig)
    for config in configs:
        hints = field_types(config)
        names = {f.name for f in dataclasses.fields(config)} - {"family", "model", "rungs"}  # excludes class constants
        types |= {name: hint for name, hint in hints.items() if name in names}
    return types
