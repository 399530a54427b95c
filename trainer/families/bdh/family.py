"""The descriptor of the bdh family."""

from __future__ import annotations

from typing import Any

from trainer.families.bdh import cost
from trainer.families.bdh.config import BDHConfig
from trainer.families.family import Cost, Family


def build(config: BDHConfig) -> Any:
    """A new model, see Family."""
    from trainer.families.bdh.model import BDH  # imports torch, which takes a second

    return BDH(config)


FAMILY = Family(
    name="bdh",
    config=BDHConfig,
    build=build,
    cost=Cost(num_params=cost.num_params, forward_flops=cost.forward_flops, live_bytes=cost.live_bytes),
)
