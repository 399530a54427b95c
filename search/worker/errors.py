"""What an exception in a trial means: an outcome of it, an obstacle of the search, or the end of its process."""

from __future__ import annotations

import traceback
from typing import Any

from search.worker.messages import DIVERGED, FAILED, OUT_OF_MEMORY
from search.worker.object_store import NO_SPACE, ObjectStoreError
from search.worker.turns import TurnsError


def report_of(error: Exception) -> dict[str, Any]:
    """What an exception in a trial means: an obstacle, or an outcome with a reason and the traceback of a bug."""
    from trainer.checkpoint import SaveError
    from trainer.loop import Diverged
    from trainer.text.errors import CorpusError

    if isinstance(error, Diverged):
        return {"outcome": DIVERGED, "reason": error.reason, "tokens": error.tokens}
    if isinstance(error, MemoryError) or _is_cuda_out_of_memory(error):
        return {"outcome": OUT_OF_MEMORY, "reason": str(error).splitlines()[0] if str(error) else "out of memory"}
    if isinstance(error, (CorpusError, SaveError, ObjectStoreError, TurnsError)):
        return {"obstacle": str(error)}
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return {"obstacle": f"{error.filename or 'the disk'}: {error.strerror}; free some space there"}
    reason = f"{type(error).__name__}: {error}".splitlines()[0]
    return {"outcome": FAILED, "reason": reason, "traceback": "".join(traceback.format_exception(error))}


def breaks_process(error: Exception) -> bool:
    """Whether CUDA refuses all further work of this process; a lack of memory it survives."""
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
