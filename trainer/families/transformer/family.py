"""The descriptor of the transformer family."""

from __future__ import annotations

from typing import Any

from trainer.families.family import Cost, Family
from trainer.families.transformer import cost
from trainer.families.transformer.config import TransformerConfig


def build(config: TransformerConfig) -> Any:
    """A new model, see Family."""
    from trainer.families.transformer.model import TransformerLM  # imports torch, which takes a second

    return TransformerLM(config)


FAMILY = Family(
    name="transformer",
    config=TransformerConfig,
    build=build,
    cost=Cost(num_params=cost.num_params, forward_flops=cost.forward_flops, live_bytes=cost.live_bytes),
)
