"""Cuts a text of any length into short pieces, so that learning and encoding tokens need bounded memory and time.

A piece ends where GPT-2's pattern ends a word whatever follows: before white space, or after a letter or digit that is
not followed by another one. So the tokens of the pieces together are those of the whole text. The one exception is a
run of more than MAX_WORD letters, digits, white space or other characters: it is cut after each MAX_WORD characters,
because the time for a word can grow with the square of its length. Python's Unicode tables decide what a letter is.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

PIECE = 4096  # characters at most
MAX_WORD = 256  # characters; divides PIECE, so that a long run is cut evenly
CHUNK_BYTES = 2**16

_WHITE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # Unicode's White_Space
_LAST_BOUNDARY = re.compile(rf"(?s:.+)(?:(?<=[^{_WHITE}])(?=[{_WHITE}])|(?<=[^\W_])(?=[\W_]))")
_KINDS = (r"[^\W\d_]", r"\d", rf"[{_WHITE}]", rf"(?:[^\w{_WHITE}]|_)")
_LONG_WORD = re.compile("|".join(f"{kind}{{{MAX_WORD + 1},}}" for kind in _KINDS))
_WITHIN_ONE = re.compile("|".join(f"{kind}+" for kind in _KINDS))
WORD = re.compile("|".join(f" ?{kind}+" for kind in _KINDS))  # nearly what the tokenizer's pattern matches


def read_characters(path: Path, first: int = 0, last: int | None = None, errors: str = "strict") -> Iterator[str]:
    """The text of these bytes of a file, a chunk at a time. Raises UnicodeDecodeError unless errors are ignored."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors)
    with open(path, "rb") as file:
        file.seek(first)
        while chunk := file.read(CHUNK_BYTES if last is None else min(CHUNK_BYTES, last - file.tell())):
            yield decoder.decode(chunk)
    yield decoder.decode(b"", final=True)


def pieces(chunks: Iterable[str]) -> Iterator[str]:
    """The text's pieces; they depend only on the text, not on its chunks."""
    rest = ""
    for chunk in chunks:
        rest, start = rest + chunk, 0
        while len(rest) - start > PIECE:
            boundary = _LAST_BOUNDARY.match(rest, start, start + PIECE + 1)
            end = boundary.end() if boundary else start + PIECE
            yield from _cut_long_words(rest[start:end])
            start = end
        rest = rest[start:]
    if rest:
        yield from _cut_long_words(rest)


def _cut_long_words(piece: str) -> Iterator[str]:
    start = 0
    if _may_have_long_word(piece):
        for word in _LONG_WORD.finditer(piece):
            for end in range(word.start() + MAX_WORD, word.end(), MAX_WORD):
                yield piece[start:end]
                start = end
    yield piece[start:]


def _may_have_long_word(piece: str) -> bool:
    """Whether an aligned half of a MAX_WORD in the piece is of one kind, as in every long word; a fast check."""
    half = MAX_WORD // 2
    return any(
        (run := _WITHIN_ONE.match(piece, start)) is not None and run.end() >= start + half
        for start in range(0, len(piece), half)
    )
