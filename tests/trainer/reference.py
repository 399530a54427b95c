"""Slow and obvious, in double precision: the trainer's fast forms are compared with this."""

from __future__ import annotations

import torch
from torch import Tensor


def sequential_scan(log_decay: Tensor, u: Tensor, initial: Tensor | None = None) -> Tensor:
    """s_t = exp(log_decay_t) * s_{t-1} + u_t, one position after the other; (B, T, S)."""
    state = torch.zeros_like(u[:, 0]) if initial is None else initial
    states = []
    for decay, write in zip(log_decay.exp().unbind(1), u.unbind(1), strict=True):
        state = decay * state + write
        states.append(state)
    return torch.stack(states, dim=1)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of one head, (T, K) each, one position after the other, rotary positions half-split."""
    q, k = rotate(q), rotate(k)
    rows = []
    for t in range(len(q)):
        weights = torch.softmax(k[: t + 1] @ q[t] / q.shape[1] ** 0.5, dim=0)
        rows.append(weights @ v[: t + 1])
    return torch.stack(rows)


def rotate(x: Tensor) -> Tensor:
    half = x.shape[1] // 2
    out = torch.empty_like(x)
    for t in range(len(x)):
        for i in range(half):
            angle = torch.tensor(t * 10_000.0 ** (-i / half), dtype=x.dtype)
            out[t, i] = x[t, i] * angle.cos() - x[t, half + i] * angle.sin()
            out[t, half + i] = x[t, half + i] * angle.cos() + x[t, i] * angle.sin()
    return out


def hybrid_logits(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    """The hybrid as its documentation states it, from a model in double precision; tokens (B, T)."""
    x = model.embedding_norm(model.embedding(tokens))
    for block in model.blocks:
        a, mixer = block.norm(x), block.mixer
        if hasattr(mixer, "qkv"):
            q, k, v = (part.unflatten(-1, (mixer.n_heads, -1)) for part in mixer.qkv(a).chunk(3, dim=-1))
            rows = [
                torch.cat([attention(q[b, :, h], k[b, :, h], v[b, :, h]) for h in range(mixer.n_heads)], dim=-1)
                for b in range(len(x))
            ]
            x = x + mixer.output(torch.stack(rows))
        else:
            wd, wg = mixer.gates.weight.chunk(2)
            bd, bg = mixer.gates.bias.chunk(2)
            log_decay = -mixer.base_decay * torch.sigmoid(a @ wd.T + bd)
            u = (a @ mixer.input.weight.T) * torch.sigmoid(a @ wg.T + bg)
            s = sequential_scan(log_decay, u)
            previous = torch.cat([torch.zeros_like(s[:, :1]), s[:, :-1]], dim=1)
            x = x + (u + mixer.context_factor * log_decay.exp() * previous) @ mixer.output.weight.T
    return model.head(x)
