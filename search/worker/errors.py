"""What an exception in a trial means: an outcome, an environment error, or the end of the process."""

from __future__ import annotations

import traceback

from search.worker.gpu_lock import GpuLockError
from search.worker.messages import DIVERGED, FAILED, OUT_OF_MEMORY, TrialReport
from search.worker.object_store import NO_SPACE, ObjectStoreError


def report_of(error: Exception, *, tokens: int = 0) -> TrialReport:
    """The last report of a trial that has trained this many tokens."""
    from trainer.checkpoint import SaveError
    from trainer.loop import Diverged
    from trainer.text.errors import CorpusError

    if isinstance(error, Diverged):
        return TrialReport(tokens=error.tokens, outcome=DIVERGED, reason=error.reason)
    if isinstance(error, MemoryError) or _is_cuda_out_of_memory(error):
        reason = str(error).splitlines()[0] if str(error) else "out of memory"
        return TrialReport(tokens=tokens, outcome=OUT_OF_MEMORY, reason=reason)
    if isinstance(error, (CorpusError, SaveError, ObjectStoreError, GpuLockError)):
        return TrialReport(tokens=tokens, environment_error=str(error))
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        where = f"{error.filename or 'the disk'}: {error.strerror}; free some space there"
        return TrialReport(tokens=tokens, environment_error=where)
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    text = "".join(traceback.format_exception(error))
    return TrialReport(tokens=tokens, outcome=FAILED, reason=reason, traceback=text)


def breaks_process(error: Exception) -> bool:
    """Whether CUDA refuses all further work of this process; out of memory is not such an error."""
    import torch

    if _is_cuda_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and "CUDA error" in str(error))


def _is_cuda_out_of_memory(error: Exception) -> bool:
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return True
    # cuBLAS and the CPU allocator report it as a plain RuntimeError
    words = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
