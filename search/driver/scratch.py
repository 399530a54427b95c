"""A temporary folder for the length of a search: Ray's session, whose sockets need a short path.

It is always a new folder, so that neither leftovers nor other users of the machine are in its way.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from search.storage.folder import StudyError

VARIABLES = ("RAY_TMPDIR", "TMPDIR")
USUAL = ("/tmp", "/var/tmp", "/dev/shm")
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107  # of a socket's path, at most
BELOW_BYTES = len("/session_2026-11-28_12-00-00_123456_4194304/sockets/plasma_store") + 2
FREE_BYTES = 256 * 2**20  # for Ray's logs, and for its object store if /dev/shm is too small


@contextlib.contextmanager
def scratch_folder(usual: Sequence[str] = USUAL) -> Iterator[Path]:
    """A new folder until the block ends: where a variable says, or in a usual location. Raises StudyError."""
    named = [(f"{name}={location}", location) for name in VARIABLES if (location := os.environ.get(name))]
    faults = []
    for said, location in [*named, *((location, location) for location in usual)]:
        try:
            folder = tempfile.mkdtemp(prefix="ts-", dir=os.path.abspath(location))
        except OSError as error:
            faults.append(f"{said} ({error.strerror})")
            continue
        if fault := _fault_of(folder):
            shutil.rmtree(folder, ignore_errors=True)
            faults.append(f"{said} ({fault})")
            continue
        try:
            yield Path(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    raise StudyError(
        f"no folder can hold Ray's temporary files: {', '.join(faults)}; set TMPDIR to one that is short, can be "
        f"written to and has {FREE_BYTES // 2**20} MiB free"
    )


def _fault_of(folder: str) -> str:
    """Why Ray cannot use an existing folder; empty if it can."""
    if (length := len(os.fsencode(folder)) + BELOW_BYTES) > SOCKET_BYTES:
        return f"{length - SOCKET_BYTES} bytes too long for the sockets in it"
    if shutil.disk_usage(folder).free < FREE_BYTES:
        return "the disk is full"
    return ""
