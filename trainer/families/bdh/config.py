"""A model of the bdh family (see model.py)."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.checks import at_least, require, shares
from trainer.families.family import BYTE_VOCAB_SIZE, ModelConfig, Run


@dataclass(frozen=True, kw_only=True)
class BDHConfig(ModelConfig):
    """Baby Dragon Hatchling (see model.py); the names are its guide's."""

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
        if sizes := at_least(self, 1, "vocab_size", "n_embd", "n_layer", "n_head", "mlp_internal_dim_multiplier"):
            return sizes
        latent = self.mlp_internal_dim_multiplier * self.n_embd
        return [
            *require(
                latent % (2 * self.n_head) == 0,
                f"n_head {self.n_head} does not split mlp_internal_dim_multiplier * n_embd = {latent} into even parts, "
                "and rotary embeddings turn pairs",
            ),
            *shares(self, "dropout"),
        ]

    def faults_in(self, run: Run) -> list[str]:
        return require(
            run.precision != "fp16",
            "precision fp16 overflows in bdh: its attention scores, sums over all latents, are never scaled and start "
            "at several hundred; use bf16 or fp32",
        )
