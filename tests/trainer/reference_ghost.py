"""The ghost as its documentation states it, in double precision, one byte after the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import gelu, silu, softplus


def logits(model: torch.nn.Module, tokens: Tensor) -> tuple[Tensor, list[list[bool]]]:
    """Logits (B, T, V) of a model in double precision, and which bytes were kept."""
    rows = [row_logits(model, row.tolist()) for row in tokens]
    return torch.stack([torch.stack(logits) for logits, _ in rows]), [kept for _, kept in rows]


def row_logits(model: torch.nn.Module, row: list[int]) -> tuple[list[Tensor], list[bool]]:
    config = model.config
    layers = list(model.layers)[: config.depth]
    embedded, state = [], torch.zeros(16, dtype=torch.float64)
    inputs: list[list[Tensor]] = [[] for _ in layers]
    states = [torch.zeros(16, 2 * config.dim, dtype=torch.float64) for _ in layers]
    out, kept = [], []
    for byte in row:
        embedded.append(model.embedding.weight[byte])
        h = conv(model.conv, embedded)
        previous, state = state, model.tokenizer_state(h)
        h = h * (1 + torch.sigmoid(model.boost(torch.cat([state, (state - previous).abs()]))))
        surprise = 1 - torch.softmax(model.quick(rms(None, h)), dim=0).max().item()
        kept.append(surprise > config.threshold)
        if kept[-1]:
            depth = config.depth * torch.sigmoid(model.depth(h) + model.importance.weight[byte])
            for i, layer in enumerate(layers):
                gate = torch.sigmoid(5 * (depth - i))
                mixed, states[i] = mamba(layer.mamba, rms(layer.mamba_norm, h), inputs[i], states[i])
                h = h + gate * mixed
                wide, _, narrow = layer.ffn
                h = h + gate * narrow(gelu(wide(rms(layer.ffn_norm, h))))
        out.append(model.head(rms(model.norm, h)))
    return out, kept


def mamba(block: torch.nn.Module, u: Tensor, inputs: list[Tensor], state: Tensor) -> tuple[Tensor, Tensor]:
    """One position, its input appended to those before it; state: (16, E)."""
    inputs.append(block.input.weight @ u)
    x = conv(block.conv, inputs)
    low_rank, write, read = (block.select.weight @ x).split([math.ceil(len(u) / 16), 16, 16])
    step = softplus(block.step(low_rank))
    A = -torch.exp(block.scan.a_log)
    state = torch.exp(step * A) * state + torch.outer(write, step * x)
    y = read @ state + block.scan.skip * x
    return block.output.weight @ (y * silu(block.gate.weight @ u)), state


def conv(layer: torch.nn.Module, inputs: list[Tensor]) -> Tensor:
    total = layer.bias
    for tap, x in zip(reversed(layer.weight), reversed(inputs), strict=False):
        total = total + tap * x
    return silu(total)


def rms(norm: torch.nn.Module | None, x: Tensor) -> Tensor:
    weight = 1 if norm is None else norm.weight
    return weight * x / torch.sqrt(x.square().mean() + 1e-5)


def scan(
    raw_step: Tensor, x: Tensor, write: Tensor, read: Tensor, a_log: Tensor, skip: Tensor, state: Tensor
) -> Tensor:
    """y (K, B, E) of the state equation, one moment after the other."""
    rows = []
    for t in range(len(x)):
        step = softplus(raw_step[t])[:, None]
        state = torch.exp(-step * torch.exp(a_log)) * state + write[t][:, :, None] * (step * x[t][:, None])
        rows.append((read[t][:, :, None] * state).sum(1) + skip * x[t])
    return torch.stack(rows)
