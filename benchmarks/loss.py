"""What the fused loss costs and saves beside the plain one: time of a step's two passes, and live bytes of a step.

    python -m benchmarks.loss [--rounds 5]

Both run in turns on the CPU with one thread; a time is the processor's, the least of all rounds.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from torch import nn

from benchmarks.live_bytes import peak_live_bytes
from trainer.config import TrainConfig
from trainer.families.registry import build
from trainer.loop import AUTOCAST_DTYPES
from trainer.loss import loss_sums

TRANSFORMER = {"vocab_size": 8192, "d_model": 256, "n_layers": 2, "n_heads": 4, "dropout": 0.0, "seq_len": 128}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("transformer", {**TRANSFORMER, "batch_size": 8}),
    ("transformer", {**TRANSFORMER, "batch_size": 8, "precision": "bf16"}),
    ("hybrid", {"vocab_size": 2048, "d_model": 64, "seq_len": 64, "batch_size": 64}),
    ("hybrid", {"d_model": 64, "seq_len": 64, "batch_size": 64}),
    ("ghost", {"dim": 64, "layers": 2, "seq_len": 64, "batch_size": 16}),
    ("bdh", {"n_embd": 64, "mlp_internal_dim_multiplier": 16, "n_layer": 2, "seq_len": 64, "batch_size": 16}),
]


def pass_seconds(model: nn.Module, tokens: torch.Tensor, config: TrainConfig) -> float:
    """Forward and backward once, in seconds of the processor."""
    dtype = AUTOCAST_DTYPES.get(config.precision)
    started = time.process_time()
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        cross_entropy, addition, _ = loss_sums(model, tokens, tokens, is_fused=config.fused_loss)
        loss = (cross_entropy + addition) / tokens.numel()
    loss.backward()
    model.zero_grad(set_to_none=True)
    return time.process_time() - started


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loss", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args(arguments).rounds
    torch.set_num_threads(1)
    print(f"{'family':12}{'V':>6}{'':>6}{'plain':>10}{'fused':>10}{'ratio':>7}{'plain':>12}{'fused':>12}")
    for family, values in CASES:
        flat = {"rungs": [1], "device": "cpu", **values}
        configs = [TrainConfig.from_flat(family, {**flat, "fused_loss": is_fused}) for is_fused in (False, True)]
        torch.manual_seed(0)
        model = build(configs[0])
        vocab_size = configs[0].model.vocab_size
        tokens = torch.randint(vocab_size, (configs[0].batch_size, configs[0].seq_len))
        for config in configs:
            pass_seconds(model, tokens, config)  # warm-up
        times = [[pass_seconds(model, tokens, config) for config in configs] for _ in range(rounds)]
        plain, fused = (1e3 * min(column) for column in zip(*times, strict=True))
        mib = [peak_live_bytes(config, is_fake=False) / 2**20 for config in configs]
        line = f"{family:12}{vocab_size:6}{configs[0].precision:>6}{plain:7.0f} ms{fused:7.0f} ms{fused / plain:7.2f}"
        print(f"{line}{mib[0]:8.0f} MiB{mib[1]:8.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
