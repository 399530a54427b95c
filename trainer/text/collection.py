"""Collects all documents of some sources in one file, with what the split needs to know of each."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np

from trainer.text.documents import read_documents
from trainer.text.errors import CorpusError
from trainer.text.names import PARTS, parts_by_name
from trainer.text.sources import LeftOut, Sources

HASH_BYTES = 8
PROGRESS_BYTES = 256 * 2**20  # of text between two lines of progress


@dataclass
class Documents:
    """Documents one after another in one file; for each its size in bytes, its digest, and the part its name asks for.

    The digest ignores white space around the text, so that copies are recognised in any file.
    """

    sizes: np.ndarray  # (D,), int64
    digests: np.ndarray  # (D,), uint64
    asked: np.ndarray  # (D,), int8: an index of PARTS; -1 if no name asks for one
    left_out: LeftOut = field(default_factory=LeftOut)

    @cached_property
    def starts_at(self) -> np.ndarray:
        """The offset of each document in the file, (D,), int64."""
        return np.cumsum(self.sizes) - self.sizes


def collect(
    sources: Sources,
    target: Path,
    *,
    text_key: str,
    skip_bad: bool,
    on_progress: Callable[[str], None] | None = None,
) -> Documents:
    """Write every document that is not empty to `target`, each with a line end after it.

    Raises CorpusError if there are none, or if some cannot be read.
    """
    collector = _Collector(sources.about, on_progress)
    asked = parts_of(sources)
    with open(target, "wb") as collector.file:
        for file, part in zip(sources.files, asked, strict=True):
            collector.part = part
            try:
                for chunks in read_documents(file, text_key=text_key, skip_bad=skip_bad, left_out=collector.left_out):
                    collector.add(chunks)
            except CorpusError as error:
                if skip_bad:
                    collector.left_out.add("files that cannot be read (--skip-bad)", "/".join(file.components))
                elif file.is_named or "--skip-bad" in str(error):
                    raise
                else:
                    raise CorpusError(f"{error}; --skip-bad leaves out what cannot be read") from None
    documents = collector.documents()
    if not len(documents.sizes):
        left_out = "; ".join(documents.left_out.lines())
        raise CorpusError(
            f"{sources.about}: the text is empty; give a file with something to learn from"
            + (f" (left out: {left_out})" if left_out else "")
        )
    return documents


def parts_of(sources: Sources) -> list[int]:
    """The part that each source's name asks for, as an index of PARTS; -1 if it asks for none."""
    if not sources.may_split_by_name:
        return [-1] * len(sources.files)
    names = parts_by_name([file.components for file in sources.files])
    return [PARTS.index(name) if name else -1 for name in names]


class _Collector:
    file: IO[bytes]
    part: int

    def __init__(self, about: str, on_progress: Callable[[str], None] | None) -> None:
        self.left_out = LeftOut()
        self._about, self._on_progress = about, on_progress
        self._sizes, self._digests, self._asked = array("q"), array("Q"), array("b")
        self._position = self._next_progress = 0

    def add(self, chunks: Iterator[bytes]) -> None:
        """Add one document; if it cannot be read to its end, what was written of it is removed."""
        start, last, digest = self._position, b"", _TextDigest()
        try:
            for chunk in chunks:
                self._write(chunk)
                digest.update(chunk)
                last = chunk
        except CorpusError:
            self.file.seek(start)
            self.file.truncate()
            self._position = start
            raise
        if not digest.is_empty:
            if not last.endswith(b"\n"):
                self._write(b"\n")
            self._sizes.append(self._position - start)
            self._digests.append(digest.value)
            self._asked.append(self.part)
        elif self._position > start:
            self.file.seek(start)
            self.file.truncate()
            self._position = start

    def documents(self) -> Documents:
        return Documents(
            sizes=np.array(self._sizes, dtype=np.int64),
            digests=np.array(self._digests, dtype=np.uint64),
            asked=np.array(self._asked, dtype=np.int8),
            left_out=self.left_out,
        )

    def _write(self, chunk: bytes) -> None:
        self.file.write(chunk)
        self._position += len(chunk)
        if self._position >= self._next_progress + PROGRESS_BYTES:
            self._next_progress = self._position
            if self._on_progress:
                self._on_progress(f"reading the text: {self._position / 1e6:,.0f} MB, {len(self._sizes):,} documents")


class _TextDigest:
    """A digest of a text that comes in chunks, without the white space before and after it."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=HASH_BYTES)
        self._space = b""  # part of the text only if more follows
        self.is_empty = True

    def update(self, chunk: bytes) -> None:
        if self.is_empty:
            chunk = chunk.lstrip()
        body = chunk.rstrip()
        if not body:
            self._space += chunk
            return
        self.is_empty = False
        self._hash.update(self._space + body)
        self._space = chunk[len(body) :]

    @property
    def value(self) -> int:
        return int.from_bytes(self._hash.digest())
