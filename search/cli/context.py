"""Facts about the text, the machine and the model that the conditions of a guide's advice may use."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from search.driver import hardware
from search.space.parameter import Value
from search.space.space import Space
from trainer.corpus import Corpus
from trainer.data import open_corpus
from trainer.estimate import estimate
from trainer.families.family import BYTE_VOCAB_SIZE

CHUNK_TOKENS = 2**22  # a corpus may be larger than memory


def known_context(
    space: Space, data: tuple[Path, ...] = (), *, reading: Mapping[str, Any] | None = None
) -> dict[str, Value]:
    """The known values of spec.CONTEXT, and the default parameters of the space (after `--set`).

    Raises CorpusError if the text cannot be used.
    """
    values = space.complete({})
    config = space.train_config(values, rungs=(1,))
    paths = tuple(str(path.absolute()) for path in data)
    corpus = open_corpus(paths, vocab_size=config.model.vocab_size, **(reading or {}))
    context: dict[str, Any] = {
        "tokens": len(corpus.train),
        "num_params": estimate(config).num_params,
        "num_gpus": hardware.num_gpus(),
        "memory_gib": hardware.ram_bytes() / 2**30,
        **values,
    }
    if corpus.token_bytes is not None:  # the tokens are of a text, whose bytes can be read too
        context |= text_facts(open_corpus(paths, vocab_size=BYTE_VOCAB_SIZE, **(reading or {})))
    if (memory := hardware.smallest_gpu_bytes()) is not None:
        context["vram_gib"] = context["memory_gib"] = memory / 2**30
    return context


def text_facts(corpus: Corpus) -> dict[str, Value]:
    """The bytes of the training text, and two shares of its characters: those that are not ASCII, and those that are
    Chinese, Japanese or Korean (U+3040 to U+A000 and the Hangul syllables).
    """
    text = corpus.train
    num_characters = num_non_ascii = num_cjk = 0
    for start in range(0, len(text), CHUNK_TOKENS):
        first = np.asarray(text[start : start + CHUNK_TOKENS])
        second = np.append(text[start + 1 : start + len(first) + 1], [0] * (start + len(first) == len(text)))
        num_characters += int(np.count_nonzero(first & 0xC0 != 0x80))
        num_non_ascii += int(np.count_nonzero(first >= 0xC0))
        # The first two bytes of three in UTF-8: from E3 81 to E9 BF, and from EA B0 to ED 9E.
        pair = first.astype(np.uint16) << 8 | second.astype(np.uint16)
        is_cjk = (pair >= 0xE381) & (pair < 0xEA00) | (pair >= 0xEAB0) & (pair < 0xED9F)
        num_cjk += int(np.count_nonzero(is_cjk))
    return {
        "corpus_bytes": len(text),
        "non_ascii_fraction": num_non_ascii / num_characters,
        "cjk_fraction": num_cjk / num_characters,
    }
