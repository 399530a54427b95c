"""Trials that share a device, beside one that has it to itself: all their tokens a second, as a ratio.

    python -m benchmarks.packing [--packed 2] [--rounds 3] [--seconds 5] [--presets hybrid/tiny,...] [--json]

Each preset is trained by the shared trainer in processes of its own: alone on the device, then by `--packed` processes
at once, in turns (A B A B), so that a noisy machine is noisy for both. On a GPU each of those may take its share of the
memory, as a trial of `--trials-per-gpu` may; on a processor the cores are divided, so alone means a thread for each
core. What is measured begins when all processes are warm, and has the same length for both.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

PRESETS = "hybrid/tiny,hybrid/balanced,robo/nano,ghost/resource-constrained"
WARM_SECONDS = 3.0
MANY_TOKENS = 10**12


def train(config: dict[str, Any], share: float, seconds: float, gate: Any, speeds: Any) -> None:
    """Train in this process; reports the tokens per second between two moments that all processes share."""
    import torch

    from trainer.config import TrainConfig
    from trainer.loop import TrainingRun

    if torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)
    run = TrainingRun(TrainConfig.from_dict(config))
    run.advance(MANY_TOKENS, max_seconds=WARM_SECONDS)
    gate.wait()
    before, began = run.tokens, time.perf_counter()
    run.advance(MANY_TOKENS, max_seconds=seconds)
    speeds.put((run.tokens - before) / (time.perf_counter() - began))


def tokens_per_second(config: dict[str, Any], num_processes: int, num_threads: int, seconds: float) -> float:
    """Of all processes together."""
    context = multiprocessing.get_context("spawn")
    gate, speeds = context.Barrier(num_processes), context.Queue()
    arguments = ({**config, "num_threads": num_threads}, 1 / num_processes, seconds, gate, speeds)
    processes = [context.Process(target=train, args=arguments) for _ in range(num_processes)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a process has failed; what it said stands above")
    return sum(speeds.get() for _ in processes)


def measure(presets: list[str], packed: int, rounds: int, seconds: float) -> list[dict[str, Any]]:
    from search.cli.preset import preset_config
    from search.driver.hardware import num_cores

    cores, found = num_cores(), []
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "text.txt"
        text.write_text("\n".join(f"{i * i % 997} and {i % 13} make {i}" for i in range(60_000)))
        for preset in presets:
            config = dataclasses.replace(preset_config(preset, data=(text,)), rungs=(MANY_TOKENS,)).to_dict()
            alone, together = [], []
            for _ in range(rounds):
                alone.append(tokens_per_second(config, 1, cores, seconds))
                together.append(tokens_per_second(config, packed, max(1, cores // packed), seconds))
            ratios = [b / a for a, b in zip(alone, together, strict=True)]
            found.append(
                {
                    "preset": preset,
                    "alone": statistics.median(alone),
                    "packed": statistics.median(together),
                    "ratio": statistics.median(ratios),
                    "ratios": sorted(ratios),
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.packing", description=__doc__.splitlines()[0])
    parser.add_argument("--packed", type=int, default=2, help="trials at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--presets", default=PRESETS)
    parser.add_argument("--json", action="store_true", help="print one JSON array and nothing else")
    options = parser.parse_args()
    found = measure(options.presets.split(","), options.packed, options.rounds, options.seconds)
    if options.json:
        print(json.dumps(found))
        return
    print(f"{'':>20} {'alone':>10} {options.packed:>5} at once   ratio")
    for row in found:
        low, high = row["ratios"][0], row["ratios"][-1]
        ratio = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        print(f"{row['preset']:>20} {row['alone']:>10,.0f} {row['packed']:>13,.0f}   {ratio}")
    print(f"geometric mean {math.prod(row['ratio'] for row in found) ** (1 / len(found)):.2f}")


if __name__ == "__main__":
    main()
