"""Parameters, training FLOPs and peak GPU memory of a configuration in microseconds, before it trains, without torch.

Each family's formulas are in trainer/costs. Those of memory count what autograd keeps, tensor by tensor, and the
temporaries of the step's widest moments; the tests hold them against every storage of a real step. They describe eager
execution.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trainer.config import TrainConfig
from trainer.costs import bdh, ghost, hybrid, transformer
from trainer.costs.memory import FP32

# What a CUDA run reserves beyond its live bytes. The driver's own context (about 0.5 GB) is not PyTorch's to report.
CUBLAS_WORKSPACE_BYTES = 32 * 2**20  # on Hopper; 8 MiB on older GPUs
ALLOCATOR_SLACK = 0.10  # of the live bytes: blocks are kept in sizes that later tensors do not fill (5 to 15 % seen)

BACKWARD_RATIO = 2  # a matrix product's gradient is two such products


@dataclass(frozen=True, kw_only=True)
class Estimate:
    num_params: int
    flops_per_token: float  # training: forward and backward
    train_flops: float  # of the whole budget
    peak_vram_bytes: int


def estimate(config: TrainConfig) -> Estimate:
    """What this run will cost on a GPU; `num_params` is exact."""
    flops_per_token = (1 + BACKWARD_RATIO) * FORWARD_FLOPS[config.family](config)
    return Estimate(
        num_params=NUM_PARAMS[config.family](config.model),
        flops_per_token=flops_per_token,
        train_flops=flops_per_token * config.budget_tokens,
        peak_vram_bytes=round(live_bytes(config) * (1 + ALLOCATOR_SLACK)) + CUBLAS_WORKSPACE_BYTES,
    )


def live_bytes(config: TrainConfig) -> int:
    """The most bytes of tensors that a training step holds at once."""
    averages = FP32 * NUM_PARAMS[config.family](config.model) if config.ema_share else 0
    return LIVE_BYTES[config.family](config) + averages


NUM_PARAMS: dict[str, Callable[..., int]] = {
    "bdh": bdh.num_params,
    "ghost": ghost.num_params,
    "hybrid": hybrid.num_params,
    "transformer": transformer.num_params,
}
FORWARD_FLOPS: dict[str, Callable[[TrainConfig], float]] = {
    "bdh": bdh.forward_flops,
    "ghost": ghost.forward_flops,
    "hybrid": hybrid.forward_flops,
    "transformer": transformer.forward_flops,
}
LIVE_BYTES: dict[str, Callable[[TrainConfig], int]] = {
    "bdh": bdh.live_bytes,
    "ghost": ghost.live_bytes,
    "hybrid": hybrid.live_bytes,
    "transformer": transformer.live_bytes,
}
