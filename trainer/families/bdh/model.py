"""The Baby Dragon Hatchling (Kosowski et al. 2025, arXiv 2509.26507, the BDH-GPU form), after the bdh guide.

    x = LN(E[token])                                 LN: no weights
    repeat L times, with the same three matrices:
      xs = relu(x We)                                (H, B, T, N): wide, sparse, never negative
      a  = tril(R R', -1) x,  R = rope(xs)           linear attention: no softmax, no scale, a token never sees itself
      ys = relu(LN(a) Wv)
      x <- LN(x + LN((xs * drop(ys)) Wd))            the heads side by side
    logits = x Wh

rope turns neighbouring channels 2j, 2j+1 by the angle position * THETA^(-2j/N). Dropping ys drops xs * ys at the same
places; it needs no mask, because a dropped ys is 0 and so has no gradient through its relu.

H N is hundreds of times D, so the latents (H, B, T, N) are nearly all of the memory and of the memory traffic. They
lie heads first, which makes every product one batched product without a copy, and a layer keeps two of them, xs and
ys; R and xs * ys are made again in backward. Scores start at several hundred: fp32 or bf16, never fp16.

B batch, T time, D width, H heads, N latent width of one head, L layers, V vocabulary, S memory (B, H, N, D).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.families.bdh.config import BDHConfig
from trainer.loss import product_dtype

INIT_STD = 0.02
THETA = 2.0**16
LN_EPS = 1e-5
# A token's attention costs about H N * T multiply-adds by way of the scores of all T tokens, and H N * (CHUNK + 2D) in
# chunks that hand on S. Up to DENSE_TOKENS what chunks might save goes into smaller products and more memory traffic.
CHUNK = 128
DENSE_TOKENS = 512


@dataclass
class BDHState:
    """What the model keeps of the tokens so far: their number, and the memory S of each layer."""

    num_tokens: int = 0
    memories: list[Tensor | None] = field(default_factory=list)


class BDH(nn.Module):
    """tokens (B, T) -> logits (B, T, V)."""

    def __init__(self, config: BDHConfig) -> None:
        super().__init__()
        self.config = config
        V, D, H, N = config.vocab_size, config.n_embd, config.n_head, config.latent_width
        self.embedding = nn.Embedding(V, D)
        self.encoder = nn.Parameter(torch.empty(H, D, N))
        self.encoder_v = nn.Parameter(torch.empty(H, D, N))
        self.decoder = nn.Parameter(torch.empty(H * N, D))
        self.head = nn.Parameter(torch.empty(D, V))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=INIT_STD)

    def empty_state(self) -> BDHState:
        """A state before the first token, which `forward` fills and replaces."""
        return BDHState(memories=[None] * self.config.n_layer)

    def forward(self, tokens: Tensor, state: BDHState | None = None) -> Tensor:
        """Logits (B, T, V); with a state, of tokens that follow those in the state, which is advanced in place."""
        return self.logits(self.hidden(tokens, state))

    def hidden(self, tokens: Tensor, state: BDHState | None = None) -> Tensor:
        """The head's input, (B, T, D)."""
        B, T = tokens.shape
        D, H, N = self.config.n_embd, self.config.n_head, self.config.latent_width
        dtype = product_dtype(tokens.device, self.encoder.dtype)
        encoder, encoder_v = self.encoder.to(dtype), self.encoder_v.to(dtype)
        decoder = self.decoder.to(dtype).view(H, N, D)
        first = 0 if state is None else state.num_tokens
        turns = rotary_turns(first, T, N, tokens.device, self.encoder.dtype)
        dropout = self.config.dropout if self.training else 0.0

        x = layer_norm(self.embedding(tokens))  # (B, T, D), like every sum in full precision
        for i in range(self.config.n_layer):
            low = x.to(dtype)
            xs = torch.bmm(low.view(1, B * T, D).expand(H, -1, -1), encoder).relu_().view(H, B, T, N)
            if state is None:
                a = Attend.apply(xs, low, turns)
            else:
                a, state.memories[i] = attend_in_chunks(rotate(xs, turns), low, state.memories[i])
            a = layer_norm(a.to(x.dtype)).to(dtype).view(H, B * T, D)
            y = Gate.apply(xs.view(H, B * T, N), a, encoder_v, decoder, dropout)
            x = layer_norm(x + layer_norm(y.view(B, T, D)))
        if state is not None:
            state.num_tokens += T
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden @ self.head

    def head_parameters(self) -> tuple[Tensor, None]:
        return self.head.mT, None


