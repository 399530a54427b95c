"""A language model of minGRU layers (Feng et al. 2024, "Were RNNs All We Needed?", arXiv 2410.01201).

    z_t = sigmoid(Wz x_t + bz)                          the share of the state that position t replaces
    h_t = (1 - z_t) h_{t-1} + z_t g(Wh x_t + bh)        g(v) = v + 1/2 above 0, sigmoid(v) below; h before the text is 0

No gate reads the state, so all positions are computed at once. With a_t = log(1 - z_1) + ... + log(1 - z_t),
h_t = exp(a_t) times the sum over s <= t of exp(log(z_s g_s) - a_s). Every term is positive, so sums stay logarithms.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainer.families.family import Family, ModelConfig


@dataclass(frozen=True, kw_only=True)
class MinGRUConfig(ModelConfig):
    vocab_size: int = 256
    width: int = 64
    state: int = 64
    layers: int = 2

    def faults(self) -> list[str]:
        sizes = {"vocab_size": self.vocab_size, "width": self.width, "state": self.state, "layers": self.layers}
        return [f"{name} {size} is below 1" for name, size in sizes.items() if size < 1]


class MinGRU(nn.Module):
    """tokens (B, T) -> logits (B, T, V)."""

    def __init__(self, config: MinGRUConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = x + layer(x)
        return self.head(self.norm(x))


class Layer(nn.Module):
    """x (B, T, D) -> what is added to it (B, T, D)."""

    def __init__(self, config: MinGRUConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.width)
        self.gate_and_value = nn.Linear(config.width, 2 * config.state)
        self.out = nn.Linear(config.state, config.width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.gate_and_value(self.norm(x)).float().chunk(2, dim=-1)
        return self.out(scan(gate, value))


def scan(gate: Tensor, value: Tensor) -> Tensor:
    """The states h of all positions, (B, T, S), from the inputs of the sigmoid and of g."""
    log_g = torch.where(value > 0, (value.relu() + 0.5).log(), F.logsigmoid(value))
    decay = F.logsigmoid(-gate).cumsum(dim=1)
    return (decay + (F.logsigmoid(gate) + log_g - decay).logcumsumexp(dim=1)).exp()


FAMILY = Family(name="min_gru", config=MinGRUConfig, build=MinGRU)
