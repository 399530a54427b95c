"""What there is to run on, and how it is divided among trials."""

from __future__ import annotations

import os
from dataclasses import dataclass

MAX_CPU_TRIALS = 8  # on a machine without GPUs more trials at once would each be slow to learn from


@dataclass(frozen=True)
class Slots:
    """How many trials run at once, and what each gets."""

    num_slots: int
    cpus_per_trial: float
    gpus_per_trial: float

    @property
    def is_exclusive(self) -> bool:
        """Whether a trial has its device to itself, so that its speed can be compared."""
        return self.gpus_per_trial == 0 or self.gpus_per_trial >= 1

    @property
    def num_threads(self) -> int:
        return max(1, int(self.cpus_per_trial))

    def __str__(self) -> str:
        device = f"{self.gpus_per_trial:g} GPU" if self.gpus_per_trial else f"{self.cpus_per_trial:g} CPU core"
        plural = "s" if (self.gpus_per_trial or self.cpus_per_trial) != 1 else ""
        return f"{self.num_slots} trial{'s' if self.num_slots > 1 else ''} at a time, {device}{plural} each"


def check_shares(*, gpus_per_trial: float | None, parallel: int | None) -> None:
    """Raises ValueError for a share that no hardware could give."""
    if gpus_per_trial is not None and gpus_per_trial < 0:
        raise ValueError(f"--gpus-per-trial {gpus_per_trial:g} is negative")
    if gpus_per_trial is not None and gpus_per_trial > 1 and not float(gpus_per_trial).is_integer():
        raise ValueError(f"--gpus-per-trial {gpus_per_trial:g}: above one, only whole GPUs can be given")
    if parallel is not None and parallel < 1:
        raise ValueError(f"--parallel {parallel} is no number of trials; give at least 1")


def divide(
    num_cpus: float, num_gpus: float, *, gpus_per_trial: float | None = None, parallel: int | None = None
) -> Slots:
    """Divide a machine or cluster: one GPU a trial where there are GPUs, else the cores among the trials.

    Raises ValueError for a share that the hardware does not have.
    """
    check_shares(gpus_per_trial=gpus_per_trial, parallel=parallel)
    if gpus_per_trial is not None and gpus_per_trial > num_gpus:
        raise ValueError(f"--gpus-per-trial {gpus_per_trial:g}, but there are {num_gpus:g} GPUs")
    num_cpus = max(1, int(num_cpus))
    share = (1.0 if num_gpus else 0.0) if gpus_per_trial is None else gpus_per_trial
    fitting = max(1, int(num_gpus / share + 1e-9)) if share else min(MAX_CPU_TRIALS, num_cpus)
    if parallel is not None:
        fitting = min(parallel, fitting if share else num_cpus)
    # whole cores, or a fraction where more trials share the GPUs than there are cores
    cpus = float(num_cpus // fitting) if fitting <= num_cpus else num_cpus / fitting
    return Slots(fitting, cpus, share)


def smallest_gpu_bytes() -> int | None:
    """Memory of the smallest GPU here, which every trial must fit; None where there is none."""
    import torch

    if not num_gpus():
        return None
    return min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))


def ram_bytes() -> int:
    """Memory of this machine."""
    import psutil

    return psutil.virtual_memory().total


def precision(num_gpus: float) -> str:
    """The precision where nobody asked for one: bf16 is up to 20 times slower on a CPU without the instructions."""
    return "bf16" if num_gpus else "fp32"


def num_cores() -> int:
    """Cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity
        return os.cpu_count() or 1


def num_gpus() -> int:
    """GPUs that torch can use here."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
