"""What a run reports at a rung, and the clock for its speed; `memory.py` measures memory."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

WARMUP_STEPS = 3  # of each process, excluded from the speed: they allocate, choose kernels and compile


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A run at a rung. loss: nats per held-out token; tokens_per_second: of training only."""

    tokens: int
    loss: float
    bits_per_byte: float | None  # None if the tokens came without a tokenizer
    tokens_per_second: float
    peak_vram_bytes: int | None  # None if there is no GPU and the family has no formula to estimate it
    num_params: int
    train_seconds: float
    peak_rss_bytes: int | None  # None on CUDA, and if the system does not report it
    estimated: bool  # peak_vram_bytes was computed for a GPU that is not here
    exclusive: bool  # no other trial used the device; the trainer cannot know, so its caller sets it
    shares: Mapping[str, float] = field(default_factory=dict)  # of held-out tokens: what the family counts, by name

    def __post_init__(self) -> None:
        if taken := sorted(self.shares.keys() & {f.name for f in dataclasses.fields(self)}):
            raise ValueError(f"the family reports {taken[0]}, which every run does; give it another name")

    def to_dict(self) -> dict[str, Any]:
        """All values by name, with those of `shares` beside the others."""
        values = dataclasses.asdict(self)
        return values | values.pop("shares")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Measurement:
        """The inverse of `to_dict`."""
        names = {f.name for f in dataclasses.fields(cls)} - {"shares"}
        own = {name: value for name, value in values.items() if name not in names and value is not None}
        return cls(**{name: value for name, value in values.items() if name in names}, shares=own)


class Stopwatch:
    """Training time of one run, and its speed once warm.

    `seconds` includes every training step, the speed only those after the first WARMUP_STEPS.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self._warm_seconds, self._warm_tokens = 0.0, 0
        self._all_tokens = 0
        self._steps_to_warm = WARMUP_STEPS
        self._since = self._warm_since = 0.0

    @property
    def is_warm(self) -> bool:
        return not self._steps_to_warm

    @property
    def tokens_per_second(self) -> float:
        return self.speed_since({})

    def speed_since(self, before: Mapping[str, float]) -> float:
        """Tokens per second since `state` was `before`; of warm steps if there were any; 0.0 without a step."""
        now = self.state()
        tokens, seconds, warm_tokens, warm_seconds = (
            now[name] - before.get(name, 0) for name in ("all_tokens", "seconds", "warm_tokens", "warm_seconds")
        )
        if warm_tokens:
            return warm_tokens / warm_seconds
        return tokens / seconds if seconds else 0.0

    def start(self) -> None:
        self._since = self._warm_since = self._now()

    def step(self, tokens: int) -> None:
        """Count a finished step of this many tokens."""
        self._all_tokens += tokens
        if self._steps_to_warm:
            self._steps_to_warm -= 1
            if not self._steps_to_warm:
                self._warm_since = self._now()
        else:
            self._warm_tokens += tokens

    def stop(self) -> None:
        now = self._now()
        self.seconds += now - self._since
        if not self._steps_to_warm:
            self._warm_seconds += now - self._warm_since

    def state(self) -> dict[str, float]:
        return {
            "seconds": self.seconds,
            "all_tokens": self._all_tokens,
            "warm_seconds": self._warm_seconds,
            "warm_tokens": self._warm_tokens,
        }

    def restore(self, state: dict[str, float]) -> None:
        self.seconds, self._all_tokens = float(state["seconds"]), int(state["all_tokens"])
        self._warm_seconds, self._warm_tokens = float(state["warm_seconds"]), int(state["warm_tokens"])

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # kernels are queued: otherwise the clock would stop before they ran
        return time.perf_counter()
