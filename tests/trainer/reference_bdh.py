"""BDH as its formulas are written: every T x T score, every head and layer in turn, in double precision."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def logits(weights: dict[str, Tensor], tokens: Tensor, n_layer: int) -> Tensor:
    """weights as BDH names them, in double precision; tokens (B, T) -> (B, T, V)."""
    n_head = len(weights["encoder"])
    x = norm(weights["embedding.weight"][tokens])
    for _ in range(n_layer):
        gated = []
        for h in range(n_head):
            xs = torch.relu(x @ weights["encoder"][h])
            turned = rope(xs)
            scores = torch.tril(turned @ turned.transpose(1, 2), -1)
            ys = torch.relu(norm(scores @ x) @ weights["encoder_v"][h])
            gated.append(xs * ys)
        x = norm(x + norm(torch.cat(gated, dim=-1) @ weights["decoder"]))
    return x @ weights["head"]


def rope(x: Tensor) -> Tensor:
    """(B, T, N): channel n of position t turned by t * 2^16^(-2 floor(n/2) / N), with its neighbour."""
    T, N = x.shape[1:]
    channel = torch.arange(N, dtype=x.dtype)
    turns = torch.arange(T, dtype=x.dtype)[:, None] * 65536 ** (-2 * (channel // 2) / N) / (2 * math.pi)
    angles = 2 * math.pi * (turns % 1)
    neighbour = torch.empty_like(x)
    neighbour[..., 0::2], neighbour[..., 1::2] = -x[..., 1::2], x[..., 0::2]
    return x * angles.cos() + neighbour * angles.sin()


def norm(x: Tensor) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5)
