"""The descriptor of the hybrid family."""

from __future__ import annotations

from typing import Any

from trainer.families.family import Cost, Family
from trainer.families.hybrid import cost
from trainer.families.hybrid.config import HybridConfig


def build(config: HybridConfig) -> Any:
    """A new model, see Family."""
    from trainer.families.hybrid.model import HybridLM  # imports torch, which takes a second

    return HybridLM(config)


FAMILY = Family(
    name="hybrid",
    config=HybridConfig,
    build=build,
    cost=Cost(num_params=cost.num_params, forward_flops=cost.forward_flops, live_bytes=cost.live_bytes),
)
