"""Writes the parts of a split text, and finds positions in the held-out part where every vocabulary starts a token.

Documents are cut at the end of a line, else of a word, else between two characters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from trainer.text.collection import Documents
from trainer.text.names import PARTS, TRAIN
from trainer.text.split import Split

CUT_WINDOW = 0.025  # of a document's bytes, before and after the wanted position of its cut
MAX_WINDOW_BYTES = 2**16
COPY_BYTES = 2**20
SHORT_BYTES = 10  # size of a document whose last two bytes would be more than a fifth
MARK_BYTES = 1024  # between two marks of the held-out text, about


def write_parts(everything: Path, documents: Documents, split: Split, targets: dict[str, Path]) -> str:
    """Write each part's text; returns a digest of all parts, which is the same for the same parts from any source."""
    digest = hashlib.sha256()
    with open(everything, "rb") as source:
        for part, target in targets.items():
            hashed = hashlib.sha256()
            with open(target, "wb") as file:
                writer = _Writer(file, hashed)
                for start, end in _stretches(documents, split, PARTS.index(part), source):
                    writer.copy(source, start, end)
            digest.update(f"{part} {hashed.hexdigest()} ".encode())
    return digest.hexdigest()


class _Writer:
    """Writes stretches of text one after another, with a line end between two."""

    def __init__(self, file: IO[bytes], hashed: Any) -> None:
        self._file, self._hashed = file, hashed
        self._last = b"\n"

    def copy(self, source: IO[bytes], start: int, end: int) -> None:
        if self._last != b"\n":
            self._write(b"\n")
        source.seek(start)
        while start < end:
            chunk = source.read(min(COPY_BYTES, end - start))
            self._write(chunk)
            start += len(chunk)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hashed.update(data)
        self._last = data[-1:] or self._last


def _stretches(documents: Documents, split: Split, part: int, source: IO[bytes]) -> Iterator[tuple[int, int]]:
    """The offsets of a part's text in the file; adjacent documents form one stretch."""
    is_training = part == PARTS.index(TRAIN)
    begun = ended = 0
    is_there = (split.part == part) | (split.cuts > 0 if is_training else False)
    for i in np.flatnonzero(is_there):
        start, end = int(documents.starts_at[i]), int(documents.starts_at[i] + documents.sizes[i])
        if split.cuts[i]:
            cut = start + _cut_of(source, start, end, int(split.cuts[i]))
            start, end = (start, cut) if is_training else (cut, end)
        if start != ended:
            if ended > begun:
                yield begun, ended
            begun = start
        ended = end
    if ended > begun:
        yield begun, ended


def _cut_of(source: IO[bytes], start: int, end: int, wished: int) -> int:
    """The best position to cut a document near the wanted one, in bytes from its start; both sides keep something."""
    size = end - start
    if size >= SHORT_BYTES:
        wished = min(wished, size - 2)  # its last byte is a line end: hold out something else too
    reach = min(MAX_WINDOW_BYTES, int(size * CUT_WINDOW))
    low, high = max(1, wished - reach), min(size - 1, wished + reach)
    origin = max(0, min(low, wished) - 4)
    source.seek(start + origin)
    text = source.read(min(size, high + 4) - origin)
    view = np.frombuffer(text, np.uint8)
    for character in b"\n ":
        places = np.flatnonzero(view == character) + origin + 1
        places = places[(places >= low) & (places <= high)]
        if len(places):
            return int(places[np.argmin(np.abs(places - wished))])
    for position in (*range(wished, origin, -1), *range(wished + 1, origin + len(text))):
        if 0 < position < size and text[position - origin] & 0xC0 != 0x80:  # 10xxxxxx continues a UTF-8 character
            return position
    return wished


def marks_of(held_out: Path) -> np.ndarray:
    """Byte offsets (M,), int64, in a held-out text at which a token starts in every vocabulary, evenly spaced.

    The pattern before BPE ends a piece wherever white space follows something else. So no token spans such a position,
    and the text between two of them is the same for every vocabulary.
    """
    found: list[int] = []
    size = held_out.stat().st_size
    with open(held_out, "rb") as file:
        position = 1
        while position < size:
            file.seek(position - 1)
            window = file.read(MARK_BYTES + 8)
            if (at := _piece_end(window)) is not None:
                found.append(position - 1 + at)
            position += MARK_BYTES
    return np.unique(np.array(found, dtype=np.int64))


def marks_in_tokens(tokens: np.ndarray, token_bytes: np.ndarray, marks: np.ndarray) -> np.ndarray:
    """The marks of a text, given as byte offsets, as token indices, (M,), int64."""
    found, position, chunk = [], 0, 2**20
    for start in range(0, len(tokens), chunk):
        ends = position + np.cumsum(token_bytes[tokens[start : start + chunk]], dtype=np.int64)
        here = marks[(marks > position) & (marks <= ends[-1])]
        found.append(start + np.searchsorted(ends, here) + 1)
        position = int(ends[-1])
    return np.concatenate(found).astype(np.int64) if found else np.empty(0, np.int64)


def _piece_end(window: bytes) -> int | None:
    """The first position in a window at which ASCII white space follows a printable ASCII character."""
    view = np.frombuffer(window, np.uint8)
    is_space = (view == 0x20) | (view == 0x0A)
    is_printed = (view > 0x20) & (view < 0x7F)
    places = np.flatnonzero(is_printed[:-1] & is_space[1:])
    if len(places):
        return int(places[0]) + 1
    # A script without spaces: a line end after a character of several bytes that is not white space.
    for at in np.flatnonzero(view == 0x0A).tolist():
        text = window[max(0, at - 4) : at].decode("utf-8", "ignore")
        if text and not text[-1].isspace():
            return at
    return None
