"""The families that the trainer can build, in one plain dict: a new one is a file, a config and a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from trainer.config import TrainConfig
from trainer.models.bdh import BDH
from trainer.models.ghost import GhostLM
from trainer.models.hybrid import HybridLM
from trainer.models.transformer import TransformerLM

# A family is a module called as `model(tokens, state=None) -> logits`: tokens (B, T) integers, logits (B, T, V).
# `model.empty_state()` is what a caller passes, and passes again, to go on where the last call ended.
# These are `model.logits(model.hidden(tokens, state))`: what the head reads, (B, T, D), and what it says, a product
# with `model.head_parameters()`, a weight (V, D) and a bias (V,) or None. So a loss can take the logits in parts.
# A family that learns by more than its logits, or has more to tell, has `model.hidden_aside(tokens, targets, is_fused)`
# instead of `hidden`: it returns also a loss to add to training's, and counts by the name of the Measurement field that
# is their share of all targets; loss and counts are sums over the targets that are not negative.
FAMILIES: dict[str, Callable[[Any], nn.Module]] = {
    "bdh": BDH,
    "ghost": GhostLM,
    "hybrid": HybridLM,
    "transformer": TransformerLM,
}


def build(config: TrainConfig) -> nn.Module:
    """A freshly initialised model, on the CPU, its weights drawn from torch's global generator."""
    return FAMILIES[config.family](config.model)
