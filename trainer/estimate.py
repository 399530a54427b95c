"""Estimates parameters, training FLOPs and peak GPU memory of a configuration in microseconds, without torch.

Each family's formulas are in its folder (`cost.py`). Those of memory count what autograd keeps, tensor by tensor, and
the temporaries of the step's widest moments; the tests compare them with every storage of a real step. They describe
eager execution. If a family has no formulas, its model is built on torch's meta device, without memory, to count
parameters.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any

from trainer.config import TrainConfig
from trainer.families.family import Family
from trainer.families.own import FamilyError, answering_for
from trainer.families.registry import family_of
from trainer.families.shared.memory import FP32

# What a CUDA run reserves beyond its live bytes. PyTorch does not report the driver's own context (about 0.5 GB).
CUBLAS_WORKSPACE_BYTES = 32 * 2**20  # on Hopper; 8 MiB on older GPUs
ALLOCATOR_SLACK = 0.10  # of the live bytes: freed blocks have sizes that later tensors do not fill (5 to 15 % seen)

BACKWARD_RATIO = 2  # a matrix product's gradient is two such products


@dataclass(frozen=True, kw_only=True)
class Estimate:
    num_params: int
    flops_per_token: float  # training: forward and backward
    train_flops: float  # of the whole budget
    peak_vram_bytes: int | None  # None for a family without formulas


def estimate(config: TrainConfig) -> Estimate:
    """What this run will cost on a GPU; `num_params` is exact. Raises FamilyError if the model cannot be built.

    Without formulas, FLOPs are those of a model that uses each parameter once for each token.
    """
    family = family_of(config.family)
    with answering_for(family):
        params, live = num_params(config), live_bytes(config)
        forward_flops = 2 * params if family.cost is None else family.cost.forward_flops(config)
    flops_per_token = (1 + BACKWARD_RATIO) * forward_flops
    return Estimate(
        num_params=params,
        flops_per_token=flops_per_token,
        train_flops=flops_per_token * config.budget_tokens,
        peak_vram_bytes=None if live is None else round(live * (1 + ALLOCATOR_SLACK)) + CUBLAS_WORKSPACE_BYTES,
    )


def num_params(config: TrainConfig) -> int:
    """Exact. Raises FamilyError if the model has to be built to be counted, and cannot be."""
    family = family_of(config.family)
    return built_params(family, config.model) if family.cost is None else family.cost.num_params(config.model)


def live_bytes(config: TrainConfig) -> int | None:
    """The most bytes of tensors that a training step holds at once; None for a family without formulas."""
    cost = family_of(config.family).cost
    if cost is None:
        return None
    averages = FP32 * cost.num_params(config.model) if config.ema_share else 0
    return cost.live_bytes(config) + averages


@functools.lru_cache(maxsize=10_000)
def built_params(family: Family, model: Any) -> int:
    """The parameters of a model, built without memory to count them. Raises FamilyError if it cannot be built."""
    torch = importlib.import_module("torch")  # here only: families with formulas need no torch
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), answering_for(family):
            built = family.build(model)
    except FamilyError as error:
        where = "on torch's meta device, where tensors have no values"
        raise FamilyError(f"{error}; {family.name} was built {where}, to count its parameters") from None
    if not isinstance(built, torch.nn.Module):
        raise FamilyError(f"build of the family {family.name} returned {type(built).__name__}, not an nn.Module")
    return sum(parameter.numel() for parameter in built.parameters())
