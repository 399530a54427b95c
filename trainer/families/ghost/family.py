"""The descriptor of the ghost family."""

from __future__ import annotations

from typing import Any

from trainer.families.family import Cost, Family
from trainer.families.ghost import cost
from trainer.families.ghost.config import GhostConfig


def build(config: GhostConfig) -> Any:
    """A new model, see Family."""
    from trainer.families.ghost.model import GhostLM  # imports torch, which takes a second

    return GhostLM(config)


FAMILY = Family(
    name="ghost",
    config=GhostConfig,
    build=build,
    cost=Cost(num_params=cost.num_params, forward_flops=cost.forward_flops, live_bytes=cost.live_bytes),
)
