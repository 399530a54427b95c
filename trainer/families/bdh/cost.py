"""What training a BDH costs (see model.py)."""

from __future__ import annotations

from trainer.families.bdh.config import BDHConfig
from trainer.families.family import Run
from trainer.families.shared.memory import FP32, LASTING_BYTES_PER_PARAM, fused_loss_bytes, plain_loss_bytes

CHUNK, DENSE_TOKENS = 128, 512  # as in the model, which cannot be imported without torch


def is_chunked(T: int, D: int) -> bool:
    return T > max(DENSE_TOKENS, CHUNK + 2 * D)


def num_params(m: BDHConfig) -> int:
    """Independent of the number of heads, which divide the latent width among them."""
    return 3 * m.mlp_internal_dim_multiplier * m.n_embd**2 + 2 * m.vocab_size * m.n_embd


def forward_flops(config: Run) -> float:
    """For one token, forward: the same matrices in every layer, and attention in the form that the model uses."""
    m: BDHConfig = config.model
    D, latent, T = m.n_embd, m.mlp_internal_dim_multiplier * m.n_embd, config.seq_len
    scores = 2 * min(T, CHUNK if is_chunked(T, D) else T) * (latent + m.n_head * D)
    memory = 2 * 2 * latent * D * (1 - CHUNK / T) if is_chunked(T, D) else 0  # the first chunk has no past
    return 2 * m.vocab_size * D + m.n_layer * (2 * 3 * D * latent + scores + memory)


def live_bytes(config: Run) -> int:
    """The largest of the step's widest moments: the loss, the last layers' backward, the optimizer."""
    m: BDHConfig = config.model
    V, D, L, H = m.vocab_size, m.n_embd, m.n_layer, m.n_head
    B, T = config.batch_size, config.seq_len
    latent = m.mlp_internal_dim_multiplier * D  # of all heads
    N = B * T
    P = num_params(m)
    half = config.precision != "fp32"
    low = 2 if half else FP32  # bytes of a matrix product's operand

    # Saved for backward: bytes of one position. The latents xs and ys; by head what attention says, the input of a
    # norm, and that norm's output; x as a product reads it; the inputs of the two other norms.
    norm = FP32 * (D + 2)
    layer = 2 * low * latent + H * (norm + low * D) + low * D + 2 * norm
    before = 2 * 8 + norm  # tokens and targets; the embedding's norm

    lasting = LASTING_BYTES_PER_PARAM * P + (FP32 * P if config.accumulate_grad_batches > 1 else 0)
    table = 2 * FP32 * T * (latent // H // 2)  # rotary
    base = lasting + table
    base += 2 * (3 * latent * D + V * D) if half else 0  # casts of the weights
    held = base + N * (before + L * layer)
    if config.fused_loss:
        moments = [held + fused_loss_bytes(N, V, D, low, V * D)]
    else:
        moments = [held + N * low * D + plain_loss_bytes(N, V)]  # and the head's input
    # From here on the head has its gradient, unless it had one before, and no cast any more.
    base += ((FP32 if config.accumulate_grad_batches == 1 else 0) - (2 if half else 0)) * V * D

    # The gate's backward: two gradients of latents, and which ys are above zero.
    gate = (2 * low + 1) * latent
    # Attention's: three such gradients or rotations, ys and the norms gone; beside them the scores and their gradient,
    # or a part of a chunk and the memory, or the rotation of one head in fp32 and its table turned round.
    attend = (3 - 1) * low * latent - H * (norm + low * D) - 2 * norm
    rotation = (2 * FP32 * latent // H if half else 0) + table // N
    if is_chunked(T, D):
        memory = (2 * FP32 + low) * latent * D // T  # as it was, what is added, as it becomes
        beside = (2 if half else 1) * low * latent * CHUNK // T + memory
    else:
        beside = 2 * low * H * T
    attend += max(rotation, beside)
    gradients = FP32 * D * 3 + low * D * H  # of x, and by head of what attention says

    matrix = low * latent * D  # the gradient of one of the three matrices, summed over the layers that use it
    moments.append(base + N * (before + L * layer + gate + gradients) + matrix)
    moments.append(base + N * (before + L * layer + attend + gradients) + 2 * matrix)
    if L > 1:  # the second to last layer makes gradients that are added to those of the last
        moments.append(base + N * (before + (L - 1) * layer + gate + gradients) + 4 * matrix)
        moments.append(base + N * (before + (L - 1) * layer + attend + gradients) + 3 * matrix)
        moments.append(base + N * (before + (L - 1) * layer + gradients) + 6 * matrix)  # three, two more, a sum
    moments.append(lasting + (FP32 * P if config.accumulate_grad_batches == 1 else 0))
    return max(moments)
