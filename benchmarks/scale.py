"""Each family's space cut to what one CPU core trains in seconds: which part is kept, and configurations drawn of it.

The cuts concern cost alone: sizes, windows, the tokens of a step and (transformer) the vocabulary. Every other
parameter, the learning rate above all, keeps its full documented range. Configurations are drawn as the search draws
them at random, and must pass the same test.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from search.space.drawing import random_values
from search.space.expression import ExpressionError
from search.space.loading import load_space
from search.space.parameter import Parameter, Value, Values
from search.space.space import Space
from search.strategy.feasibility import Feasibility
from trainer.config import TrainConfig
from trainer.estimate import estimate
from trainer.families.family import BYTE_VOCAB_SIZE

SPACES = Path(__file__).resolve().parent.parent / "spaces"
NUM_PARTS = 27  # of a budget: a power of eta, 3, so that the search's rungs are among their ends
MAX_DRAWS = 100_000  # in a row that find nothing


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What is kept of a family's space, and how long its trainings are."""

    family: str
    space_file: str
    cuts: Mapping[str, tuple[float, float]]  # the smallest and the largest value of a parameter
    fixed: Mapping[str, Value] = field(default_factory=dict)
    step_tokens: tuple[int, int]  # of an optimizer step, the least and the most
    max_flops_per_token: float  # training, by trainer/estimate.py
    budget_tokens: int

    @cached_property
    def space(self) -> Space:
        space = load_space(SPACES / self.space_file)
        return replace(space, parameters={name: self._cut(p) for name, p in space.parameters.items()})

    @property
    def grid(self) -> tuple[int, ...]:
        """The ends of the budget's equal parts, in tokens."""
        return tuple(self.budget_tokens * part // NUM_PARTS for part in range(1, NUM_PARTS + 1))

    def draw(self, num: int, seed: int) -> list[dict[str, Value]]:
        """That many different configurations; more of them begin with the same ones.

        Raises ValueError where the space has hardly any of this scale.
        """
        rng = np.random.default_rng([seed, *self.family.encode()])
        feasibility = Feasibility(self.space, self.grid, self.space.spec.limits)
        found: list[dict[str, Value]] = []
        num_failed = 0
        while len(found) < num:
            try:
                values = random_values(self.space, rng)
            except ExpressionError:
                values = {}
            if values and values not in found and not feasibility.reasons_against(values) and self._fits(values):
                found.append(values)
                num_failed = 0
            elif (num_failed := num_failed + 1) > MAX_DRAWS:
                raise ValueError(f"{self.family}: only {len(found)} configurations of this scale were found, not {num}")
        return found

    def train_config(self, values: Values, rungs: tuple[int, ...], **changes: Any) -> TrainConfig:
        """A training on one CPU thread and the embedded corpus; `changes` win over the configuration's values."""
        return self.space.train_config({**values, "device": "cpu", "num_threads": 1, **changes}, rungs=rungs)

    def describe(self) -> dict[str, Any]:
        """As plain values, for the record."""
        return {
            "space": self.space_file,
            "cuts": {name: list(ends) for name, ends in self.cuts.items()},
            "fixed": dict(self.fixed),
            "step_tokens": list(self.step_tokens),
            "max_flops_per_token": self.max_flops_per_token,
            "budget_tokens": self.budget_tokens,
        }

    def _cut(self, parameter: Parameter) -> Parameter:
        if parameter.name in self.fixed:
            return parameter.fixed_to(self.fixed[parameter.name])
        if parameter.name not in self.cuts:
            return parameter
        low, high = self.cuts[parameter.name]
        if parameter.is_range:
            return replace(parameter, at_least=low, at_most=high)
        return replace(parameter, choices=tuple(choice for choice in parameter.choices if low <= choice <= high))

    def _fits(self, values: Values) -> bool:
        config = self.train_config(values, self.grid)
        least, most = self.step_tokens
        return least <= config.tokens_per_step <= most and estimate(config).flops_per_token <= self.max_flops_per_token


SCALES = {
    scale.family: scale
    for scale in (
        Scale(
            family="hybrid",
            space_file="hybrid.yaml",
            cuts={"d_model": (16, 64), "n_layers": (2, 5), "seq_len": (32, 128), "batch_size": (2, 16)},
            step_tokens=(128, 512),
            max_flops_per_token=0.4e6,
            budget_tokens=27 * 1024,
        ),
        Scale(
            family="ghost",
            space_file="ghost.yaml",
            cuts={"dim": (64, 64), "layers": (2, 4), "seq_len": (32, 128), "batch_size": (4, 16)},
            step_tokens=(128, 512),
            max_flops_per_token=2e6,
            budget_tokens=27 * 384,
        ),
        Scale(
            family="transformer",
            space_file="robo.yaml",
            cuts={
                "d_model": (64, 128),
                "n_layers": (2, 4),
                "n_kv_heads": (1, 2),
                "d_ff": (128, 384),
                "context_length": (64, 128),
                "batch_size": (4, 8),
                "accumulate_grad_batches": (1, 2),
            },
            fixed={"vocab_size": BYTE_VOCAB_SIZE},
            step_tokens=(128, 512),
            max_flops_per_token=2.5e6,
            budget_tokens=27 * 512,
        ),
        Scale(
            family="bdh",
            space_file="bdh.yaml",
            cuts={
                "n_embd": (64, 64),
                "n_layer": (2, 4),
                "mlp_internal_dim_multiplier": (16, 32),
                "seq_len": (64, 128),
                "batch_size": (1, 8),
            },
            step_tokens=(64, 512),
            max_flops_per_token=7e6,
            budget_tokens=27 * 256,
        ),
    )
}
