"""Parameters, training FLOPs and peak GPU memory of a configuration in microseconds, without torch, before it is trained."""

from __future__ import annotations

from dataclasses import dataclass

from trainer.config import HybridConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Estimate:
    num_params: int
    flops_per_token: float
    train_flops: float
    peak_vram_bytes: int


def estimate(config: TrainConfig) -> Estimate:
    m: HybridConfig = config.model
    V, D, S, n = m.vocab_size, m.d_model, m.d_state, m.n_layers
    P = 2 * V * D + V + 2 * D + (n - 1) * (4 * D * S + 2 * S + 2 * D) + 4 * D * D + 2 * D
    flops = 6.0 * P
    return Estimate(num_params=P, flops_per_token=flops, train_flops=flops * config.budget_tokens, peak_vram_bytes=16 * P)
