"""Machines that are namespaces of this one: with their own network and processes, which end with the first process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

NAMESPACES = ["unshare", "--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"]


def can_make_machines() -> bool:
    """Whether this process may make namespaces with a network between them."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    try:
        made = subprocess.run([*NAMESPACES, "ip", "link", "add", "x", "type", "veth"], capture_output=True)
        return made.returncode == 0
    except FileNotFoundError:
        return False


def descendants(pid: int) -> set[int]:
    """The processes below one, as this machine numbers them."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        below = {int(child) for task in tasks for child in (task / "children").read_text().split()}
    except OSError:
        return set()
    return below.union(*(descendants(child) for child in below))


def command(pid: int) -> str:
    """A process's command line; empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""
