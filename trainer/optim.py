"""AdamW and its learning rate, the same for every family, so that comparing families compares models."""

from __future__ import annotations

import inspect
import math

import torch
from torch import nn

from trainer.config import TrainConfig

WSD_DECAY_RATIO = 0.2  # of the budget: the decay of warmup-stable-decay (Hägele et al. 2024 find 10-20 % enough)


class AdamW(torch.optim.AdamW):
    """torch's AdamW, without the modules of torch.compile.

    torch's own methods import them to keep the optimizer out of a compiled graph. We compile the model alone, and the
    import takes each process two to three seconds (torch 2.13). The methods themselves are the same.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))


def build_optimizer(model: nn.Module, config: TrainConfig) -> AdamW:
    """AdamW over every parameter; only matrices decay.

    Biases, norms and other vectors do not decay, and neither do embeddings: a rare token's row would shrink at every
    step although it learns at few. A module lists in `undecayed` its parameters that have a matrix's shape but are not
    one.
    """
    undecayed = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    undecayed |= {id(getattr(module, n)) for module in model.modules() for n in getattr(module, "undecayed", ())}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed = [p for p in parameters if p.ndim >= 2 and id(p) not in undecayed]
    kept = [p for p in parameters if p.ndim < 2 or id(p) in undecayed]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": kept, "weight_decay": 0.0}]
    return AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        fused=parameters[0].device.type in ("cpu", "cuda"),  # one kernel, and no temporary copy of the parameters
    )


def lr_factor(config: TrainConfig, tokens: int) -> float:
    """The share of `learning_rate` after `tokens` of the budget: warm-up, then the schedule."""
    progress = min(tokens / config.budget_tokens, 1.0)
    if progress < config.warmup_ratio:
        return progress / config.warmup_ratio
    floor = config.min_lr_ratio
    if config.schedule == "cosine":
        decayed = (progress - config.warmup_ratio) / (1 - config.warmup_ratio)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * decayed))
    if config.schedule == "wsd":
        left = min((1 - progress) / WSD_DECAY_RATIO, 1.0)
        return floor + (1 - floor) * left
    assert config.schedule == "constant", config.schedule
    return 1.0
