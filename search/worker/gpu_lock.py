"""A lock on a GPU that several trials share: they train side by side, and the one that measures its speed trains alone.

It is a lock between the processes of one machine. Processes that train hold it shared; a process that measures holds
it exclusively. All pass a turnstile first, which a process that measures keeps shut from when it begins to wait. So it
waits for one slice of each other process at most, however many there are. Both are locks on files (flock), which end
with the process that holds them.

Held shared: building a model, restoring, training with what it compiles, evaluating, and saving. Without the lock:
starting CUDA in a new process, and freeing the memory of a trial that has ended.
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
    fcntl = None  # type: ignore[assignment]  # stands for a module that is not there

SHARED_SECONDS = 1.0  # of training under the shared lock, and so the longest that a process that measures waits
ALONE_SECONDS = 3.0  # of training that a speed is measured over, where that is no more than ...
ALONE_SHARE = 0.25  # ... this share of the steps from rung to rung
MIN_STEPS_ALONE = 5  # whatever the share, after the warm-up of a worker that goes on from the first of them


class GpuLockError(OSError):
    """The lock's files cannot be used; the message says what to do."""


class GpuLock:
    """This process's lock on one device, which `device` names for all processes of this user and machine."""

    def __init__(self, device: str):
        """Raises GpuLockError if this system has no such locks."""
        if not are_possible():
            raise GpuLockError("trials that share a GPU cannot take turns on this system; give each of them one")
        self._turnstile, self._device = f"{device}.turnstile", f"{device}.device"
        _own_folder()

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        """Use the device beside others; waits while a process has it exclusively."""
        with contextlib.ExitStack() as held:
            with _locked(self._turnstile, is_exclusive=False):
                held.enter_context(_locked(self._device, is_exclusive=False))
            yield

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Have the device to oneself; waits until the others have let go, and keeps new ones out meanwhile."""
        with _locked(self._turnstile, is_exclusive=True), _locked(self._device, is_exclusive=True):
            yield


def are_possible() -> bool:
    """Whether this system has locks that end with their process."""
    return fcntl is not None


def this_device() -> str:
    """What this process trains on, by a name that all processes of this machine have for it."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)  # the index is each process's own


def steps_beside_others(
    *, left: int, all_steps: int, is_warm: bool, steps_per_second: float, max_seconds: float
) -> int:
    """How many of the `left` steps to a rung to train beside others, before the last ones, one at least, alone.

    To be asked again after each slice, with the speed known by then; a process that is not warm first trains some steps
    beside others. `all_steps` lead from one rung to the next. Those alone are to take `max_seconds` at most.
    """
    from trainer.measure import WARMUP_STEPS

    min_alone = MIN_STEPS_ALONE + WARMUP_STEPS
    if not is_warm:
        return min_alone if left >= 2 * min_alone else min(WARMUP_STEPS, left - 1)
    alone = max(min_alone, min(ALONE_SECONDS * steps_per_second, ALONE_SHARE * all_steps))
    return max(0, left - max(1, int(min(alone, max_seconds * steps_per_second))))


@contextlib.contextmanager
def _locked(name: str, *, is_exclusive: bool) -> Iterator[None]:
    """Hold a lock on a file, which is opened anew each time: a deleted file costs one slice."""
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
        fcntl.flock(file, fcntl.LOCK_UN)  # a process that was forked meanwhile has the file open too
        os.close(file)


def _unusable(path: Path, error: OSError) -> GpuLockError:
    return GpuLockError(f"{path}: {error.strerror}, but trials that share a GPU take turns by it")


def _own_folder() -> Path:
    """This user's own: in a folder for all, anybody could hold a lock for ever."""
    folder = Path(tempfile.gettempdir()) / f"tinysearch-turns-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        owner = folder.lstat().st_uid
    except OSError as error:
        raise _unusable(folder, error) from None
    if owner != os.getuid():
        raise GpuLockError(f"{folder} belongs to another user; delete it, or set another TMPDIR")
    return folder