class Attend(torch.autograd.Function):
    """a_t = sum over s < t of (R_t . R_s) x_s, with R = rope(xs).

    xs: (H, B, T, N), x: (B, T, D), turns: (T, N/2, 2) -> (H, B, T, D). Backward makes R and the scores again,
    and as query and key are the same R, its two gradients are one product: (dP + dP') R for scores P.
    """

    @staticmethod
    def forward(ctx: Any, xs: Tensor, x: Tensor, turns: Tensor) -> Tensor:
        ctx.save_for_backward(xs, x, turns)
        R = rotate(xs, turns)
        if not is_chunked(xs.shape[2], x.shape[2]):
            return strictly_causal(R, R) @ x
        return attend_in_chunks(R, x, None, keeps_memory=False)[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_a: Tensor) -> tuple[Tensor, Tensor, None]:
        xs, x, turns = ctx.saved_tensors
        R = rotate(xs, turns)
        if not is_chunked(xs.shape[2], x.shape[2]):
            d_R, d_x = _attend_gradients(R, x, d_a)
            del R
            return rotate(d_R, turns, back=True), d_x.sum(0), None
        # The memory before each chunk is needed again, and the gradient of the memory after it: two sweeps, one
        # forwards, one backwards, so that neither is ever kept for more than one chunk.
        d_R, d_x = torch.empty_like(R), torch.zeros_like(x)
        starts = range(0, R.shape[2], CHUNK)
        memory = None
        for start in starts:
            part = slice(start, start + CHUNK)
            d_R_part, d_x_part = _attend_gradients(R[:, :, part], x[:, part], d_a[:, :, part])
            if memory is not None:
                d_R_part += d_a[:, :, part] @ memory.to(x.dtype).mT
            d_R[:, :, part], d_x[:, part] = d_R_part, d_x_part.sum(0)
            if start != starts[-1]:
                memory = _remember(memory, R[:, :, part], x[:, part])
        d_memory = None
        for start in reversed(starts):
            part = slice(start, start + CHUNK)
            if d_memory is not None:
                d_R[:, :, part] += x[:, part] @ d_memory.to(x.dtype).mT
                d_x[:, part] += (R[:, :, part] @ d_memory.to(x.dtype)).sum(0)
            if start != starts[0]:
                d_memory = _remember(d_memory, R[:, :, part], d_a[:, :, part])
        del R
        return rotate(d_R, turns, back=True), d_x, None


