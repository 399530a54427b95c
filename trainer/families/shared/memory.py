"""Constants of every family's memory formula, and the memory of the loss, which is the same for all."""

FP32 = 4  # bytes
# Weights and AdamW's two moments; gradients come and go with the step.
LASTING_BYTES_PER_PARAM = 3 * FP32

CHUNK_LOGITS = 2**22  # as in trainer/loss.py, which cannot be imported without torch


def plain_loss_bytes(N: int, V: int) -> int:
    """For N positions over V tokens at the loss's widest moment: log-softmax, its gradient and the logits'."""
    return N * 3 * FP32 * V


def fused_loss_bytes(N: int, V: int, D: int, low: int, num_head_params: int) -> int:
    """The same, and the head's input, if the loss is fused with the head; `low` bytes hold a product's operand.

    The head's input and its gradient, the gradient of the head's weights, and the widest moment of a part: its logits
    while their type changes, and its share of either, or what it adds to the head's gradient.
    """
    n = min(N, max(1, CHUNK_LOGITS // V))
    if low == FP32:
        part = n * FP32 * (V + D)
    else:
        part = n * low * D + max(n * (FP32 + low) * V, n * low * V + low * V * D)
    return N * (FP32 + low) * D + FP32 * num_head_params + part
