"""The families that the trainer can build, in one plain dict: a new one is a file, a config and a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from trainer.config import TrainConfig
from trainer.models.hybrid import HybridLM

# A family is a module called as `model(tokens, state=None) -> logits`: tokens (B, T) integers, logits (B, T, V).
# `model.empty_state()` is what a caller passes, and passes again, to go on where the last call ended.
FAMILIES: dict[str, Callable[[Any], nn.Module]] = {
    "hybrid": HybridLM,
}


def build(config: TrainConfig) -> nn.Module:
    """A freshly initialised model, on the CPU, its weights drawn from torch's global generator."""
    return FAMILIES[config.family](config.model)
