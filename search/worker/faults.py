"""Faults in a worker that its trial survives, each with a sentence.

A fault is not an outcome: the trial resumes from its checkpoint or restarts, and fails only if it keeps breaking. Each
sentence begins with its kind and a colon; reports count these kinds.
"""

from __future__ import annotations

import re

WORKER_LOST = "worker lost"
WORKER_HUNG = "worker hung"
CUDA_ERROR = "CUDA error"
CHECKPOINT_DAMAGED = "checkpoint damaged"
STORE_SILENT = "storage path silent"
PLURAL_OF = {
    WORKER_LOST: "workers lost",
    WORKER_HUNG: "workers hung",
    CUDA_ERROR: "CUDA errors",
    CHECKPOINT_DAMAGED: "checkpoints damaged",
    STORE_SILENT: "times the storage path was silent",
}

HOST_OUT_OF_MEMORY = "the host ran out of memory"

_CAUSES = (  # of a lost worker, found in Ray's own message: the first match counts
    (re.compile(r"OutOfMemoryError|running low on memory"), HOST_OUT_OF_MEMORY),
    (re.compile(r"node (has died|was terminated|is dead|died)"), "its machine was lost"),
    (re.compile(r"owner has died"), "Ray has ended"),
    (re.compile(r"with an exit code (-?\d+)"), r"ended with exit code \1"),
    (re.compile(r"connection error code"), "killed or crashed"),
    (re.compile(r"temporarily unavailable"), "its machine does not answer"),
    (re.compile(r"^\S*BrokenProcess: CUDA error: (.+)", re.MULTILINE), rf"{CUDA_ERROR}: \1"),
)
MAX_CAUSE = 200  # characters


def cause_of(error: str) -> str:
    """Why a worker was lost, in a few words, from Ray's message; the message's last line if the cause is unknown."""
    for pattern, cause in _CAUSES:
        if found := pattern.search(error):
            return found.expand(cause)[:MAX_CAUSE]
    return next((line.strip() for line in reversed(error.splitlines()) if line.strip()), "cause unknown")[:MAX_CAUSE]


def loss(cause: str, tokens: int, then: str) -> str:
    """The fault of a trial whose worker was lost: why, where its last report was, and what happened then."""
    kind, _, rest = cause.partition(": ")
    sentence = cause if kind in PLURAL_OF and rest else f"{WORKER_LOST}: {cause}"
    return f"{sentence}, last report at {tokens:,} tokens; {then}"
