"""A model of the ghost family (see model.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainer.checks import at_least, require
from trainer.families.family import BYTE_VOCAB_SIZE, ModelConfig


@dataclass(frozen=True, kw_only=True)
class GhostConfig(ModelConfig):
    """Mamba blocks over bytes, skipped by bytes that are easy to predict (see model.py)."""

    # The published model has no setting for these; its parameter counts imply these values.
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
    threshold: float = 0.5  # bytes with more surprise run the layers; 0: every byte does

    def faults(self) -> list[str]:
        return [
            *at_least(self, 1, "vocab_size", "dim", "layers"),
            *require(
                self.max_depth is None or 1 <= self.max_depth <= self.layers,
                f"max_depth {self.max_depth} is not in 1 to layers {self.layers}; leave it out to use every layer",
            ),
            *require(
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
