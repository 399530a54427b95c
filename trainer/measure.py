"""What a run reports at a rung, and how its time and memory are measured."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

WARMUP_STEPS = 3  # of each process, left out of the speed: they allocate, choose kernels and compile


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A run at a rung. loss: nats per held-out token; tokens_per_second: of training alone."""

    tokens: int
    loss: float
    bits_per_byte: float | None  # None where the tokens came without a tokenizer
    tokens_per_second: float
    peak_vram_bytes: int
    num_params: int
    train_seconds: float
    peak_rss_bytes: int | None  # None where the system does not tell, and on CUDA
    estimated: bool  # peak_vram_bytes was computed for a GPU that is not here
    exclusive: bool  # nobody else used the device; the trainer cannot know, so whoever shares it says so

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


class Stopwatch:
    """Training time of one run, and its speed once warm.

    The two differ: `seconds` has every training step, the speed only those after the first WARMUP_STEPS.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self._warm_seconds, self._warm_tokens = 0.0, 0
        self._all_tokens = 0
        self._steps_to_warm = WARMUP_STEPS
        self._since = self._warm_since = 0.0

    @property
    def tokens_per_second(self) -> float:
        if self._warm_tokens:
            return self._warm_tokens / self._warm_seconds
        return self._all_tokens / self.seconds if self.seconds else 0.0

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
        self.seconds, self._all_tokens = state["seconds"], int(state["all_tokens"])
        self._warm_seconds, self._warm_tokens = state["warm_seconds"], int(state["warm_tokens"])

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)  # kernels are queued: without it the clock would stop before them
        return time.perf_counter()


class MemoryPeak:
    """The most memory that one run took since this was made: of the GPU on CUDA, else of the process."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        gc.collect()  # an earlier run of this process may have left cycles behind
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        else:
            _return_free_memory()
            self._base = _reset_peak_rss()

    def vram_bytes(self) -> int | None:
        """What PyTorch reserved, not only what it used: the reserved part is what nobody else can have."""
        return torch.cuda.max_memory_reserved(self.device) if self.device.type == "cuda" else None

    def rss_bytes(self) -> int | None:
        """The process's peak above its size at the start; None where that cannot be measured."""
        if self.device.type == "cuda" or self._base is None:
            return None
        size, mark = self._base
        peak = _peak_rss()
        return peak - size if peak is not None and peak > mark else None


def _return_free_memory() -> None:
    """Give freed memory back to the system, so that the next run's pages count as its own."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, musl does not
        if trim is not None:
            trim(0)


def _reset_peak_rss() -> tuple[int, int] | None:
    """The process's size now, and the mark above which a peak is this run's; None where sizes are unknown."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # 5 resets VmHWM, also for an ordinary user (man 5 proc)
    except OSError:
        pass  # then the peak of the whole process is the mark: what stays below it was not seen
    size, mark = _current_rss(), _peak_rss()
    return None if size is None or mark is None else (size, max(size, mark))


def _current_rss() -> int | None:
    if (size := _status_bytes("VmRSS")) is not None:
        return size
    try:
        import psutil
    except ImportError:
        return None
    return psutil.Process().memory_info().rss


def _peak_rss() -> int | None:
    if (size := _status_bytes("VmHWM")) is not None:
        return size
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes there, KiB elsewhere


def _status_bytes(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), None)
