"""Tokens of different vocabularies as amounts of text: each token of a larger vocabulary holds more bytes.

If a study may have several vocabularies, its rungs and its budget count tokens of one of them, the reference's. A trial
with another vocabulary trains as many of its own tokens as hold the same number of bytes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TextUnits:
    """Bytes of text per token for each measured vocabulary; for others, interpolated by their logarithm."""

    bytes_per_token: tuple[tuple[int, float], ...]  # by vocabulary, ascending
    reference: int  # the vocabulary whose tokens a study counts

    @classmethod
    def of(cls, corpus: Mapping[str, Any]) -> TextUnits | None:
        """The units of a study's text; None if it has one vocabulary, or tokens without a tokenizer."""
        measured = corpus.get("bytes_per_token")
        if not measured:
            return None
        known = sorted((int(size), float(num_bytes)) for size, num_bytes in measured.items())
        if not all(math.isfinite(num_bytes) and num_bytes > 0 for _, num_bytes in known):
            raise ValueError(f"bytes_per_token is {measured!r:.60}")
        return cls(tuple(known), int(corpus["reference_vocab_size"]))

    def bytes_in(self, tokens: int, vocab_size: int | None = None) -> int:
        """Bytes of text in this many tokens, of the reference's vocabulary unless another is given."""
        return round(tokens * self._bytes_in_token(self.reference if vocab_size is None else vocab_size))

    def own_rungs(self, rungs: Iterable[int], vocab_size: int) -> tuple[int, ...]:
        """The token counts at which a trial with that vocabulary has trained on each rung's text; ascending."""
        scale = self._bytes_in_token(self.reference) / self._bytes_in_token(vocab_size)
        own: list[int] = []
        for rung in rungs:
            own.append(max(round(rung * scale), own[-1] + 1 if own else 1))
        return tuple(own)

    def _bytes_in_token(self, vocab_size: int) -> float:
        sizes, found = zip(*self.bytes_per_token, strict=True)
        return float(np.interp(math.log(vocab_size), np.log(sizes), found))


def study_tokens(own: int, own_rungs: tuple[int, ...], rungs: tuple[int, ...]) -> int:
    """A trial's own token count in the study's tokens: exact at rungs, interpolated between them."""
    below, own_below = 0, 0
    for rung, own_rung in zip(rungs, own_rungs, strict=True):
        if own < own_rung:
            return min(below + (own - own_below) * (rung - below) // (own_rung - own_below), rung - 1)
        below, own_below = rung, own_rung
    return below + (own - own_below)
