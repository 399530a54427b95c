"""The interface of a model family: a descriptor with its name, config, model, and costs if they are known.

No torch here: a descriptor is read to check a configuration, which must not take the second that torch needs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from trainer.checks import require

BYTE_VOCAB_SIZE = 256  # a model with this vocabulary reads bytes; any other reads the tokens of a BPE of that size


class Run(Protocol):
    """What a family may read of a training run; `TrainConfig` is one."""

    @property
    def family(self) -> str:
        """Its name, see trainer/families/registry.py."""

    @property
    def model(self) -> Any:
        """The family's config."""

    @property
    def seq_len(self) -> int:
        """Tokens per training window."""

    @property
    def batch_size(self) -> int:
        """Windows per forward pass."""

    @property
    def accumulate_grad_batches(self) -> int: ...

    @property
    def precision(self) -> str:
        """`fp32`, `bf16` or `fp16`."""

    @property
    def fused_loss(self) -> bool: ...


class ModelConfig:
    """The base of every family's config: a frozen dataclass with at least a field `vocab_size`.

    Its fields are int, float, str or bool, or one of these or None. The base has no fields of its own.
    """

    def faults(self) -> list[str]:
        """A sentence for each reason why this model cannot be built."""
        return []

    def faults_in(self, run: Run) -> list[str]:
        """A sentence for each reason why this model can be built but not trained by this run."""
        return []


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What training a family costs, by formulas without torch: a search evaluates them thousands of times."""

    num_params: Callable[[Any], int]  # of a config; exact
    forward_flops: Callable[[Any], float]  # of a Run: per token, forward
    live_bytes: Callable[[Any], int]  # of a Run: the most bytes of tensors that a training step holds at once


@dataclass(frozen=True, kw_only=True)
class Source:
    """The origin of a user's own family."""

    location: str  # the absolute path of a file, or the name of a module
    digest: str  # of its text
    text: str | None  # of a file; a module is installed wherever it is used


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family's descriptor. A user's file holds one, under any name; the trainer's own call it FAMILY.

    `build(config)` returns an nn.Module on the CPU, freshly initialised from torch's global generator. The module is
    called as `model(tokens) -> logits`: tokens (B, T) integers, logits (B, T, V). It may have more:

    - `hidden(tokens)`, (B, T, D), and `logits(hidden)`, which is a product with `head_parameters()`, a weight (V, D)
      and a bias (V,) or None. With these three the loss is taken in parts (see trainer/loss.py), which saves memory.
    - `hidden_aside(tokens, targets, is_fused)` in place of `hidden`, for a family that learns by more than its logits
      or has more to report: it returns what `hidden` does, a loss to add to training's, and counts by name. Loss and
      counts are sums over the targets that are not negative. Each count's share of the held-out targets is reported at
      the rungs under its name.
    - `empty_state()`: with it, `model(tokens, state)` continues where the last call with that state ended. The families
      here have it.

    Without `cost`, parameters are counted by building the model without memory, and peak memory is not estimated.
    """

    name: str
    config: type[ModelConfig]
    build: Callable[[Any], Any]
    cost: Cost | None = None
    source: Source | None = None  # of a user's own family; the loader sets this


def no_longer_than(run: Run, name: str, limit: int) -> list[str]:
    """The run's training window is no longer than the model can read."""
    return require(run.seq_len <= limit, f"seq_len {run.seq_len} is longer than {name} {limit}")
