"""A running average of a model's weights, which is evaluated in their place.

The weights of time t count in proportion to t ** gamma, t in tokens ("power function EMA"; Karras et al. 2024,
Analyzing and Improving the Training Dynamics of Diffusion Models, section 3.1). So the average reaches back over the
same share of the training at every rung, neither the batch size nor a step cut short by a rung changes it, and the
weights that the model started from do not count. A decay for each step, as of the plain EMA, would have none of that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class WeightAverage:
    """Of a model's parameters: one more copy of them on their device. Buffers are not averaged."""

    def __init__(self, model: nn.Module, share: float) -> None:
        """`share`: how old the averaged weights are in the mean, relative to the tokens trained, in (0, 0.5]."""
        assert 0 < share <= 0.5, share
        self._parameters: list[Tensor] = list(model.parameters())
        self._averages = [parameter.detach().clone() for parameter in self._parameters]
        self._exponent = 1 / share - 1  # gamma + 1; the mean age of weights that count as t ** gamma is 1 / (gamma + 2)

    @torch.no_grad()
    def update(self, tokens_before: int, tokens: int) -> None:
        """Take in the weights of a step that led from tokens_before to tokens."""
        decay = (tokens_before / tokens) ** self._exponent
        torch._foreach_lerp_(self._averages, self._parameters, 1 - decay)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the averages for weights inside; not a byte is copied."""
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
