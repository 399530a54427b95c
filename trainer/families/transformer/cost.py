"""What training a transformer costs (see model.py)."""

from __future__ import annotations

from trainer.families.family import Run
from trainer.families.shared.memory import FP32, LASTING_BYTES_PER_PARAM, fused_loss_bytes, plain_loss_bytes
from trainer.families.transformer.config import TransformerConfig


def num_params(m: TransformerConfig) -> int:
    D, L = m.d_model, m.n_layers
    if m.arch == "llama":
        return m.vocab_size * D + L * (_matrices(m) + 3 * D) + D
    return m.vocab_size * D + m.context_length * D + L * (_matrices(m) + 6 * D + m.ffn_width) + 2 * D


def _matrices(m: TransformerConfig) -> int:
    """The weights of one block's matrix products."""
    D, G_K = m.d_model, m.kv_heads * m.head_width
    return 2 * D * D + 2 * D * G_K + (3 if m.arch == "llama" else 2) * D * m.ffn_width


def forward_flops(config: Run) -> float:
    """For one token, forward; attention as the full square, because its time grows that way."""
    m: TransformerConfig = config.model
    return 2 * m.vocab_size * m.d_model + m.n_layers * (2 * _matrices(m) + 2 * 2 * config.seq_len * m.d_model)


def live_bytes(config: Run) -> int:
    """The largest of the step's widest moments: the loss, each block's backward, the embedding's, the optimizer.

    A block's backward still holds what the blocks before it saved, and already the gradients of those after it.
    """
    m: TransformerConfig = config.model
    V, D, L, H, F = m.vocab_size, m.d_model, m.n_layers, m.n_heads, m.ffn_width
    G_K = m.kv_heads * m.head_width
    is_llama = m.arch == "llama"
    N = config.batch_size * config.seq_len
    P = num_params(m)
    half = config.precision != "fp32"
    low = 2 if half else FP32  # bytes of a matrix product's operand

    # Saved for backward: bytes of one position. A norm keeps its input and its statistics, a dropout one byte for
    # each element, attention q, k, v, what the heads say and their softmax sums.
    norm = FP32 * (D + (1 if is_llama else 2))
    heads = low * (D + 2 * G_K + D) + FP32 * H
    if is_llama and G_K < D and not half:
        heads += low * (2 * D - G_K)  # keys and values written out for every query head
    ffn = low * F * (4 if is_llama else 2)
    masks = 2 * D * (m.dropout_rate("resid") > 0) + F * (m.dropout_rate() > 0)
    block = 2 * (norm + low * D) + heads + ffn + masks
    before = 2 * 8 + D * (m.dropout_rate("emb") > 0)  # tokens and targets

    lasting = LASTING_BYTES_PER_PARAM * P
    gradient, waiting = FP32, 0  # a parameter's, once backward has passed it
    if config.accumulate_grad_batches > 1:
        # All are there from the first micro-batch on, and the head's new one waits for that of the embedding.
        lasting, gradient, waiting = lasting + FP32 * P, 0, FP32 * V * D
    if is_llama:
        lasting += 2 * FP32 * m.context_length * (m.head_width // 2)  # the rotary table
    casts = low * (V * D + L * _matrices(m)) if half else 0
    passing_by = gradient - (low if half else 0)  # what a passed parameter adds: its gradient, less its cast

    base = lasting + casts
    held = base + N * (before + L * block + norm)
    if config.fused_loss:
        moments = [held + fused_loss_bytes(N, V, D, low, V * D)]
    else:
        held += N * low * D  # the head's input
        moments = [held + plain_loss_bytes(N, V)]
        moments.append(held + waiting + N * FP32 * (V + D) + passing_by * V * D)
    base += waiting
    # A block's backward at its widest: the residual's gradient and two of the feed-forward width.
    passing = FP32 * D + low * F * (3 if is_llama else 2) - low * F
    for i in reversed(range(L)):
        passed = V * D + (L - 1 - i) * _matrices(m)
        moments.append(base + N * (before + (i + 1) * block + passing) + passing_by * passed)
    # The embedding's own gradient meets the head's, and their sum is a third.
    moments.append(lasting + waiting + N * (before + 2 * FP32 * D) + gradient * P + 2 * FP32 * V * D)
    return max(moments)
