"""How many bytes a training step of the trainer keeps alive, and how a CPU is made to keep what a GPU keeps.

Every storage is followed from the operation that makes it to its end. A step on fake tensors, which have sizes and no
numbers, takes a second whatever the model's size; on real tensors it is the step that trains.
"""

from __future__ import annotations

import contextlib
import weakref
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.config import TrainConfig
from trainer.corpus import Corpus
from trainer.families.ghost import model as ghost
from trainer.families.transformer import model as transformer
from trainer.loop import TrainingRun

BLOCK_BYTES = 512  # CUDA's allocator rounds up to these


class LiveBytes(TorchDispatchMode):
    """Follows every storage that an operation returns, until nothing refers to it."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.follow(leaf)
        return result

    def follow(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = -(-storage.nbytes() // BLOCK_BYTES) * BLOCK_BYTES
        self._seen[key] = weakref.finalize(storage, self._free, key, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _free(self, key: int, size: int) -> None:
        del self._seen[key]
        self.live -= size


def peak_live_bytes(config: TrainConfig, *, is_fake: bool = True) -> int:
    """The peak of the second of two steps: the first one makes the optimizer's state.

    Fake tensors cannot be routed by their numbers: a ghost's threshold must be 0.
    """
    corpus = random_corpus(config.model.vocab_size, config.seq_len)
    with cuda_forms() as stack:
        stack.enter_context(patch.object(TrainingRun, "_to_device", _followed))
        if is_fake:
            stack.enter_context(patch.object(torch.nn.Module, "to", lambda model, device: model))  # it swaps parameters
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        tracker = stack.enter_context(LiveBytes())
        run = TrainingRun(config, corpus)
        for _ in range(2):
            tracker.peak = tracker.live
            run.train_step(config.tokens_per_step)
        run.close()
    return tracker.peak


def random_corpus(vocab_size: int, seq_len: int) -> Corpus:
    """Tokens enough for one sequence, drawn at random."""
    tokens = np.random.default_rng(0).integers(vocab_size, size=4 * (seq_len + 1)).astype(np.uint16)
    return Corpus(
        train=tokens[: 2 * (seq_len + 1)],
        validation=tokens[2 * (seq_len + 1) :],
        vocab_size=vocab_size,
        token_bytes=None,
        digest=f"random {vocab_size} {seq_len}",
        about="random tokens",
    )


def _followed(run: TrainingRun, array: np.ndarray) -> torch.Tensor:
    """A batch made by an operation that a dispatch mode sees."""
    return torch.zeros(array.shape, dtype=torch.int64) + torch.from_numpy(array)


def cuda_forms() -> contextlib.ExitStack:
    """Lets functions keep what they keep on CUDA, where each is one kernel: the CPU's forms keep more.

    Dropout keeps a mask of one byte an element, attention with dropout no scores (and drops nothing here), RMSNorm its
    input and statistic. Attention in fp32 has no grouped heads there, and a scan works on a whole segment at a time.
    """
    attention = F.scaled_dot_product_attention

    def dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        return torch.native_dropout(x, p, training)[0] if training and p > 0 else x

    def without_dropout(*args: Any, dropout_p: float = 0.0, **kwargs: Any) -> torch.Tensor:
        return attention(*args, **kwargs)

    def rms_norm(x: torch.Tensor, shape: Any, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
        return FusedRMSNorm.apply(x, x.new_ones(shape) if weight is None else weight, eps)

    stack = contextlib.ExitStack()
    stack.enter_context(patch.object(F, "dropout", dropout))
    stack.enter_context(patch.object(F, "scaled_dot_product_attention", without_dropout))
    stack.enter_context(patch.object(transformer, "has_fused_groups", lambda q: q.dtype != torch.float32))
    stack.enter_context(patch.object(F, "rms_norm", rms_norm))
    stack.enter_context(patch.object(ghost, "CPU_BLOCK_NUMBERS", 2**40))
    return stack


class FusedRMSNorm(torch.autograd.Function):
    """With no tensor as large as x but its results, as one kernel has it. x: (.., D), weight: (D,)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, d_y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        D = x.shape[-1]
        rows = x.reshape(-1, D)
        d_x = (d_y * scale).view(-1, D)
        d_weight = torch.bmm(d_x.T.unsqueeze(1), rows.T.unsqueeze(2)).view(D)
        d_x.mul_(weight)
        along = torch.bmm(d_x.unsqueeze(1), rows.unsqueeze(2)).view(-1, 1)
        d_x.addcmul_(rows, along.mul_(scale.reshape(-1, 1).square()).div_(-D))
        return d_x.view(x.shape), d_weight, None
