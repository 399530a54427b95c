"""Sentences about what was read of a text and what was left out."""

from __future__ import annotations

import textwrap

from trainer.checks import counted
from trainer.corpus import Corpus
from trainer.text.sources import LeftOut


def reading_lines(corpus: Corpus) -> list[str]:
    """How much text was found, how it was split, and what was left out, by kind."""
    read = corpus.read
    if "files" not in read:  # a corpus that was copied from another machine
        return [corpus.about]
    sizes = [read["train_bytes"], read["validation_bytes"], read["test_bytes"]]
    total = sum(sizes)
    files = f"{counted(read['files'], 'file')}, {counted(read['documents'], 'document')}, {size_text(total)}"
    held_out = f"{sizes[1] / total:.1%} held out: {read['split']}"
    if sizes[2]:
        held_out += f"; {sizes[2] / total:.1%} is a test part, not used by the search"
    lines = [f"text: {files}", f"  {held_out}"]
    if corpus.token_bytes is None or corpus.vocab_size != 256:
        lines.append(f"  {tokens_line(corpus)}")
    found = LeftOut.from_dict(read["left_out"]).lines()
    return lines + [
        line
        for kind in found
        for line in textwrap.wrap(f"left out: {kind}", 79, initial_indent="  ", subsequent_indent="    ")
    ]


def tokens_line(corpus: Corpus) -> str:
    """How many tokens there are, and how much text each one holds, if that is known."""
    tokens = f"{len(corpus.train):,} tokens to train on, {len(corpus.validation):,} held out"
    if corpus.bytes_per_token is None:
        return tokens
    return f"vocabulary of {corpus.vocab_size:,}: {tokens}, {corpus.bytes_per_token:.2f} bytes each"


def size_text(num_bytes: int) -> str:
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if num_bytes >= size:
            return f"{num_bytes / size:.3g} {unit}"
    return f"{num_bytes} bytes"
