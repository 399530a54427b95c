"""A running average of a model's weights, evaluated instead of them.

The weights at time t count in proportion to t ** gamma, with t in tokens ("power function EMA"; Karras et al. 2024,
Analyzing and Improving the Training Dynamics of Diffusion Models, section 3.1). So the average covers the same share of
the training at every rung, does not depend on the batch size or on steps cut short by a rung, and ignores the initial
weights. A plain EMA with one decay per step has none of these properties.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class WeightAverage:
    """The average of a model's parameters: one more copy of them on their device. Buffers are not averaged."""

    def __init__(self, model: nn.Module, share: float) -> None:
        """`share`: how old the averaged weights are in the mean, relative to the tokens trained, in (0, 0.5]."""
        assert 0 < share <= 0.5, share
        self._parameters: list[Tensor] = list(model.parameters())
        self._averages = [parameter.detach().clone() for parameter in self._parameters]
        self._exponent = 1 / share - 1  # gamma + 1; the mean age of weights that count as t ** gamma is 1 / (gamma + 2)

    @torch.no_grad()
    def update(self, tokens_before: int, tokens: int) -> None:
        """Add the weights after a step from tokens_before to tokens."""
        decay = (tokens_before / tokens) ** self._exponent
        torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the block the model has the averages as its weights; nothing is copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state(self) -> list[Tensor]:
        return self._averages

    def restore(self, state: list[Tensor]) -> None:
        for average, stored in zip(self._averages, state, strict=True):
            average.copy_(stored)

    def _swap(self) -> None:
        for i, parameter in enumerate(self._parameters):
            parameter.data, self._averages[i] = self._averages[i], parameter.data
