"""What training minimises: the cross-entropy of a model's logits, all at once or fused with the head.

Fused, the logits of one part of the positions are computed, turned into the gradients of the head's input and weights,
and freed. So no part's logits are kept, and backward only scales what forward has computed. That takes the same matrix
products as the plain loss. After Liger Kernel (Hsu et al. 2024, arXiv 2410.10989, section 3.2), in plain torch.

N positions, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

IGNORED = -100  # cross_entropy's own value for a target that does not count
CHUNK_LOGITS = 2**22  # numbers computed at a time


def loss_sums(
    model: nn.Module, inputs: Tensor, targets: Tensor, *, is_fused: bool
) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
    """The cross-entropy in nats, the family's own loss, and what it counts: sums over targets that count.

    A model without a separate head (see Family) has no fused loss.
    """
    family: Any = model  # with the methods that Family lists; mypy takes every attribute of a module for a tensor
    if not hasattr(family, "head_parameters"):
        return cross_entropy(model(inputs), targets), 0.0, {}
    if hasattr(family, "hidden_aside"):
        hidden, addition, counts = family.hidden_aside(inputs, targets, is_fused=is_fused)
    else:
        hidden, addition, counts = family.hidden(inputs), 0.0, {}
    if is_fused:
        weight, bias = family.head_parameters()
        return fused_cross_entropy(hidden, weight, bias, targets)[0], addition, counts
    logits = family.logits(hidden)
    del hidden  # as large as a small vocabulary's logits
    return cross_entropy(logits, targets), addition, counts


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum in nats over targets that count; logits: (.., V), targets: (..)."""
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten(), ignore_index=IGNORED, reduction="sum")


def fused_cross_entropy(hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> tuple[Tensor, Tensor]:
    """`cross_entropy` of hidden weight' + bias, and how unsure each position is: 1 - its largest probability, (..).

    hidden: (.., D), weight: (V, D), bias: (V,), targets: (..). The second result has no gradient. Products are taken in
    autocast's type where it is on. Backward can run once.
    """
    needs_gradients = torch.is_grad_enabled()
    dtype = product_dtype(hidden.device, weight.dtype)
    loss, doubt = _FusedCrossEntropy.apply(
        hidden.flatten(0, -2), weight, bias, targets.flatten(), dtype, needs_gradients
    )
    return loss, doubt.view(targets.shape)


def product_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The type of the matrix products' operands: autocast's, if it is on."""
    is_on = torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if is_on else dtype


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        dtype: torch.dtype,
        needs_gradients: bool,
    ) -> tuple[Tensor, Tensor]:
        full = torch.promote_types(dtype, torch.float32)
        low_weight, low_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        loss, doubt = hidden.new_zeros((), dtype=full), hidden.new_empty(len(hidden), dtype=full)
        if needs_gradients:
            d_hidden = torch.empty_like(hidden, dtype=dtype) if ctx.needs_input_grad[0] else None
            d_weight = torch.zeros_like(weight, dtype=full)
            d_bias = None if bias is None else torch.zeros_like(bias, dtype=full)
        rows = chunk_rows(len(weight))
        for first in range(0, len(hidden), rows):
            part = slice(first, first + rows)
            h, target = hidden[part].to(dtype), targets[part, None]
            counted, target = target >= 0, target.clamp_min(0)
            x = F.linear(h, low_weight, low_bias).to(full)  # (n, V): logits, overwritten by what is computed from them
            own, top = x.gather(1, target), x.amax(1, keepdim=True)
            x.sub_(top).exp_()
            sums = x.sum(1, keepdim=True)
            log_sums = sums.log()
            loss += torch.where(counted, log_sums + (top - own), 0.0).sum()
            doubt[part] = -torch.expm1(-log_sums).squeeze(1)
            if needs_gradients:
                x.mul_(counted / sums).scatter_add_(1, target, -counted.to(full))
                if d_bias is not None:
                    d_bias += x.sum(0)
                x = x.to(dtype)
                if d_hidden is not None:
                    d_hidden[part] = x @ low_weight
                if dtype == full:
                    d_weight.addmm_(x.mT, h)
                else:
                    d_weight += x.mT @ h
            del x  # before the next part's logits are computed
        if needs_gradients:
            ctx.save_for_backward(d_hidden, d_weight, d_bias)
            ctx.hidden_dtype = hidden.dtype
        ctx.mark_non_differentiable(doubt)
        return loss, doubt

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        d_hidden, d_weight, d_bias = (None if d is None else d.mul_(d_loss) for d in ctx.saved_tensors)
        return None if d_hidden is None else d_hidden.to(ctx.hidden_dtype), d_weight, d_bias, None, None, None


def chunk_rows(vocab_size: int) -> int:
    """How many positions' logits are computed at a time."""
    return max(1, CHUNK_LOGITS // vocab_size)
