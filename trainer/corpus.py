"""A corpus: training and held-out tokens, memory-mapped from one cached copy that all trials on a machine share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trainer.text.errors import CorpusError

NUM_STRETCHES = 8  # of held-out text: enough to cover most kinds of it, few enough to be long


@dataclass(frozen=True, kw_only=True)
class Corpus:
    train: np.ndarray  # 1-D, memory-mapped, read-only
    validation: np.ndarray
    vocab_size: int
    token_bytes: np.ndarray | None  # UTF-8 bytes of each token, (V,); None if tokens came without a tokenizer
    digest: str  # of the text, the split and the tokenizer
    about: str
    test: np.ndarray | None = None  # held out from the search too; None if the text has no such part
    marks: np.ndarray | None = None  # (M,), int64: where stretches of `validation` may start and end
    read: Mapping[str, Any] = field(default_factory=dict)  # what was read, and how it was split; see data.py

    @property
    def bytes_per_token(self) -> float | None:
        """Of the training text; None if tokens came without a tokenizer."""
        num_bytes = self.read.get("train_bytes")
        return num_bytes / len(self.train) if num_bytes and self.token_bytes is not None else None

    def require(self, seq_len: int) -> None:
        """Raises CorpusError if either part has no window of seq_len tokens with their next ones."""
        for part, tokens in (("training", self.train), ("held-out", self.validation)):
            if len(tokens) < seq_len + 1:
                raise CorpusError(
                    f"{self.about}: the {part} part has {len(tokens)} tokens, seq_len {seq_len} needs {seq_len + 1}; "
                    "give more text or shorten seq_len"
                )

    def training_batch(self, key: tuple[int, ...], rows: int, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets (rows, seq_len), int64: random windows, a pure function of the key (seed, step, part).

        The first rows do not depend on the number of rows.
        """
        starts = np.random.default_rng(key).integers(0, len(self.train) - seq_len, size=rows)
        windows = self.train[starts[:, None] + np.arange(seq_len + 1)]
        self._check(windows)
        return windows[:, :-1].astype(np.int64), windows[:, 1:].astype(np.int64)

    def held_out_stretches(self, num_tokens: int) -> list[np.ndarray]:
        """Evenly spaced, non-overlapping stretches of held-out text, in which num_tokens are predicted in total.

        Each has one token more than it predicts. If there is less text than that: all of it, in one stretch.
        """
        available = len(self.validation) - 1
        num_tokens = min(num_tokens, available)
        count = min(NUM_STRETCHES, num_tokens) if num_tokens < available else 1
        spare, stretches = available - num_tokens, []
        for i in range(count):
            gap = i * spare // max(count - 1, 1)
            first, last = i * num_tokens // count, (i + 1) * num_tokens // count
            stretches.append(self.validation[gap + first : gap + last + 1])
            self._check(stretches[-1])
        return stretches

    def held_out_text(self, num_bytes: int) -> list[np.ndarray]:
        """As `held_out_stretches`, with about that many bytes of text: the same bytes in every vocabulary.

        If the text has too few marks to choose from: everything between the first and the last. Raises CorpusError if
        there are none.
        """
        assert self.token_bytes is not None and self.marks is not None
        marks = self.marks[self.marks > 0]
        if len(marks) < 2:
            raise CorpusError(f"{self.about}: the held-out part is too short to be compared between vocabularies")
        per_mark = self.read["validation_bytes"] / len(marks)  # they are about evenly spaced
        span = max(1, round(num_bytes / NUM_STRETCHES / per_mark))
        count = min(NUM_STRETCHES, (len(marks) - 1) // span)
        if count < 2:
            span, count = len(marks) - 1, 1
        spare, stretches = len(marks) - 1 - span * count, []
        for i in range(count):
            first = i * span + i * spare // max(count - 1, 1)
            stretches.append(self.validation[marks[first] - 1 : marks[first + span]])
            self._check(stretches[-1])
        return stretches

    def _check(self, tokens: np.ndarray) -> None:
        """Raises CorpusError for tokens outside the vocabulary, which can appear only through later damage."""
        if len(tokens) and tokens.max() >= self.vocab_size:
            raise CorpusError(
                f"{self.about}: token {tokens.max()} is outside vocab_size {self.vocab_size}: the tokens or their "
                "cache were damaged; delete the cache folder"
            )
