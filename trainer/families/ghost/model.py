"""The ghost family: bytes through Mamba blocks, where bytes that are easy to predict skip every block.

    h     = silu(conv(E[byte]));   s = Ws h + bs
    h     = h * (1 + sigmoid(Wb [s_t; |s_t - s_{t-1}|] + bb))          amplified where the tokenizer's state moves
    keep  = 1 - max_v softmax(Wq RMS(h) + bq)_v  >  threshold           surprise: what the quick head is unsure about
    depth = max_depth * sigmoid(w h + b + importance[byte]);   gate_i = sigmoid(5 (depth - i))       i = 0, 1, ...
    h    <- h + gate_i * Mamba(RMS(h));   h <- h + gate_i * FFN(RMS(h))        kept bytes, blocks i < max_depth
    logits = Wo RMS(h) + bo                                              every byte

A block is Mamba-1 (Gu and Dao 2023, section 3) and a feed-forward layer. A skipped byte costs no block anything and
is unknown to it: the kept bytes are gathered, in order, into a shorter sequence, on which the convolution and the
state go on as if nothing stood between. That is the same in training, in evaluation and in generation.

Deviations from the published code, each so that a documented parameter has its documented meaning:
- There the quick head is never trained, so that every threshold keeps every byte. Here it learns the next byte by its
  own cross-entropy. Its input is detached and the comparison has no gradient: the head observes the model and never
  bends it, and a byte's surprise does not depend on the threshold, so that raising one can only keep fewer bytes.
- There surprise is 1 - p(next byte), which reads the byte to be predicted. Here it is the head's own doubt, known
  when a text is continued (softmax response, as in CALM, Schuster et al. 2022).
- There the mask multiplies what was computed anyway.
- There blocks from max_depth on run with a nearly closed gate; here max_depth is the most blocks that a byte runs.

T time, B batch, D width, V vocabulary; E = 2D inner width, N = 16 states a channel, R = D/16 rank of the step;
M kept bytes, K the most of one row. Time comes first inside, so that a moment of all rows is contiguous.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from trainer.families.ghost.config import GhostConfig
from trainer.loss import cross_entropy, fused_cross_entropy

GATE_SHARPNESS = 5.0
QUICK_LOSS_WEIGHT = 0.1  # AdamW undoes any factor: small only to leave gradient clipping to the model's own loss
MIN_STEP, MAX_STEP = 0.001, 0.1  # of the state equation, when freshly drawn

SEGMENT = 32  # moments between the states that are kept for backward; those between are computed again
# A block of states to work on at a time: what a CPU's second-level cache holds, 2**17 numbers; all of a segment on a
# GPU, where the cost is in starting kernels.
CPU_BLOCK_NUMBERS = 2**17


class GhostLM(nn.Module):
    """tokens (B, T) -> logits (B, T, V)."""

    def __init__(self, config: GhostConfig) -> None:
        super().__init__()
        self.config = config
        V, D, S = config.vocab_size, config.dim, config.tokenizer_state
        self.embedding = nn.Embedding(V, D)
        self.conv = CausalConv(D, config.d_conv)
        self.tokenizer_state = nn.Linear(D, S)
        self.boost = nn.Linear(2 * S, 1)
        self.quick = nn.Linear(D, V)
        self.depth = nn.Linear(D, 1)
        self.importance = nn.Embedding(V, 1)
        nn.init.zeros_(self.importance.weight)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.RMSNorm(D, eps=config.norm_eps)
        self.head = nn.Linear(D, V)

    def empty_state(self) -> dict[Any, Any]:
        """A state before the first token, which `forward` fills and replaces."""
        return {}

    def forward(self, tokens: Tensor, state: dict[Any, Any] | None = None) -> Tensor:
        """Logits (B, T, V); with a state, of tokens that follow those in the state, which is advanced in place."""
        h = self._tokenize(tokens.T, state)
        keep = None
        if self.config.threshold > 0:
            with torch.no_grad():
                keep = self._is_kept(self._guess(h))
        return self.logits(self._hidden(tokens.T, h, keep, state))

    def hidden_aside(
        self, tokens: Tensor, targets: Tensor, *, is_fused: bool
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The head's input (B, T, D), the quick head's weighted loss, and how many bytes were kept.

        The last two are sums over targets of 0 and above.
        """
        h = self._tokenize(tokens.T, None)
        if is_fused:
            loss, doubt = fused_cross_entropy(self._sized(h.detach()), self.quick.weight, self.quick.bias, targets.T)
            keep = doubt > self.config.threshold
        else:
            guesses = self._guess(h.detach())  # (T, B, V)
            keep, loss = self._is_kept(guesses.detach()), cross_entropy(guesses, targets.T)
        kept = (keep & (targets.T >= 0)).sum()
        hidden = self._hidden(tokens.T, h, keep if self.config.threshold > 0 else None, None)
        return hidden, QUICK_LOSS_WEIGHT * loss, {"kept_fraction": kept}

    def logits(self, hidden: Tensor) -> Tensor:
        return self.head(hidden)

    def head_parameters(self) -> tuple[Tensor, Tensor]:
        return self.head.weight, self.head.bias

    def _tokenize(self, bytes_: Tensor, state: dict[Any, Any] | None) -> Tensor:
        """The input of the router and the blocks for each byte, (T, B, D)."""
        embedded = self.embedding(bytes_)
        T, B, D = embedded.shape
        h, tail = self.conv(_padded(embedded.flatten(0, 1), B, T, None), _get(state, "conv"), None)
        s = self.tokenizer_state(h)  # (T, B, S)
        last = _get(state, "tokenizer")
        previous = torch.cat([torch.zeros_like(s[:1]) if last is None else last, s[:-1]])
        if state is not None:
            state["conv"], state["tokenizer"] = tail, s[-1:]
        return torch.addcmul(h, h, torch.sigmoid(self.boost(torch.cat([s, (s - previous).abs()], dim=-1)).float()))

    def _guess(self, h: Tensor) -> Tensor:
        return self.quick(self._sized(h))

    def _sized(self, h: Tensor) -> Tensor:
        """The quick head's input, normalised: otherwise it would learn far more slowly than the other head."""
        return F.rms_norm(h, h.shape[-1:], None, self.config.norm_eps)

    def _is_kept(self, guesses: Tensor) -> Tensor:
        guesses = guesses.float()
        return -torch.expm1(guesses.amax(-1) - guesses.logsumexp(-1)) > self.config.threshold  # (T, B)

    def _hidden(self, bytes_: Tensor, h: Tensor, keep: Tensor | None, state: dict[Any, Any] | None) -> Tensor:
        """The head's input, (B, T, D); keep: (T, B), or None if routing is off."""
        T, B, D = h.shape
        if keep is None:
            h = self._deepen(h.flatten(0, 1), bytes_.flatten(), B, T, None, state)
        else:
            h = self._deepen_kept(h.flatten(0, 1), bytes_.flatten(), keep, state)
        return self.norm(h.view(T, B, D).transpose(0, 1))

    @torch._disable_dynamo  # it would compile again for each number of kept bytes
    def _deepen_kept(self, h: Tensor, bytes_: Tensor, keep: Tensor, state: Any) -> Tensor:
        """All bytes, the kept ones deepened; h: (T * B, D), bytes_: (T * B,)."""
        T, B = keep.shape
        index = keep.flatten().nonzero().squeeze(1)
        if len(index) == len(h):
            return self._deepen(h, bytes_, B, T, None, state)
        if not len(index):
            return h
        route = Route.of(keep, index)
        return h.index_copy(0, index, self._deepen(h[index], bytes_[index], B, route.length, route, state))

    def _deepen(self, h: Tensor, bytes_: Tensor, B: int, K: int, route: Route | None, state: Any) -> Tensor:
        """The blocks, on kept bytes alone; h: (M, D), bytes_: (M,)."""
        blocks = self.layers[: self.config.depth]
        depth = self.config.depth * torch.sigmoid((self.depth(h) + self.importance(bytes_)).float())  # (M, 1)
        gates = torch.sigmoid(GATE_SHARPNESS * (depth - torch.arange(len(blocks), device=h.device)))
        for i, (layer, gate) in enumerate(zip(blocks, gates.split(1, dim=1), strict=True)):
            h, carried = layer(h, gate, B, K, route, _get(state, i))
            if state is not None:
                state[i] = carried
        return h


