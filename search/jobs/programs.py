"""Calls the programs of a cluster (`ray`, `kubectl`, those of Slurm)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ANSWER_SECONDS = 60  # for a query; a submission may take longer, because it uploads the checkout
_FAULT = re.compile(r"[\w.]*(?:Error|Exception):|(?:\w+: )?error: |Error from server")  # errors among the other output


class ClusterError(ValueError):
    """A cluster refuses a request, does not answer, or its program is not on this machine; the message says which."""


def ask(
    words: Sequence[str],
    *,
    text: str | None = None,
    environment: Mapping[str, str] | None = None,
    seconds: float | None = ANSWER_SECONDS,
    fails: str | None = None,
) -> str:
    """What a program prints, or `fails`, if that is given and the program fails.

    Raises ClusterError if there is no such program, if it fails, and if it takes longer than `seconds`.
    """
    try:
        done = subprocess.run(
            _found(words),
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            env=_environment(environment),
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        raise ClusterError(f"{words[0]} does not answer for {seconds:.0f} s") from None
    if done.returncode == 0:
        return done.stdout
    if fails is not None:
        return fails
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    faults = [line for line in lines if _FAULT.match(line)] or lines or [f"exit code {done.returncode}"]
    raise ClusterError(f"{' '.join(words[: 3 if words[0] == 'ray' else 1])} failed: {faults[-1]:.300}")


def show(words: Sequence[str]) -> int:
    """Run a program that prints to this terminal; returns its exit code. Raises ClusterError if there is none."""
    return subprocess.run(_found(words), env=_environment()).returncode


def _environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    environment = {**os.environ, **(more or {})}
    if environment.get("RAY_AUTH_TOKEN"):
        environment.setdefault("RAY_AUTH_MODE", "token")
    return environment


def _found(words: Sequence[str]) -> list[str]:
    """The command with its program's path; `ray` is the one beside this Python. Raises ClusterError."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which(words[0], path=beside if words[0] == "ray" else None)
    if program is None:
        raise ClusterError(
            f"there is no {words[0]} on this machine; run this where it is installed, or print the job with "
            "`tinysearch submit --dry-run`"
        )
    return [program, *words[1:]]
