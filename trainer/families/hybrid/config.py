"""A model of the hybrid family (see model.py)."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.checks import at_least, require
from trainer.families.family import BYTE_VOCAB_SIZE, ModelConfig, Run, no_longer_than


@dataclass(frozen=True, kw_only=True)
class HybridConfig(ModelConfig):
    """SSM blocks with one attention block (see model.py)."""

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
            *at_least(self, 1, "vocab_size", "d_model", "d_state", "n_layers", "n_heads", "max_seq"),
            *require(
                self.n_heads < 1 or self.d_model % self.n_heads == 0,
                f"n_heads {self.n_heads} does not divide d_model {self.d_model}",
            ),
            *require(
                self.n_heads < 1 or self.d_model % self.n_heads != 0 or self.d_model // self.n_heads % 2 == 0,
                f"the head width d_model / n_heads = {self.d_model // max(self.n_heads, 1)} is odd; "
                "rotary embeddings turn pairs",
            ),
            *require(
                0 <= self.attn_layer_idx < self.n_layers,
                f"attn_layer_idx {self.attn_layer_idx} is not one of the {self.n_layers} blocks; use 0 to n_layers - 1",
            ),
            *require(self.base_decay >= 0, f"base_decay {self.base_decay} is negative"),
            *require(self.context_factor > 0, f"context_factor {self.context_factor} is not positive; 1 is neutral"),
        ]

    def faults_in(self, run: Run) -> list[str]:
        return no_longer_than(run, "max_seq", self.max_seq)