@dataclass(frozen=True)
class Route:
    """Where kept bytes go in the shorter sequences that they form."""

    slots: Tensor  # (M,): position among the K * B of the shorter sequences
    counts: Tensor  # (B,): kept bytes of each row
    length: int  # K

    @classmethod
    def of(cls, keep: Tensor, index: Tensor) -> Route:
        """keep: (T, B), index: the M positions among T * B where it holds, ascending."""
        B = keep.shape[1]
        ranks = keep.cumsum(0)
        slots = (ranks.flatten()[index] - 1) * B + index % B
        return cls(slots=slots, counts=ranks[-1], length=int(ranks[-1].max()))


class Layer(nn.Module):
    def __init__(self, config: GhostConfig) -> None:
        super().__init__()
        D = config.dim
        self.mamba_norm = nn.RMSNorm(D, eps=config.norm_eps)
        self.mamba = Mamba(config)
        self.ffn_norm = nn.RMSNorm(D, eps=config.norm_eps)
        self.ffn = nn.Sequential(nn.Linear(D, config.ffn_ratio * D), nn.GELU(), nn.Linear(config.ffn_ratio * D, D))

    def forward(
        self, h: Tensor, gate: Tensor, B: int, K: int, route: Route | None, carried: Any
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:  # h: (M, D), gate: (M, 1)
        mixed, carried = self.mamba(self.mamba_norm(h), B, K, route, carried)
        h = torch.addcmul(h, gate, mixed.float())
        return torch.addcmul(h, gate, self.ffn(self.ffn_norm(h)).float()), carried


class Mamba(nn.Module):
    def __init__(self, config: GhostConfig) -> None:
        super().__init__()
        D, E, N, R = config.dim, config.expand * config.dim, config.d_state, config.dt_rank
        self.input = nn.Linear(D, E, bias=False)
        self.gate = nn.Linear(D, E, bias=False)
        self.conv = CausalConv(E, config.d_conv)
        self.select = nn.Linear(E, R + 2 * N, bias=False)  # the step's low rank, what is written, what is read
        self.step = nn.Linear(R, E)
        self.scan = Scan(E, N)
        self.output = nn.Linear(E, D, bias=False)
        self.splits = [R, N, N]
        steps = torch.exp(torch.empty(E).uniform_(math.log(MIN_STEP), math.log(MAX_STEP)))
        with torch.no_grad():
            self.step.weight.uniform_(-(R**-0.5), R**-0.5)
            self.step.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus of it is the step

    def forward(
        self, u: Tensor, B: int, K: int, route: Route | None, carried: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """u: (M, D), carried: the last inputs of the convolution and the state (B, N, E)."""
        tail, initial = (None, None) if carried is None else carried
        x, tail = self.conv(_padded(self.input(u), B, K, route), tail, route)  # (K, B, E)
        low_rank, write, read = self.select(x).split(self.splits, dim=-1)
        y, last = self.scan(self.step(low_rank), x, write, read, initial, None if route is None else route.counts)
        y = y.flatten(0, 1)
        if route is not None:
            y = y.index_select(0, route.slots)
        return self.output(F.silu(self.gate(u)) * y), (tail, last)


class CausalConv(nn.Module):
    """silu(depthwise convolution) over each position and the three before it."""

    undecayed = ("weight",)

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        bound = size**-0.5
        self.weight = nn.Parameter(torch.empty(size, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    def forward(self, padded: Tensor, tail: Tensor | None, route: Route | None) -> tuple[Tensor, Tensor]:
        """(K, B, W) in fp32, and the last three inputs of each row; padded: (3 + K, B, W), its first rows empty."""
        past = len(self.weight) - 1
        if tail is not None:
            padded[:past] = tail
        if route is None:
            last = padded.detach()[-past:]
        else:
            ends = route.counts + torch.arange(past, device=padded.device)[:, None]  # (3, B)
            last = padded.detach().gather(0, ends[..., None].expand(-1, -1, padded.shape[-1]))
        return _ConvSilu.apply(padded.float(), self.weight, self.bias), last


class Scan(nn.Module):
    """s_t = exp(step_t A) s_{t-1} + step_t write_t x_t;   y_t = read_t . s_t + skip * x_t;   A = -exp(a_log)."""

    undecayed = ("a_log",)

    def __init__(self, width: int, num_states: int) -> None:
        super().__init__()
        states = torch.arange(1, num_states + 1, dtype=torch.float32)
        self.a_log = nn.Parameter(states.log()[:, None].repeat(1, width))  # (N, E)
        self.skip = nn.Parameter(torch.ones(width))

    def forward(
        self, raw_step: Tensor, x: Tensor, write: Tensor, read: Tensor, initial: Tensor | None, counts: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """y (K, B, E) and each row's last state (B, N, E); raw_step: (K, B, E), before its softplus.

        A row does not change after its last kept byte. A carried state gets no gradient.
        """
        # fp32 even under autocast: a decay near 1 rounds to 1 in bf16, and memory would never fade.
        with torch.autocast(x.device.type, enabled=False):
            if counts is not None:
                is_padding = torch.arange(len(x), device=x.device)[:, None] >= counts
                raw_step = raw_step.masked_fill(is_padding[..., None], -torch.inf)  # a step of 0
            return _scan(raw_step.float(), x, write.float(), read.float(), self.a_log, self.skip, initial)


def _padded(x: Tensor, B: int, K: int, route: Route | None) -> Tensor:
    """(3 + K, B, W): the rows' sequences behind three empty moments; x: (M, W)."""
    past = GhostConfig.d_conv - 1
    padded = x.new_zeros((past + K) * B, x.shape[-1])
    if route is None:
        padded[past * B :] = x
    else:
        padded.index_copy_(0, route.slots + past * B, x)
    return padded.view(past + K, B, -1)


def _get(state: dict[Any, Any] | None, key: Any) -> Any:
    return None if state is None else state.get(key)


class _ConvSilu(torch.autograd.Function):
    """Keeps only its input; autograd's own version would keep, or compute again, a tensor for each tap."""

    @staticmethod
    def forward(ctx: Any, padded: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(padded, weight, bias)
        return F.silu(_taps(padded, weight, bias), inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        padded, weight, bias = ctx.saved_tensors
        d_sum = torch.ops.aten.silu_backward(d_y, _taps(padded, weight, bias))
        d_padded, d_weight, K = torch.zeros_like(padded), torch.empty_like(weight), len(d_y)
        for k, tap in enumerate(weight):
            d_padded[k : k + K].addcmul_(d_sum, tap)
            d_weight[k] = (d_sum * padded[k : k + K]).sum((0, 1))
        return d_padded, d_weight, d_sum.sum((0, 1))


def _taps(padded: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    K = len(padded) - len(weight) + 1
    total = torch.addcmul(bias, padded[:K], weight[0])
    for k in range(1, len(weight)):
        total.addcmul_(padded[k : k + K], weight[k])
    return total


class _Scan(torch.autograd.Function):
    """Moment by moment: exact for every decay, where a quotient of cumulative products overflows (A reaches -16).

    The states (K, B, N, E) never exist at once. Forward keeps one of each SEGMENT; backward makes a segment's again
    and runs the adjoint g_t = decay_{t+1} g_{t+1} + read_t dy_t through it.
    """

    @staticmethod
    def forward(
        ctx: Any, raw_step: Tensor, x: Tensor, write: Tensor, read: Tensor, a_log: Tensor, skip: Tensor, initial: Any
    ) -> tuple[Tensor, Tensor]:
        K, B, E = x.shape
        N = len(a_log)
        A = -a_log.exp()
        step = F.softplus(raw_step)
        written = step * x
        y = x * skip
        starts = x.new_empty(-(-K // SEGMENT), B, N, E)
        state = x.new_zeros(B, N, E) if initial is None else initial.clone()
        length = _block_length(x, N)
        decays, states = x.new_empty(2, min(length, K), B, N, E)
        for first in range(0, K, length):
            if first % SEGMENT == 0:
                starts[first // SEGMENT] = state
            block = slice(first, first + length)
            n = len(step[block])
            _run(step[block], written[block], write[block], A, state, decays[:n], states[:n])
            state.copy_(states[n - 1])
            y[block].view(n * B, 1, E).baddbmm_(_matrices(read[block], 1, N), states[:n].view(n * B, N, E))
        ctx.save_for_backward(raw_step, x, write, read, a_log, skip, starts)
        ctx.mark_non_differentiable(state)
        return y, state

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        raw_step, x, write, read, a_log, skip, starts = ctx.saved_tensors
        K, B, E = x.shape
        N = len(a_log)
        A = -a_log.exp()
        step = F.softplus(raw_step)
        written = step * x
        d_y = d_y.contiguous()
        d_step, d_written = torch.empty_like(x), torch.empty_like(x)
        d_write, d_read = torch.empty_like(write), torch.empty_like(read)
        d_A = torch.zeros_like(A)
        length = _block_length(x, N)
        decays, adjoints = x.new_empty(2, min(SEGMENT, K), B, N, E)
        states = x.new_empty(min(SEGMENT, K) + 1, B, N, E)  # the first is that before the segment
        carry = x.new_zeros(B, N, E)
        for segment in reversed(range(len(starts))):
            states[0] = starts[segment]
            base = segment * SEGMENT
            firsts = range(0, min(SEGMENT, K - base), length)
            spans = [(first, min(first + length, SEGMENT, K - base)) for first in firsts]
            for i, j in spans:
                t = slice(base + i, base + j)
                _run(step[t], written[t], write[t], A, states[i], decays[i:j], states[i + 1 : j + 1])
            for i, j in reversed(spans):
                t, n = slice(base + i, base + j), j - i
                g, decay = adjoints[i:j], decays[i:j]
                torch.mul(read[t].unsqueeze(3), d_y[t].unsqueeze(2), out=g)
                for k in reversed(range(n)):
                    g[k] += carry
                    torch.mul(g[k], decay[k], out=carry)
                matrices = g.view(n * B, N, E)
                # A row times a transpose: a matrix times a column takes eight times as long on a CPU.
                transposed = states[i + 1 : j + 1].view(n * B, N, E).transpose(1, 2)
                d_read[t] = (_matrices(d_y[t], 1, E) @ transposed).view(n, B, N)
                d_write[t] = (_matrices(written[t], 1, E) @ matrices.transpose(1, 2)).view(n, B, N)
                d_written[t] = (_matrices(write[t], 1, N) @ matrices).view(n, B, E)
                decay.mul_(g).mul_(states[i:j])  # the gradient of step * A
                d_step[t] = torch.mul(decay, A, out=g).sum(2)
                d_A += torch.mul(decay, step[t].unsqueeze(2), out=g).sum((0, 1))
        d_x = torch.addcmul(d_y * skip, d_written, step)
        d_step.addcmul_(d_written, x).mul_(torch.sigmoid(raw_step))
        return d_step, d_x, d_write, d_read, d_A.mul_(A), (d_y * x).sum((0, 1)), None


@torch._disable_dynamo  # it would unroll the loop; torch.compiler.disable takes two seconds to import
def _scan(*arguments: Any) -> tuple[Tensor, Tensor]:
    return _Scan.apply(*arguments)


def _run(
    step: Tensor, written: Tensor, write: Tensor, A: Tensor, state: Tensor, decays: Tensor, states: Tensor
) -> None:
    """Fill decays and states, (n, B, N, E), from the state before them; step, written: (n, B, E), write: (n, B, N)."""
    torch.mul(step.unsqueeze(2), A, out=decays).exp_()
    torch.mul(write.unsqueeze(3), written.unsqueeze(2), out=states)
    for decay, current in zip(decays, states, strict=True):
        state = current.addcmul_(decay, state)


def _matrices(x: Tensor, rows: int, columns: int) -> Tensor:
    return x.reshape(-1, rows, columns)


def _block_length(x: Tensor, num_states: int) -> int:
    """How many moments to work on at a time: a power of two, so that blocks fill a segment."""
    if x.device.type != "cpu":
        return SEGMENT
    moments = CPU_BLOCK_NUMBERS // max(1, num_states * x[0].numel())
    return min(SEGMENT, 1 << max(0, moments.bit_length() - 1))
