"""How far the memory estimates are from what training takes, on configurations drawn at random from every family.

    python -m benchmarks.memory [--configurations 48] [--seed 0] [--device auto] [--limit 2GiB] [--json]

Each configuration is estimated by trainer/estimate.py and then trained for two steps by the trainer itself.
- On a GPU the estimated peak is held against what PyTorch's allocator reserved.
- On a CPU the estimated live bytes, which are the peak less what a CUDA allocator adds, are held against every storage
  of the same step, each followed to its end (see live_bytes.py: some functions get the forms that they have on a GPU).
With --limit, the controller searches each guide's space in fp32 and in bf16 under that peak_vram_bytes, by
made-up losses that fall with memory, so that it comes near the limit. The configurations with the largest estimates
train for two steps: half of them of those that the search launched, half of random ones that it would have launched.
They train on a GPU as above; on a CPU on fake tensors where these can, and what CUDA's allocator adds is taken as
estimated. The last columns are the shares of the limit that they took, and how many took more than it, and more than it
and the margin that search/strategy/correction.py states.

An error is |estimated / measured - 1|.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from benchmarks.live_bytes import peak_live_bytes, random_corpus
from search.space.document import parse_number
from search.space.drawing import random_values
from search.space.loading import load_space
from search.space.narrowing import narrow
from search.space.parameter import Values
from search.space.spec import LimitSpec
from search.strategy.correction import MARGIN
from search.study.settings import StudySettings
from search.study.study import Study
from trainer.config import ConfigError, TrainConfig
from trainer.estimate import ALLOCATOR_SLACK, CUBLAS_WORKSPACE_BYTES, estimate, live_bytes
from trainer.loop import TrainingRun

KINDS = ("hybrid", "ghost", "gpt2", "llama", "bdh")
# Live bytes of what is drawn: seconds a configuration at most, and on a GPU more than its constant costs.
CPU_BYTES, CUDA_BYTES = (4 * 2**20, 192 * 2**20), (256 * 2**20, 8 * 2**30)
MAX_CPU_FLOPS = 4e10  # of one step

SPACES = Path(__file__).resolve().parent.parent / "spaces"
GUIDES = ("hybrid", "ghost", "robo", "bdh")
PRECISIONS = ("fp32", "bf16")  # a search's own, without a GPU and with one
NUM_DRAWN = 1000  # of a guide's space, to find large ones that may be launched


@dataclass(frozen=True)
class Row:
    """One configuration: bytes estimated and measured; the limit that it was launched under, or None."""

    kind: str
    estimated: int
    measured: int
    config: dict[str, Any]
    limit: int | None = None

    @property
    def error(self) -> float:
        return abs(self.estimated / self.measured - 1)


def drawn_configurations(num: int, seed: int, *, device: str) -> Iterator[tuple[str, TrainConfig]]:
    """Kinds in turn, sizes, precision and all that memory depends on at random."""
    rng = np.random.default_rng(seed)
    low, high = CPU_BYTES if device == "cpu" else CUDA_BYTES
    for i in range(num):
        kind = KINDS[i % len(KINDS)]
        while True:
            try:
                config = _drawn(kind, rng, device)
            except ConfigError:  # sizes that do not divide
                continue
            step_flops = estimate(config).flops_per_token * config.tokens_per_step
            if low <= live_bytes(config) <= high and (device != "cpu" or step_flops < MAX_CPU_FLOPS):
                yield kind, config
                break


def _drawn(kind: str, rng: np.random.Generator, device: str) -> TrainConfig:
    def sized(least: float, most: float) -> int:
        return int(round(np.exp(rng.uniform(np.log(least), np.log(most)))))

    def one_of(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    larger = 1 if device == "cpu" else 4
    run = {
        "rungs": [1_000_000],
        "device": device,
        "vocab_size": sized(64, 16_384),
        "seq_len": sized(16, 1024),
        "batch_size": sized(1, 32 * larger),
        "accumulate_grad_batches": int(rng.integers(1, 4)),
        "precision": one_of("fp32", "bf16"),
        "fused_loss": one_of(True, False),
    }
    heads = one_of(1, 2, 4, 8)
    width = 2 * heads * sized(4, 256 * larger / heads)
    if kind == "hybrid":
        layers = int(rng.integers(1, 9))
        model = {"d_model": width, "n_heads": heads, "d_state": sized(4, 128), "n_layers": layers}
        model |= {"attn_layer_idx": int(rng.integers(layers)), "max_seq": run["seq_len"] + int(rng.integers(1024))}
        model |= {"base_decay": float(np.exp(rng.uniform(np.log(0.005), np.log(0.5))))}
    elif kind == "ghost":
        layers = int(rng.integers(1, 7))
        model = {"dim": sized(16, 256 * larger), "layers": layers, "max_depth": int(rng.integers(1, layers + 1))}
        model |= {"threshold": one_of(0.0, 0.1)}  # an untrained router keeps every byte, as the estimate assumes
    elif kind == "bdh":
        model = {"n_embd": width, "n_head": heads, "n_layer": int(rng.integers(1, 7))}
        model |= {"mlp_internal_dim_multiplier": sized(4, 64), "dropout": one_of(0.0, 0.1)}
    else:
        model = {"arch": kind, "d_model": width, "n_heads": heads, "n_layers": int(rng.integers(1, 7))}
        model |= {"dropout": one_of(0.0, 0.1), "resid_dropout": one_of(None, 0.0, 0.1)}
        model |= {"d_ff": one_of(None, sized(width, 6 * width)), "context_length": run["seq_len"]}
        if kind == "llama":
            model["n_kv_heads"] = one_of(*(g for g in (1, 2, 4, 8) if heads % g == 0))
    family = "transformer" if kind in ("gpt2", "llama") else kind
    return TrainConfig.from_flat(family, {**run, **model})


def measured(kind: str, config: TrainConfig) -> Row:
    """One configuration trained for two steps."""
    if config.device == "cpu":
        return Row(kind, live_bytes(config), peak_live_bytes(config, is_fake=False), config.to_dict())
    run = TrainingRun(config, random_corpus(config.model.vocab_size, config.seq_len))
    for _ in range(2):
        run.train_step(config.tokens_per_step)
    torch.cuda.synchronize()
    reserved = torch.cuda.max_memory_reserved()  # since the run began
    run.close()
    return Row(kind, estimate(config).peak_vram_bytes, reserved, config.to_dict())


def measured_under(limit: int, num: int, seed: int, *, device: str, trials: int | None = None) -> Iterator[Row]:
    """The largest configurations that searches of each guide's space launch under a limit, `num` in all.

    Each search has `trials`, or as many as the guide's budget.
    """
    num_searches = len(GUIDES) * len(PRECISIONS)
    for i in range(num_searches):
        guide, precision = GUIDES[i // len(PRECISIONS)], PRECISIONS[i % len(PRECISIONS)]
        share = num * (i + 1) // num_searches - num * i // num_searches
        if not share:
            continue
        study = searched_under(limit, guide, seed=seed, run={"precision": precision, "device": device}, trials=trials)
        for config in _largest(study, share):
            if device == "cpu":
                live = peak_live_bytes(config, is_fake=guide != "ghost")  # fake tensors have no numbers to route by
                took = round(live * (1 + ALLOCATOR_SLACK)) + CUBLAS_WORKSPACE_BYTES
                row = Row(guide, estimate(config).peak_vram_bytes, took, config.to_dict())
            else:
                row = measured(guide, config)
            yield dataclasses.replace(row, limit=limit)


def searched_under(limit: int, guide: str, *, seed: int, run: dict[str, Any], trials: int | None = None) -> Study:
    """A search of a guide's space under a limit, in which losses fall with memory; nothing is trained.

    `run` holds fields of TrainConfig that the search sets. The peaks that it gets are the estimates: as on a CPU,
    nothing corrects them.
    """
    space = load_space(SPACES / f"{guide}.yaml")
    budget = space.budget()
    budget = budget.model_copy(update={"limits": {**budget.limits, "peak_vram_bytes": LimitSpec(max=limit)}})
    settings = StudySettings(space=narrow(space, budget=budget), budget=budget, seed=seed, run=run)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = Study.create(optuna.storages.InMemoryStorage(), guide, settings, trials=trials)
    while (proposal := study.propose()) is not None:
        found = estimate(_config(study, proposal.values))
        values = {"peak_vram_bytes": found.peak_vram_bytes, "num_params": found.num_params, "estimated": True}
        for rung in study.rungs:
            if rung > study.records[proposal.number].rung:
                loss = 10 - math.log(found.peak_vram_bytes) / 4 + study.rungs[0] / rung
                if not study.report(proposal.number, {"tokens": rung, "loss": loss, "bits_per_byte": loss, **values}):
                    break
    return study


def _largest(study: Study, num: int) -> list[TrainConfig]:
    """Of the configurations that a search launched and then of random ones that it may, half of `num` each.

    Of those whose estimates are equal, one.
    """
    rng = np.random.default_rng(study.settings.seed)
    drawn = (random_values(study.space, rng) for _ in range(NUM_DRAWN))
    launched = (record.values for record in study.records.values())
    may_launch = (values for values in drawn if not study.feasibility.reasons_against(values))
    largest: dict[int, TrainConfig] = {}
    for found, total in ((launched, num - num // 2), (may_launch, num)):
        if len(largest) < total:
            configs: dict[int, TrainConfig] = {}
            for config in (_config(study, values) for values in found):
                configs.setdefault(estimate(config).peak_vram_bytes, config)
            new = sorted(configs.keys() - largest.keys(), reverse=True)
            largest |= {estimated: configs[estimated] for estimated in new[: total - len(largest)]}
    return list(largest.values())


def _config(study: Study, values: Values) -> TrainConfig:
    return study.space.train_config(values, rungs=study.rungs, **study.settings.run)


def summary(rows: list[Row]) -> dict[str, dict[str, float]]:
    """The errors of each kind and of all, as shares."""
    kinds = {kind: [row for row in rows if row.kind == kind] for kind in dict.fromkeys(row.kind for row in rows)}
    return {kind: _errors(found) for kind, found in {**kinds, "all": rows}.items()}


def _errors(rows: list[Row]) -> dict[str, float]:
    errors = [row.error for row in rows]
    found = {
        "configurations": len(rows),
        "median": statistics.median(errors),
        "p95": float(np.percentile(errors, 95)),
        "max": max(errors),
        "lowest": min(row.estimated / row.measured for row in rows),
        "highest": max(row.estimated / row.measured for row in rows),
    }
    if shares := [row.measured / row.limit for row in rows if row.limit is not None]:
        found |= {"lowest_of_limit": min(shares), "highest_of_limit": max(shares)}
        found |= {"over_limit": sum(s > 1 for s in shares), "over_margin": sum(s > 1 + MARGIN for s in shares)}
    return found


def estimate_us(rows: list[Row], *, rounds: int = 20) -> float:
    """The mean time of one call of `estimate`, in microseconds."""
    configs = [TrainConfig.from_dict(row.config) for row in rows]
    started = time.perf_counter()
    for _ in range(rounds):
        for config in configs:
            estimate(config)
    return 1e6 * (time.perf_counter() - started) / (rounds * len(configs))


def table(document: dict[str, Any]) -> str:
    lines = [f"{'':8}{'n':>5}{'median':>9}{'p95':>9}{'max':>9}{'est./measured':>17}"]
    if "over_limit" in document["errors"]["all"]:
        lines[0] += f"{'of the limit':>18}{'over':>6}{f'over by {MARGIN:.0%}':>13}"
    for kind, found in document["errors"].items():
        line = f"{kind:8}{found['configurations']:5}{found['median']:9.1%}{found['p95']:9.1%}{found['max']:9.1%}"
        line += f"{found['lowest']:10.3f} -{found['highest']:6.3f}"
        if "over_limit" in found:
            line += f"{found['lowest_of_limit']:9.1%} -{found['highest_of_limit']:7.1%}"
            line += f"{found['over_limit']:6}{found['over_margin']:13}"
        lines.append(line)
    lines.append(f"one estimate takes {document['estimate_us']:.0f} microseconds; measured on {document['device']}")
    return "\n".join(lines)


def _bytes(text: str) -> int:
    if not isinstance(number := parse_number(text), int) or number <= 0:
        raise argparse.ArgumentTypeError(f"{text} is no number of bytes; give one such as '2 GiB'")
    return number


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.split("\n\n")[0])
    parser.add_argument("--configurations", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--limit", type=_bytes, help="such as '2 GiB'")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if options.limit:
        found = measured_under(options.limit, options.configurations, options.seed, device=device)
    else:
        drawn = drawn_configurations(options.configurations, options.seed, device=device)
        found = (measured(kind, config) for kind, config in drawn)
    rows = []
    for row in found:
        rows.append(row)
        print(f"{len(rows)} of {options.configurations}: {row.kind}, error {row.error:.1%}", file=sys.stderr)
    document = {
        "errors": summary(rows),
        "estimate_us": estimate_us(rows),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "torch": torch.__version__,
    }
    if options.json:
        print(json.dumps({**document, "rows": [dataclasses.asdict(row) for row in rows]}))
    else:
        print(table(document))


if __name__ == "__main__":
    main()
