"""The settings of a cluster's jobs: how a target declares them, and those of a job on several machines.

A setting is declared once, as a field of a target's settings. The command line derives an option from it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

_TIMES = (
    re.compile(r"(?P<minutes>[0-9]+)(?::(?P<seconds>[0-9]{2}))?"),
    re.compile(r"(?P<hours>[0-9]+):(?P<minutes>[0-9]{2}):(?P<seconds>[0-9]{2})"),
    re.compile(r"(?P<days>[0-9]+)-(?P<hours>[0-9]{1,2})(?::(?P<minutes>[0-9]{2})(?::(?P<seconds>[0-9]{2}))?)?"),
)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a setting is given on the command line."""

    flag: str
    type: Any
    help: str
    metavar: str | None


def setting(help: str, default: Any = None, *, metavar: str | None = None) -> Any:
    """A field of a target's settings that `tinysearch submit` takes as an option."""
    return field(default=default, metadata={"help": help, "metavar": metavar})


def declared(settings: type) -> dict[str, Setting]:
    """The settings that a target declares, by the names of their fields."""
    types = get_type_hints(settings)
    return {
        f.name: Setting(flag=flag_of(f.name), type=types[f.name], **f.metadata) for f in fields(settings) if f.metadata
    }


def flag_of(name: str) -> str:
    """The option that gives the setting of this name."""
    return f"--{name.replace('_', '-')}"


def wrong_names(settings: Any, patterns: Mapping[str, re.Pattern[str]], cluster: str) -> list[str]:
    """A sentence for each of these settings that is given and does not match its pattern."""
    given = {name: getattr(settings, name) for name in patterns}
    return [
        f"{flag_of(name)} {value!r} is not a valid name for {cluster}"
        for name, value in given.items()
        if value is not None and not patterns[name].fullmatch(value)
    ]


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """The machines of a job."""

    nodes: int = setting("Machines (or pods). Default: 1.", 1)
    cpus_per_node: int = setting("Cores of each machine. Default: 4.", 4)
    gpus_per_node: int = setting("GPUs of each machine.", 0)
    memory_per_node: str | None = setting("Memory of each machine: 64G (Slurm) or 64Gi (Kubernetes).", metavar="SIZE")
    time: str | None = setting("The time limit, in the form of Slurm.", metavar="D-HH:MM:SS")

    def faults(self) -> list[str]:
        """What is wrong with the numbers and the time. The target checks the format of the memory."""
        found = [
            f"{flag_of(name)} {getattr(self, name)}: give at least 1"
            for name in ("nodes", "cpus_per_node")
            if getattr(self, name) < 1
        ]
        if self.gpus_per_node < 0:
            found.append(f"--gpus-per-node {self.gpus_per_node} is negative")
        if self.time is not None and not time_seconds(self.time):
            found.append(f"--time {self.time} is not a time: give minutes, HH:MM:SS or D-HH:MM:SS, as Slurm does")
        return found

    def memory_faults(self, pattern: re.Pattern[str], example: str) -> list[str]:
        if self.memory_per_node is None or pattern.fullmatch(self.memory_per_node):
            return []
        return [f"--memory-per-node {self.memory_per_node}: not a size; give one such as {example}"]


def time_seconds(text: str) -> int | None:
    """The seconds of a time as Slurm writes it (`30`, `MM:SS`, `HH:MM:SS`, `D-HH`, ...); None if it is invalid or zero.

    Times that Slurm reads differently from how they look, such as `5:90`, are invalid.
    """
    for form in _TIMES:
        if match := form.fullmatch(text):
            parts = {name: int(value or 0) for name, value in match.groupdict().items()}
            if parts.get("seconds", 0) > 59 or ("hours" in parts and parts["minutes"] > 59):
                return None
            if "days" in parts and parts["hours"] > 23:
                return None
            days, hours = parts.get("days", 0), parts.get("hours", 0)
            return ((days * 24 + hours) * 60 + parts["minutes"]) * 60 + parts["seconds"] or None
    return None
