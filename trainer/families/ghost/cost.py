"""What training a ghost costs if it keeps every byte (see model.py).

How many bytes it skips is known only after training: these are upper bounds for every threshold.
"""

from __future__ import annotations

from trainer.families.family import Run
from trainer.families.ghost.config import GhostConfig
from trainer.families.shared.memory import FP32, LASTING_BYTES_PER_PARAM, fused_loss_bytes, plain_loss_bytes

SEGMENT = 32  # as in the model: positions between the states that it keeps
# For each state: step times A, its exponential, what is written, and a product and a sum each to update and to read.
SCAN_FLOPS = 7


def num_params(m: GhostConfig) -> int:
    V, D, S = m.vocab_size, m.dim, m.tokenizer_state
    tokenizer = V * D + (m.d_conv + 1) * D + (D + 1) * S + 2 * S + 1
    return tokenizer + (D + 1 + V) + 2 * (D + 1) * V + m.layers * _layer_params(m) + D


def _layer_params(m: GhostConfig) -> int:
    return _mamba_params(m) + 2 * m.ffn_ratio * m.dim**2 + (m.ffn_ratio + 1) * m.dim + 2 * m.dim


def _mamba_params(m: GhostConfig) -> int:
    D, E, N, R = m.dim, m.expand * m.dim, m.d_state, m.dt_rank
    return 2 * D * E + (m.d_conv + 1) * E + E * (R + 2 * N) + (R + 1) * E + N * E + E + E * D


def forward_flops(config: Run) -> float:
    """For one token, forward, through every layer that max_depth allows."""
    m: GhostConfig = config.model
    V, D, S, R = m.vocab_size, m.dim, m.tokenizer_state, m.dt_rank
    E, N = m.expand * D, m.d_state
    products = 3 * D * E + E * (R + 2 * N) + R * E + 2 * m.ffn_ratio * D * D
    return 2 * (S * D + 2 * S + 2 * V * D + D) + m.depth * (2 * products + SCAN_FLOPS * N * E)


def live_bytes(config: Run) -> int:
    """The largest of the step's widest moments: the loss, each layer's two halves backwards, the optimizer."""
    m: GhostConfig = config.model
    V, D, S = m.vocab_size, m.dim, m.tokenizer_state
    E, F, R, N = m.expand * D, m.ffn_ratio * D, m.dt_rank, m.d_state
    B, T = config.batch_size, config.seq_len
    tokens = B * T
    unused = (m.layers - m.depth) * _layer_params(m)  # layers that never run have no gradient, moments or cast
    P = num_params(m) - unused
    half = config.precision != "fp32"
    low = 2 if half else FP32  # bytes of a matrix product's operand
    past = 1 + (m.d_conv - 1) / T  # a convolution's input has that many moments more

    # Saved for backward: bytes of one position. A norm keeps its input and what divided it. Under autocast each
    # product keeps a cast of its own input, so the two that read one norm keep two.
    norm = FP32 * (D + 1)
    starts = FP32 * N * E / T * -(-T // SEGMENT)
    scanned = FP32 * (2 * E + 2 * N) + low * R + starts  # the step, x, what is written and read
    if half:
        scanned += low * (E + 2 * N)  # casts of x, and what the step's rank was split from
    into_scan = norm + (2 * low * D if half else FP32 * D) + FP32 * E * past + scanned
    gated = 2 * low * E + FP32 * E + low * E + FP32 * D  # the gate before and after silu, y; their product; its map
    ffn = norm + low * D + 2 * low * F + FP32 * D
    saved = into_scan + gated + ffn
    tokenizer = 2 * 8 + FP32 * D * past + 2 * FP32 * D + low * 3 * S + FP32 * 2
    head = V * (D + 1)  # parameters of either head

    lasting = LASTING_BYTES_PER_PARAM * P + FP32 * unused
    gradient = FP32  # a parameter's, once backward has passed it
    if config.accumulate_grad_batches > 1:
        lasting, gradient = lasting + FP32 * P, 0  # all are there from the first micro-batch on
    casts = low * (P - V * D) if half else 0
    passing_by = gradient - (low if half else 0)  # what a passed parameter adds: its gradient, less its cast

    base = lasting + casts + tokens * tokenizer
    held = base + tokens * (m.depth * saved + norm)
    if config.fused_loss:
        # The quick head, fused before the layers, has left the gradients of its weights and no cast of them.
        moments = [held + fused_loss_bytes(tokens, V, D, low, head) + (FP32 - (low if half else 0)) * head]
        base += FP32 * head - gradient * head  # gradients that wait to be added to those of other micro-batches
        passed = 2 * head
    else:
        quick = low * D + FP32 * V  # what its head saves stays until backward has passed the layers
        moments = [held + tokens * (quick + low * D) + plain_loss_bytes(tokens, V)]
        base += tokens * quick
        passed = head
    for i in reversed(range(m.depth)):
        held = base + tokens * i * saved
        # The residual's gradient, the branch's, and that of the wide activation.
        passed += F * D
        moments.append(held + tokens * (saved + 2 * FP32 * D + low * F) + passing_by * passed)
        passed += F * D + E * D
        # The gradients of residual, norm and y; in the scan the step, what it writes, and the gradients of these, of
        # x and of x's other use; three segments of states.
        passing = FP32 * (2 * D + E) + FP32 * 6 * E
        buffers = FP32 * (3 * min(SEGMENT, T) + 1) * B * N * E
        moments.append(held + tokens * (into_scan + passing) + buffers + passing_by * passed)
        passed += _layer_params(m) - 2 * F * D - E * D
    moments.append(lasting + gradient * P)
    return round(max(moments))
