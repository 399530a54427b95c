"""What every family's memory formula counts with."""

FP32 = 4  # bytes
# Weights and AdamW's two moments; gradients come and go with the step.
LASTING_BYTES_PER_PARAM = 3 * FP32
