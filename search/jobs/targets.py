"""All kinds of clusters that accept jobs. To add one, write a file beside this one and add it to the list here."""

from __future__ import annotations

from typing import Any

from search.jobs.kubernetes import KubernetesTarget
from search.jobs.ray_job import RayJobTarget
from search.jobs.settings import Setting, declared
from search.jobs.slurm import SlurmTarget
from search.jobs.target import Target

_ALL: tuple[Target[Any], ...] = (
    RayJobTarget(),
    SlurmTarget(),
    KubernetesTarget(),
)

TARGETS: dict[str, Target[Any]] = {target.name: target for target in _ALL}

SETTINGS: dict[str, Setting] = {name: how for target in _ALL for name, how in declared(target.settings).items()}
"""The settings of all targets, by name. A name means the same for every target that has it."""
