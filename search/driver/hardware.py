"""The hardware that is available, and how it is divided among trials."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MAX_CPU_TRIALS = 8  # on a machine without GPUs, by default; with more, each trial would be too slow to learn from
KIND = "accelerator_type:"  # prefix of the kind of GPU in the name of a Ray resource
MAX_TRIALS_ON_GPU = 8  # more gain nothing: their kernels wait for each other
CUDA_BYTES = 700 * 2**20  # of each process besides its tensors: the context, and cuBLAS's workspace


@dataclass(frozen=True)
class Node:
    """A machine that trials run on."""

    cpus: float
    gpus: float = 0.0
    gpu_kind: str = ""  # Ray's name for it, if Ray knows one


@dataclass(frozen=True)
class Slots:
    """How many trials run at once, and what each gets."""

    num_slots: int
    cpus_per_trial: float
    gpus_per_trial: float
    most: float = math.inf  # trials at once, on any number of machines
    most_on_node: float = math.inf
    gpu_kind: str = ""  # of all trials' GPUs, because their speeds are compared

    @property
    def resources(self) -> dict[str, float]:
        """The resources that Ray should give each trial, in Ray's names."""
        kind = {f"{KIND}{self.gpu_kind}": 0.001} if self.gpu_kind else {}
        return {"cpu": self.cpus_per_trial, "gpu": self.gpus_per_trial, **kind}

    @property
    def is_exclusive(self) -> bool:
        """Whether a trial has its device to itself, so that speeds can be compared."""
        return self.gpus_per_trial == 0 or self.gpus_per_trial >= 1

    @property
    def num_threads(self) -> int:
        return max(1, int(self.cpus_per_trial))

    def on(self, nodes: Iterable[Node]) -> int:
        """How many trials fit on these machines, each on one machine; for the initial machines, `num_slots`."""
        return int(min(self.most, sum(self._fitting(node) for node in nodes)))

    def _fitting(self, node: Node) -> int:
        if self.gpu_kind and node.gpu_kind != self.gpu_kind:
            return 0
        by_cpus = node.cpus / self.cpus_per_trial if self.cpus_per_trial else math.inf
        by_gpus = node.gpus / self.gpus_per_trial if self.gpus_per_trial else math.inf
        return int(min(by_cpus, by_gpus, self.most_on_node) + 1e-9)

    def __str__(self) -> str:
        device = f"{self.gpus_per_trial:g} GPU" if self.gpus_per_trial else f"{self.cpus_per_trial:g} CPU core"
        plural = "s" if (self.gpus_per_trial or self.cpus_per_trial) != 1 else ""
        return f"{self.num_slots} trial{'s' if self.num_slots > 1 else ''} at a time, {device}{plural} each"


def check_shares(
    *, gpus_per_trial: float | None = None, cpus_per_trial: float | None = None, parallel: int | None = None
) -> None:
    """Raises ValueError for a share that no hardware could give."""
    for option, share in (("--gpus-per-trial", gpus_per_trial), ("--cpus-per-trial", cpus_per_trial)):
        if share is not None and not math.isfinite(share):
            raise ValueError(f"{option} {share:g} is not a valid number; give one such as 1 or 0.5")
    if gpus_per_trial is not None and gpus_per_trial < 0:
        raise ValueError(f"--gpus-per-trial {gpus_per_trial:g} is negative")
    if gpus_per_trial is not None and gpus_per_trial > 1 and not float(gpus_per_trial).is_integer():
        raise ValueError(f"--gpus-per-trial {gpus_per_trial:g}: above one, only whole GPUs can be given")
    if cpus_per_trial is not None and not cpus_per_trial > 0:
        raise ValueError(f"--cpus-per-trial {cpus_per_trial:g} is not a valid share of a core; give more than 0")
    if cpus_per_trial is not None and cpus_per_trial > 1 and not float(cpus_per_trial).is_integer():
        raise ValueError(f"--cpus-per-trial {cpus_per_trial:g}: above one, only whole cores can be given")
    if parallel is not None and parallel < 1:
        raise ValueError(f"--parallel {parallel}: give at least 1")