class Gate(torch.autograd.Function):
    """The layer's output before its norms: the sum over heads of (xs * drop(relu(a encoder_v))) decoder.

    xs: (H, M, N), a: (H, M, D), encoder_v: (H, D, N), decoder: (H, N, D), M = B T -> (M, D).
    """

    @staticmethod
    def forward(ctx: Any, xs: Tensor, a: Tensor, encoder_v: Tensor, decoder: Tensor, dropout: float) -> Tensor:
        ys = torch.bmm(a, encoder_v).relu_()
        if dropout > 0:
            ys = F.dropout(ys, dropout)
        ctx.save_for_backward(xs, a, encoder_v, decoder, ys)
        ctx.dropout = dropout
        y = torch.bmm(xs * ys, decoder)
        return y.sum(0, dtype=torch.promote_types(y.dtype, torch.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        xs, a, encoder_v, decoder, ys = ctx.saved_tensors
        d_y = d_y.to(xs.dtype).expand(len(xs), -1, -1)
        d_decoder = torch.bmm((xs * ys).mT, d_y)
        d_gated = torch.bmm(d_y, decoder.mT)
        d_xs = d_gated * ys
        d_ys = d_gated.mul_(xs).mul_(ys > 0)  # a dropped ys is 0, like one that its relu cut off
        if ctx.dropout > 0:
            d_ys.mul_(1 / (1 - ctx.dropout))
        return d_xs, torch.bmm(d_ys, encoder_v.mT), torch.bmm(a.mT, d_ys), d_decoder, None


def attend_in_chunks(
    R: Tensor, x: Tensor, memory: Tensor | None, *, keeps_memory: bool = True
) -> tuple[Tensor, Tensor | None]:
    """The attention of R (H, B, T, N) over x (B, T, D) and what the memory holds; and the memory after all of them,
    which the last chunk joins only if it is to be kept.

    Exact: without a softmax the past is no more than S, the sum of all R_s' x_s.
    """
    parts = []
    for r, values in zip(R.split(CHUNK, dim=2), x.split(CHUNK, dim=1), strict=True):
        part = strictly_causal(r, r) @ values
        if memory is not None:
            part = part + r @ memory.to(r.dtype)
        parts.append(part)
        if keeps_memory or len(parts) * CHUNK < R.shape[2]:
            memory = _remember(memory, r, values)
    return torch.cat(parts, dim=2), memory


def strictly_causal(queries: Tensor, keys: Tensor) -> Tensor:
    """tril(queries keys', -1): (.., T, N) and (.., T, N) -> (.., T, T)."""
    return (queries @ keys.mT).tril_(-1)


def _attend_gradients(R: Tensor, x: Tensor, d_a: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of R (H, B, T, N) and, by head, of x (H, B, T, D), from the T tokens among themselves."""
    d_x = strictly_causal(R, R).mT @ d_a
    d_scores = strictly_causal(d_a, x)
    return (d_scores + d_scores.mT) @ R, d_x


def _remember(memory: Tensor | None, R: Tensor, values: Tensor) -> Tensor:
    """memory + R' values, at least in fp32, because it is a sum over the whole text."""
    added = R.mT @ values
    if memory is None:
        return added.to(torch.promote_types(added.dtype, torch.float32))
    return memory + added


def is_chunked(T: int, D: int) -> bool:
    return T > max(DENSE_TOKENS, CHUNK + 2 * D)


def rotary_turns(first: int, T: int, N: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Cosine and sine (T, N/2, 2) of the angles at the positions from `first` on, exact at any position."""
    frequencies = THETA ** (-torch.arange(0, N, 2, device=device, dtype=torch.float64) / N) / (2 * math.pi)
    phases = torch.outer(torch.arange(first, first + T, device=device, dtype=torch.float64), frequencies)
    angles = (phases % 1 * (2 * math.pi)).to(dtype)  # whole turns taken off while they can be told apart
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, turns: Tensor, *, back: bool = False) -> Tensor:
    """x (.., B, T, N): each pair of neighbouring channels is a complex number, rotated by its position, or back."""
    if torch.compiler.is_compiling():  # compile has no complex numbers; uncompiled they are several times faster
        (even, odd), (cos, sin) = x.unflatten(-1, (-1, 2)).unbind(-1), turns.unbind(-1)
        sin = -sin if back else sin
        return torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2).to(x.dtype)
    if x.dtype in (torch.float32, torch.float64):
        factor = torch.view_as_complex(turns)
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * (factor.conj() if back else factor)).flatten(-2)
    turned = torch.empty_like(x)
    for head, out in zip(x, turned, strict=True):  # one head at a time: in fp32 the latents take twice their memory
        out.copy_(rotate(head.float(), turns, back=back))
    return turned


def layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=LN_EPS)
