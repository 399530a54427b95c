"""A lock on a GPU that several trials share: they train together, but a trial that measures its speed trains alone.

The lock is between the processes of one machine. A process that trains holds it shared; one that measures holds it
exclusively. All pass a turnstile first, which a process that measures keeps shut while it waits. So it waits for at
most one slice of each other process, however many there are. Both are file locks (flock), which end with the process.

Shared: building a model, restoring, training including compilation, evaluating and saving. No lock: starting CUDA in a
new process, and freeing the memory of a trial that has ended.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # the module is missing

SHARED_SECONDS = 1.0  # of training under the shared lock, and so the longest that a process that measures waits
ALONE_SECONDS = 3.0  # of training over which a speed is measured, but no more than ...
ALONE_SHARE = 0.25  # ... this share of the steps from rung to rung
MIN_STEPS_ALONE = 5  # whatever the share is; after the warm-up, if the worker resumes at the first of them


class GpuLockError(OSError):
    """The files of the lock cannot be used; the message says what to do."""


class GpuLock:
    """This process's lock on a device; `device` is its name for all processes of this user on this machine."""

    def __init__(self, device: str):
        """Raises GpuLockError if the system has no such locks."""
        if not are_possible():
            raise GpuLockError("trials that share a GPU cannot take turns on this system; give each of them one")
        self._turnstile, self._device = f"{device}.turnstile", f"{device}.device"
        _own_folder()

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Use the device beside others; waits while a process holds it exclusively."""
        with contextlib.ExitStack() as held:
            with _locked(self._turnstile, is_exclusive=False):
                held.enter_context(_locked(self._device, is_exclusive=False))
            yield

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Use the device alone; waits until the others have released it, and keeps new ones out meanwhile."""
        with _locked(self._turnstile, is_exclusive=True), _locked(self._device, is_exclusive=True):
            yield


def are_possible() -> bool:
    """Whether this system has locks that end with their process."""
    return fcntl is not None


def this_device() -> str:
    """The device that this process trains on, by a name that all processes of this machine share."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)  # an index differs between processes


def steps_beside_others(
    *, left: int, all_steps: int, is_warm: bool, steps_per_second: float, max_seconds: float
) -> int:
    """How many of the `left` steps to a rung to train beside others; the last ones, at least one, are trained alone.

    To be called again after each slice, with the latest speed. A process that is not warm trains some steps beside
    others first. `all_steps` is the number from one rung to the next. Those alone should take `max_seconds` at most.
    """
    from trainer.measure import WARMUP_STEPS

    min_alone = MIN_STEPS_ALONE + WARMUP_STEPS
    if not is_warm:
        return min_alone if left >= 2 * min_alone else min(WARMUP_STEPS, left - 1)
    alone = max(min_alone, min(ALONE_SECONDS * steps_per_second, ALONE_SHARE * all_steps))
    return max(0, left - max(1, int(min(alone, max_seconds * steps_per_second))))


@contextlib.contextmanager
def _locked(name: str, *, is_exclusive: bool) -> Iterator[None]:
    """Hold a lock on a file, which is opened each time: a deleted file costs one slice."""
    path = _own_folder() / name
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if is_exclusive else fcntl.LOCK_SH)
        except OSError as error:
            raise _unusable(path, error) from None
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # a process forked meanwhile has the file open too
        os.close(file)


def _unusable(path: Path, error: OSError) -> GpuLockError:
    return GpuLockError(f"{path}: {error.strerror}, but trials that share a GPU take turns by it")


def _own_folder() -> Path:
    """A folder of this user: in a folder for everyone, another user could hold a lock for ever."""
    folder = Path(tempfile.gettempdir()) / f"tinysearch-turns-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.lstat().st_uid
    except OSError as error:
        raise _unusable(folder, error) from None
    if owner != os.getuid():
        raise GpuLockError(f"{folder} belongs to another user; delete it, or set another TMPDIR")
    return folder
