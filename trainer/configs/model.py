"""What the configs of all families have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.checks import require

if TYPE_CHECKING:
    from trainer.config import TrainConfig

BYTE_VOCAB_SIZE = 256


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What every family's config says about itself. A base of dataclasses, so it has no fields of its own."""

    def faults(self) -> list[str]:
        """One sentence for each reason why this model cannot be built."""
        raise NotImplementedError

    def faults_in(self, run: TrainConfig) -> list[str]:
        """One sentence for each reason why this model, though it can be built, cannot be trained by this run."""
        return []


def no_longer_than(run: TrainConfig, name: str, limit: int) -> list[str]:
    """The run's training window is no longer than the model can read."""
    return require(run.seq_len <= limit, f"seq_len {run.seq_len} is longer than {name} {limit}")
