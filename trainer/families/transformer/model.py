"""The transformer family, after the robo guide: blocks of GPT-2 (Radford et al. 2019) or Llama (Touvron et al. 2023).

    x = drop(E[token] + P[position])                 llama: no P, its attention turns q and k by their positions
    every block:  x <- x + drop(attention(norm(x)));   x <- x + drop(ffn(norm(x)))
    logits = E norm(x)                               the head is the embedding

    gpt2    LayerNorm; ffn = W2 drop(gelu(W1 a)), biased
    llama   RMSNorm; grouped keys and values (several query heads share one); ffn = W2 drop(silu(W1 a) * W3 a)

q, k and v have no bias, attention's output has one, in both. Every matrix starts at N(0, 0.02), also those that write
to the residual, which GPT-2's authors start smaller the deeper the model is. A llama has no dropout unless asked for.

B batch, T time, D width, H query heads, G key and value heads, K head width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.families.transformer.config import TransformerConfig

INIT_STD = 0.02


class TransformerLM(nn.Module):
    """tokens (B, T) -> logits (B, T, V)."""

    turns: Tensor  # a buffer, for llama

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        is_llama = config.arch == "llama"
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = None if is_llama else nn.Embedding(config.context_length, config.d_model)
        self.embedding_dropout = nn.Dropout(config.dropout_rate("emb"))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = make_norm(config)
        if is_llama:
            self.register_buffer("turns", rotary_turns(config), persistent=False)  # one table for every block
        self.apply(initialise)

    def empty_state(self) -> list[Any]:
        """A state before the first token: one slot for each block, which `forward` fills and replaces."""
        return [None] * len(self.blocks)

    def forward(self, tokens: Tensor, state: list[Any] | None = None) -> Tensor:
        """Logits (B, T, V); with a state, of tokens that follow those in the state, which is advanced in place.

        Raises ValueError if the tokens, with those already in the state, are more than context_length.
        """
        return self.logits(self.hidden(tokens, state))

    def hidden(self, tokens: Tensor, state: list[Any] | None = None) -> Tensor:
        """The head's input, (B, T, D)."""
        past = 0 if state is None or state[0] is None else state[0][0].shape[2]
        end, limit = past + tokens.shape[1], self.config.context_length
        if end > limit:
            raise ValueError(f"{end} positions are more than context_length {limit}; raise it or cut the text")
        x, turns = self.embedding(tokens), None  # (B, T, D)
        if self.positions is None:
            turns = self.turns[past:end]
        else:
            x = x + self.positions.weight[past:end]
        x = self.embedding_dropout(x)
        for i, block in enumerate(self.blocks):
            x, carried = block(x, turns, None if state is None else state[i])
            if state is not None:
                state[i] = carried
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embedding.weight)

    def head_parameters(self) -> tuple[Tensor, None]:
        return self.embedding.weight, None


class Block(nn.Module):
    """Attention and the feed-forward part, each a pre-norm residual."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm, self.attention = make_norm(config), Attention(config)
        self.ffn_norm, self.ffn = make_norm(config), SwiGLU(config) if config.arch == "llama" else GeluFFN(config)
        self.dropout = nn.Dropout(config.dropout_rate("resid"))

    def forward(self, x: Tensor, turns: Tensor | None, carried: Any) -> tuple[Tensor, Any]:  # x: (B, T, D)
        y, carried = self.attention(self.attention_norm(x), turns, carried)
        x = x + self.dropout(y)
        return x + self.dropout(self.ffn(self.ffn_norm(x))), carried


class Attention(nn.Module):
    """Causal attention of H query heads over G heads of keys and values."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_heads, self.kv_heads = config.n_heads, config.kv_heads
        self.dropout = config.dropout_rate("attn")
        self.qkv = nn.Linear(config.d_model, (self.n_heads + 2 * self.kv_heads) * config.head_width, bias=False)
        self.output = nn.Linear(config.d_model, config.d_model)

    def forward(self, a: Tensor, turns: Tensor | None, carried: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """a: (B, T, D), turns: (T, K/2, 2), carried: keys and values (B, G, P, K) of P past positions."""
        B, T, D = a.shape
        H, G = self.n_heads, self.kv_heads
        heads = self.qkv(a).view(B, T, H + 2 * G, -1).transpose(1, 2)
        if turns is None:
            q, k, v = heads.split([H, G, G], dim=1)  # (B, H or G, T, K)
        else:
            q_k, v = heads.split([H + G, G], dim=1)
            q, k = rotate(q_k, turns).split([H, G], dim=1)
            v = v.contiguous()  # so that q and k before their rotation can be freed
        past = 0
        if carried is not None:
            past = carried[0].shape[2]
            k, v = torch.cat([carried[0], k], dim=2), torch.cat([carried[1], v], dim=2)
        state = k, v
        if G < H and not has_fused_groups(q):
            k, v = k.repeat_interleave(H // G, dim=1), v.repeat_interleave(H // G, dim=1)
        mask = None
        if past and T > 1:  # one new token sees all that came before it
            mask = torch.ones(T, past + T, dtype=torch.bool, device=a.device).tril(past)
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=past == 0,
            enable_gqa=k.shape[1] < H,
        )
        return self.output(y.transpose(1, 2).reshape(B, T, D)), state


class GeluFFN(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.input = nn.Linear(config.d_model, config.ffn_width)
        self.output = nn.Linear(config.ffn_width, config.d_model)
        self.dropout = nn.Dropout(config.dropout_rate())

    def forward(self, a: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        return self.output(self.dropout(F.gelu(self.input(a), approximate="tanh")))


class SwiGLU(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.input = nn.Linear(config.d_model, 2 * config.ffn_width, bias=False)  # W1 and W3: one product for both
        self.output = nn.Linear(config.ffn_width, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout_rate())

    def forward(self, a: Tensor) -> Tensor:  # (B, T, D) -> (B, T, D)
        gate, value = self.input(a).chunk(2, dim=-1)
        return self.output(self.dropout(F.silu(gate) * value))


def make_norm(config: TransformerConfig) -> nn.Module:
    kind = nn.RMSNorm if config.arch == "llama" else nn.LayerNorm
    return kind(config.d_model, eps=config.eps)


def rotary_turns(config: TransformerConfig) -> Tensor:
    """Cosine and sine (context_length, K/2, 2) of position * theta^(-2j/K), the angle of the j-th pair."""
    K = config.head_width
    frequencies = config.rope_theta ** (-torch.arange(0, K, 2, dtype=torch.float32) / K)
    angles = torch.outer(torch.arange(config.context_length, dtype=torch.float32), frequencies)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """x (B, heads, T, K): each pair of neighbouring channels is a complex number, rotated by its position; in fp32."""
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():  # compile has no complex numbers; uncompiled they are several times faster
        (real, imaginary), (cos, sin) = pairs.unbind(-1), turns.unbind(-1)
        turned = torch.stack([real * cos - imaginary * sin, imaginary * cos + real * sin], dim=-1)
    else:
        turned = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(turns))
    return turned.flatten(-2).to(x.dtype)


def has_fused_groups(q: Tensor) -> bool:
    """Whether fused attention lets query heads share keys. On CUDA that needs flash attention, which has no fp32.

    Otherwise PyTorch would materialise the scores of every pair of positions.
    """
    return not q.is_cuda or q.dtype in (torch.float16, torch.bfloat16)


def initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
