"""The hybrid family: gated state-space blocks around one attention block, after the TinyBlocks guide.

    x   = LN(E[token]);   every block:  x <- x + f(LN(x));   logits = W x + b        (no final norm, no FFN)
    lam = exp(-base_decay * sigmoid(Wd a + bd))         decay of each channel, in (exp(-base_decay), 1)
    u   = (Win a) * sigmoid(Wg a + bg)                  what a position writes
    s_t = lam_t * s_{t-1} + u_t                         the memory
    h_t = u_t + context_factor * lam_t * s_{t-1}        1: h = s; below 1 favours the present, above 1 the past
    f   = Wout h

Deviations from the published code, each so that a documented parameter has its documented meaning: that code has no
recurrence over time (one carried vector serves all positions) and never reads context_factor; here both are as the
guide describes. Its attention projects q, k and v twice in a row, which one projection can express, so there is one.

B batch, T time, D width, H heads, K head width, S state, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.families.hybrid.config import HybridConfig

ROPE_BASE = 10_000.0
MAX_CHUNK_EXPONENT = 60.0  # exp(60) is 1e26: products of two such factors and of their sums stay inside fp32
MAX_CHUNK = 512


class HybridLM(nn.Module):
    """tokens (B, T) -> logits (B, T, V)."""

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.embedding_norm = nn.LayerNorm(config.d_model)
        self.blocks = nn.ModuleList(
            Block(config, Attention(config) if i == config.attn_layer_idx else StateSpace(config))
            for i in range(config.n_layers)
        )
        self.head = nn.Linear(config.d_model, config.vocab_size)

    def empty_state(self) -> list[Any]:
        """A state before the first token: one slot for each block, which `forward` fills and replaces."""
        return [None] * len(self.blocks)

    def forward(self, tokens: Tensor, state: list[Any] | None = None) -> Tensor:
        """Logits (B, T, V); with a state, of tokens that follow those in the state, which is advanced in place.

        Raises ValueError if the tokens, with those already in the state, are more than max_seq.
        """
        return self.logits(self.hidden(tokens, state))

    def hidden(self, tokens: Tensor, state: list[Any] | None = None) -> Tensor:
        """The head's input, (B, T, D)."""
        x = self.embedding_norm(self.embedding(tokens))  # (B, T, D)
        for i, block in enumerate(self.blocks):
            x, carried = block(x, None if state is None else state[i])
            if state is not None:
                state[i] = carried
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)

    def head_parameters(self) -> tuple[Tensor, Tensor]:
        return self.head.weight, self.head.bias


class Block(nn.Module):
    """Pre-norm residual around one mixer."""

    def __init__(self, config: HybridConfig, mixer: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.d_model)
        self.mixer = mixer

    def forward(self, x: Tensor, carried: Any) -> tuple[Tensor, Any]:  # x: (B, T, D)
        y, carried = self.mixer(self.norm(x), carried)
        return x + y, carried


