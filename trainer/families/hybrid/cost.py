"""What training a hybrid costs (see model.py)."""

from __future__ import annotations

from trainer.families.family import Run
from trainer.families.hybrid.config import HybridConfig
from trainer.families.shared.memory import FP32, LASTING_BYTES_PER_PARAM, fused_loss_bytes, plain_loss_bytes

# For each state and position: two prefix sums, a difference, an exponential, a quotient, a product and a lerp.
SCAN_FLOPS = 9


def num_params(m: HybridConfig) -> int:
    V, D = m.vocab_size, m.d_model
    return 2 * V * D + V + 2 * D + (m.n_layers - 1) * (_state_space_params(m) + 2 * D) + 4 * D * D + 2 * D


def _state_space_params(m: HybridConfig) -> int:
    return 4 * m.d_model * m.d_state + 2 * m.d_state


def forward_flops(config: Run) -> float:
    """For one token, forward; attention as the full square, because its time grows that way."""
    m: HybridConfig = config.model
    V, D, S = m.vocab_size, m.d_model, m.d_state
    attention = 2 * 4 * D * D + 2 * 2 * config.seq_len * D
    return 2 * V * D + (m.n_layers - 1) * (2 * 4 * D * S + SCAN_FLOPS * S) + attention


def live_bytes(config: Run) -> int:
    """The largest of the step's widest moments: the loss, each block's backward, the embedding's, the optimizer.

    A block's backward still holds what the blocks before it saved, and already the gradients of those after it.
    """
    m: HybridConfig = config.model
    V, D, S, H = m.vocab_size, m.d_model, m.d_state, m.n_heads
    N = config.batch_size * config.seq_len
    P = num_params(m)
    half = config.precision != "fp32"
    low = 2 if half else FP32  # bytes of a matrix product's operand

    # Saved for backward: bytes of one position. The norm keeps its input and two statistics. Under autocast each
    # product keeps a cast of its own input, so the two that read one norm keep two.
    norm = FP32 * (D + 2)
    mixed = 2 * low * D if half else FP32 * D
    state_space = norm + mixed + 6 * FP32 * S + low * S  # both gates, log decay, input, u, states; h for Wout
    heads = low * (3 * D + 2 * D + D) + FP32 * H  # q, k, v; q and k rotated; what the heads say, and their softmax sums
    joined = low * D if H > 1 else 0  # the same with the heads side by side, a copy
    attention = norm + low * D + heads + joined
    saved = [attention if i == m.attn_layer_idx else state_space for i in range(m.n_layers)]
    before = norm + 2 * 8  # the embedding's norm; tokens and targets
    after = low * D  # the head's input

    lasting = LASTING_BYTES_PER_PARAM * P
    gradient = FP32  # a parameter's, once backward has passed it
    if config.accumulate_grad_batches > 1:
        lasting, gradient = lasting + FP32 * P, 0  # all are there from the first micro-batch on
    lasting += 2 * FP32 * m.max_seq * (D // H // 2)  # the rotary tables
    casts = low * (V * D + V + 4 * D * D + (m.n_layers - 1) * _state_space_params(m)) if half else 0
    passing_by = gradient - (low if half else 0)  # what a passed parameter adds: its gradient, less its cast

    base = lasting + casts
    passed = V * D + V
    held = base + N * (before + sum(saved))
    if config.fused_loss:
        moments = [held + fused_loss_bytes(N, V, D, low, passed)]
    else:
        moments = [held + N * after + plain_loss_bytes(N, V)]
        moments.append(held + N * (after + FP32 * (V + D)) + passing_by * passed)
    for i in reversed(range(m.n_layers)):
        is_attention = i == m.attn_layer_idx
        # The residual's gradient, and at attention those of q, k, v and the heads, else four tensors of states, or,
        # with these gone, the two gradients of the block's input.
        if is_attention:
            passing = FP32 * D + low * 4 * D - joined
        else:
            passing = FP32 * D + max(44 * S - 6 * FP32 * S - low * S, 2 * FP32 * D - 6 * FP32 * S - low * S)
        passed += D * D if is_attention else D * S
        moments.append(base + N * (before + sum(saved[: i + 1]) + passing) + passing_by * passed)
        passed += (3 * D * D if is_attention else _state_space_params(m) - D * S) + 2 * D
    moments.append(lasting + N * (before + 2 * FP32 * D) + gradient * P)
    return max(moments)
