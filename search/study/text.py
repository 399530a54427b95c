"""The text of a study: read and cached before it starts, and checked to be the same when it resumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.space.space import Space, extremes
from search.storage.folder import StudyError
from search.study.settings import StudySettings, text_changed
from trainer.corpus import Corpus
from trainer.data import FORMAT, open_corpus
from trainer.reading import reading_lines, tokens_line

MEASURED_SIZES = 4  # vocabularies of a range whose bytes per token are measured; others are interpolated
READING = ("token_dtype", "text_key", "skip_bad")
"""The fields of a training run that say how text is read."""


@dataclass(frozen=True)
class StudyText:
    """A study's text in every vocabulary that was prepared, the reference's first."""

    paths: tuple[str, ...]
    corpora: Mapping[int, Corpus]
    has_all: bool  # whether every vocabulary that a trial may have is among them

    @property
    def reference(self) -> Corpus:
        return next(iter(self.corpora.values()))

    def to_settings(self) -> dict[str, Any]:
        """What a study stores about its text."""
        sizes = sorted(self.corpora)
        kept: dict[str, Any] = {
            "paths": list(self.paths),
            "digest": "+".join(self.corpora[size].digest for size in sizes),
            "about": self.reference.about,
            "format": FORMAT,
        }
        if len(sizes) > 1 and self.reference.token_bytes is not None:
            kept["bytes_per_token"] = {str(size): self.corpora[size].bytes_per_token for size in sizes}
            kept["reference_vocab_size"] = self.reference.vocab_size
        return kept

    def lines(self) -> list[str]:
        """What was read, for people."""
        others = list(self.corpora.values())[1:]
        return reading_lines(self.reference) + [f"  {tokens_line(corpus)}" for corpus in others]


def read_text(
    space: Space,
    paths: Sequence[str],
    reading: Mapping[str, Any],
    *,
    on_progress: Callable[[str], None] | None = None,
) -> StudyText:
    """Read and cache the text for every vocabulary that the space may ask for, or for some of a range of them."""
    sizes, has_all = _vocabularies(space)
    longest = space.parameters.get("seq_len")
    options = {name: reading[name] for name in READING if name in reading}
    corpora = {}
    for size in sizes:
        corpus = corpora[size] = open_corpus(paths, vocab_size=size, on_progress=on_progress, **options)
        if longest is not None:
            corpus.require(int(extremes(space, longest)[1]))
    return StudyText(tuple(paths), corpora, has_all)


def _vocabularies(space: Space) -> tuple[list[int], bool]:
    """The vocabularies to prepare, the default's first, and whether these are all that a trial may have."""
    default = space.train_config(space.complete({}), rungs=(1,)).model.vocab_size
    vocabulary = space.parameters.get("vocab_size")
    if vocabulary is None:
        return [default], True
    if vocabulary.choices:
        return [default, *(int(size) for size in vocabulary.choices if size != default)], True
    low, high = (int(bound) for bound in extremes(space, vocabulary))
    if low == high:
        return [default], True
    between = np.unique(np.geomspace(max(low, 256), max(high, 256), MEASURED_SIZES).round().astype(int))
    return [default, *(int(size) for size in between if size != default)], False


def check_text(settings: StudySettings, *, on_progress: Callable[[str], None] | None = None) -> StudyText:
    """The study's text. Raises StudyError if it is not the text that the study was trained on."""
    found = read_text(settings.space, settings.corpus["paths"], settings.run, on_progress=on_progress)
    if found.to_settings()["digest"] != settings.corpus["digest"]:
        raise StudyError(text_changed(settings.corpus, found.to_settings()))
    return found


def corpus_digests(settings: StudySettings) -> list[str]:
    """The digests of the study's text, one for each vocabulary; empty if a trial may need one that was not read."""
    return settings.corpus["digest"].split("+") if _vocabularies(settings.space)[1] else []