def divide(
    nodes: Sequence[Node],
    *,
    gpus_per_trial: float | None = None,
    cpus_per_trial: float | None = None,
    parallel: int | None = None,
    gpu_kind: str | None = None,
) -> Slots:
    """Divide at least one machine: one GPU for each trial if there are GPUs, else each machine's cores among its
    trials.

    Raises ValueError for a share that no machine has, and for GPUs of several kinds if none is chosen.
    """
    check_shares(gpus_per_trial=gpus_per_trial, cpus_per_trial=cpus_per_trial, parallel=parallel)
    for option, share, most in (
        ("--gpus-per-trial", gpus_per_trial, max(node.gpus for node in nodes)),
        ("--cpus-per-trial", cpus_per_trial, max(node.cpus for node in nodes)),
    ):
        if share is not None and share > most:
            there = "there are" if len(nodes) == 1 else "no machine has more than"
            raise ValueError(f"{option} {share:g}, but {there} {most:g} {option[2:5].upper()}s")
    gpus = float(any(node.gpus for node in nodes)) if gpus_per_trial is None else gpus_per_trial
    kind = _kind(nodes, gpu_kind) if gpus else ""
    used = [n for n in nodes if (n.gpus >= gpus and n.gpu_kind == kind if gpus else n.cpus > 0)]
    if not used:
        raise ValueError(f"no machine has {f'{gpus:g} GPUs of the kind {kind}' if gpus else 'cores'} for a trial")
    cpus = cpus_per_trial or min(_cores_each(node, gpus, parallel, len(used)) for node in used)
    is_told = gpus or cpus_per_trial is not None or parallel is not None
    most = math.inf if parallel is None else parallel
    slots = Slots(0, cpus, gpus, most, math.inf if is_told else MAX_CPU_TRIALS, kind)
    return dataclasses.replace(slots, num_slots=slots.on(nodes))


def _kind(nodes: Sequence[Node], asked: str | None) -> str:
    """The kind of GPU that trials run on; empty if it is unknown. Raises ValueError."""
    counts = Counter(node.gpu_kind for node in nodes if node.gpus)
    there = ", ".join(f"{kind or 'unknown'} on {n} machine{'s' if n > 1 else ''}" for kind, n in sorted(counts.items()))
    if asked is not None and asked not in counts:
        raise ValueError(f"--gpu-kind {asked}: there is no such GPU; there is {there or 'none'}")
    if asked is None and len(counts) > 1:
        raise ValueError(f"the GPUs are of different kinds, whose speeds cannot be compared: {there}; give --gpu-kind")
    return next(iter(counts)) if asked is None else asked


def share_of(num_slots: int, rank: int, num_drivers: int) -> int:
    """The slots of one of several drivers. They share equally; the remainder goes to those that joined first."""
    return num_slots // num_drivers + (rank < num_slots % num_drivers)


def _cores_each(node: Node, gpus: float, parallel: int | None, num_nodes: int) -> float:
    """The cores for each trial on a machine: whole cores, or a fraction if trials share one."""
    cores = max(1, int(node.cpus))
    fitting = int(node.gpus / gpus + 1e-9) if gpus else min(MAX_CPU_TRIALS, cores)
    if parallel is not None:
        fitting = min(math.ceil(parallel / num_nodes), fitting if gpus else cores)
    return float(cores // fitting) if fitting <= cores else cores / fitting


def trials_that_fit(gpu_bytes: int, peak_bytes: float) -> int:
    """How many processes fit on a GPU if each needs this much memory besides what CUDA takes; at least 1."""
    return max(1, min(MAX_TRIALS_ON_GPU, int(gpu_bytes / (peak_bytes + CUDA_BYTES))))


def this_machine() -> Node:
    """What this process may use. Raises ValueError for GPUs of several kinds: a local Ray cannot choose among them."""
    import torch

    kinds = sorted({torch.cuda.get_device_name(i) for i in range(num_gpus())})
    if len(kinds) > 1:
        raise ValueError(
            f"this machine's GPUs are of different kinds, whose speeds cannot be compared: {', '.join(kinds)}; "
            "choose some with CUDA_VISIBLE_DEVICES"
        )
    return Node(num_cores(), num_gpus())


def smallest_gpu_bytes() -> int | None:
    """The memory of the smallest GPU here, into which every trial must fit; None if there is no GPU."""
    import torch

    if not num_gpus():
        return None
    return min(torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count()))


def ram_bytes() -> int:
    """The memory of this machine."""
    import psutil

    return psutil.virtual_memory().total


def precision(num_gpus: float) -> str:
    """The default precision: bf16 is up to 20 times slower on a CPU without instructions for it."""
    return "bf16" if num_gpus else "fp32"


def num_cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows have no affinity
        return os.cpu_count() or 1


def num_gpus() -> int:
    """The GPUs that torch can use here."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