class StateSpace(nn.Module):
    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.base_decay, self.context_factor = config.base_decay, config.context_factor
        self.gates = nn.Linear(config.d_model, 2 * config.d_state)  # Wd and Wg: one matrix product for both
        self.input = nn.Linear(config.d_model, config.d_state, bias=False)
        self.output = nn.Linear(config.d_state, config.d_model, bias=False)

    def forward(self, a: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        """a: (B, T, D), carried: (B, S) -> (B, T, D), (B, S)."""
        # fp32 even under autocast: a decay near 1 rounds to 1 in bf16, and memory would never fade.
        decay_gate, input_gate = torch.sigmoid(self.gates(a).float()).chunk(2, dim=-1)  # (B, T, S) each
        u = self.input(a).float() * input_gate
        s = scan(-self.base_decay * decay_gate, u, carried, self.base_decay)
        h = torch.lerp(u, s, self.context_factor)  # u + c * (s - u), and s - u is lam_t * s_{t-1}
        return self.output(h), s[:, -1]


class Attention(nn.Module):
    """Causal multi-head attention; rotary positions on q and k, half-split."""

    cos: Tensor  # buffers
    sin: Tensor

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.n_heads, self.max_seq = config.n_heads, config.max_seq
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.output = nn.Linear(config.d_model, config.d_model, bias=False)
        half = config.d_model // config.n_heads // 2
        frequencies = ROPE_BASE ** (-torch.arange(half, dtype=torch.float32) / half)
        angles = torch.outer(torch.arange(config.max_seq, dtype=torch.float32), frequencies)  # (max_seq, K/2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, a: Tensor, carried: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """a: (B, T, D), carried: keys and values (B, H, P, K) of P past positions."""
        B, T, D = a.shape
        past = 0 if carried is None else carried[0].shape[2]
        if past + T > self.max_seq:
            raise ValueError(f"{past + T} positions are more than max_seq {self.max_seq}; raise it or cut the text")
        heads = self.qkv(a).view(B, T, 3 * self.n_heads, -1).transpose(1, 2)
        q_k, v = heads.split([2 * self.n_heads, self.n_heads], dim=1)
        q, k = self._rotate(q_k, past).chunk(2, dim=1)  # (B, H, T, K)
        mask = None
        if carried is not None:
            k, v = torch.cat([carried[0], k], dim=2), torch.cat([carried[1], v], dim=2)
            mask = torch.ones(T, past + T, dtype=torch.bool, device=a.device).tril(past)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
        return self.output(y.transpose(1, 2).reshape(B, T, D)), (k, v)

    def _rotate(self, x: Tensor, past: int) -> Tensor:  # (B, 2H, T, K)
        cos = self.cos[past : past + x.shape[2]].to(x.dtype)
        sin = self.sin[past : past + x.shape[2]].to(x.dtype)
        left, right = x.chunk(2, dim=-1)
        return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


def scan(log_decay: Tensor, u: Tensor, initial: Tensor | None, base_decay: float) -> Tensor:
    """All states of s_t = exp(log_decay_t) * s_{t-1} + u_t, in fp32; log_decay, u: (B, T, S), initial: (B, S) or zero.

    No log_decay may be below -base_decay: that bound is what makes two prefix sums enough, without a kernel.
    """
    chunk = max(1, min(MAX_CHUNK, int(MAX_CHUNK_EXPONENT / max(base_decay, 1e-9))))
    if u.shape[1] <= chunk:
        return _ChunkScan.apply(log_decay, u, initial)
    states = []
    for log_decays, inputs in zip(log_decay.split(chunk, dim=1), u.split(chunk, dim=1), strict=True):
        states.append(_ChunkScan.apply(log_decays, inputs, initial))
        initial = states[-1][:, -1]
    return torch.cat(states, dim=1)


class _ChunkScan(torch.autograd.Function):
    """s_t = E_t * cumsum(u / E)_t with E_t = lam_2 * ... * lam_t, the initial state being part of u_1.

    The gradient is written out because autograd's own, through the exponentials, keeps and makes twice as many
    tensors: the adjoint of u is the same scan backwards, and that of log_decay_t is du_t * lam_t * s_{t-1}.
    """

    @staticmethod
    def forward(ctx: Any, log_decay: Tensor, u: Tensor, initial: Tensor | None) -> Tensor:
        first = u
        if initial is not None:
            first = u.clone()
            first[:, 0] += log_decay[:, 0].exp() * initial
        product = _products(log_decay)
        states = first.div(product).cumsum(1).mul_(product)
        ctx.save_for_backward(log_decay, u, states)
        ctx.has_initial = initial is not None
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        log_decay, u, states = ctx.saved_tensors
        product = _products(log_decay)
        d_u = d_states.mul(product).flip(1).cumsum(1).flip(1).div_(product)
        d_log_decay = (states - u).mul_(d_u)
        return d_log_decay, d_u, d_u[:, 0] * log_decay[:, 0].exp() if ctx.has_initial else None


def _products(log_decay: Tensor) -> Tensor:
    """E: the decay from the chunk's first position to each, so that the first is exactly 1."""
    sums = log_decay.cumsum(1)
    return sums.sub_(log_decay[:, :1].clone()).exp_()
