"""How many bytes one training step keeps alive: the step run on fake tensors, every storage followed to its end."""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainer.averaging import WeightAverage
from trainer.config import TrainConfig
from trainer.loop import loss_sums
from trainer.models import transformer
from trainer.models.registry import build
from trainer.optim import build_optimizer

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


def peak_live_bytes(config: TrainConfig) -> int:
    """The peak of the second of two steps: the first one makes the optimizer's state."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)
    with cuda_forms(), FakeTensorMode(), LiveBytes() as tracker:
        model = build(config)
        optimizer = build_optimizer(model, config)
        average = WeightAverage(model, config.ema_share) if config.ema_share else None
        shape = (config.batch_size, config.seq_len)
        for _ in range(2):
            tracker.peak = tracker.live
            for _ in range(config.accumulate_grad_batches):
                inputs, targets = (torch.zeros(shape, dtype=torch.int64) for _ in range(2))
                with torch.autocast("cpu", dtype, enabled=dtype is not None):
                    cross_entropy, addition, _ = loss_sums(model, inputs, targets)
                    loss = (cross_entropy + addition) / targets.numel()
                del cross_entropy, addition, _
                loss.backward()
                del loss
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                average.update(1, 2)
    return tracker.peak


def cuda_forms() -> ExitStack:
    """Lets functions keep what they keep on CUDA, where each is one kernel: the CPU's forms keep more.

    Dropout keeps a mask of one byte an element, attention with dropout no scores, RMSNorm its input and statistic.
    And attention in fp32 has no grouped heads there.
    """
    attention = F.scaled_dot_product_attention

    def dropout(x: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
        return torch.native_dropout(x, p, training)[0] if training and p > 0 else x

    def without_dropout(*args: Any, dropout_p: float = 0.0, **kwargs: Any) -> torch.Tensor:
        return attention(*args, **kwargs)

    stack = ExitStack()
    stack.enter_context(patch.object(F, "dropout", dropout))
    stack.enter_context(patch.object(F, "scaled_dot_product_attention", without_dropout))
    stack.enter_context(patch.object(transformer, "has_fused_groups", lambda q: q.dtype != torch.float32))
    stack.enter_context(patch.object(F, "rms_norm", lambda x, shape, weight, eps: FusedRMSNorm.apply(x, weight)))
    return stack


class FusedRMSNorm(torch.autograd.Function):
    """As to memory: the numbers of fake tensors are nobody's."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight, x[..., :1].clone())
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, d_y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)
