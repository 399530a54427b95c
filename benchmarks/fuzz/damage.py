"""Bytes with something wrong with them: what disks, editors, transfers and pranksters do to a file."""

from __future__ import annotations

import random
from collections.abc import Callable

MAX_CHANGES = 4  # to one file

FRAGMENTS = (
    b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xc3\x28", b"\xed\xa0\x80", "\u2028".encode(), b"\r", b"\t", b"\x1b[31m",
    b"NaN", b"-1", b"1e999", b"99999999999999999999999999", b"9" * 5000, b"9**9**9", b"-0.0", b"true", b"null", b'""',
    b"{}", b"[]", b"[" * 2000, b"{" * 2000, b'{"a":' * 2000, b"(" * 200, b"- " * 500, b"a" * 10_000, b"&a [*a, *a]",
    b"<<: *a", b"!!python/object/apply:os.system ['true']", b"!!binary aGk=", b"---", b"...", b"%YAML 9\n", b"? [a]: b",
)  # fmt: skip


def damaged(content: bytes, rng: random.Random) -> bytes:
    """The content with one to MAX_CHANGES changes."""
    for _ in range(rng.randint(1, MAX_CHANGES)):
        content = rng.choice(CHANGES)(content, rng)
    return content


def flip_bits(content: bytes, rng: random.Random) -> bytes:
    flipped = bytearray(content)
    for _ in range(rng.randint(1, 8) if content else 0):
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def cut_the_end(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randint(0, len(content))]


def cut_out(content: bytes, rng: random.Random) -> bytes:
    start = rng.randint(0, len(content))
    return content[:start] + content[start + rng.choice((1, 10, 200)) :]


def insert_a_fragment(content: bytes, rng: random.Random) -> bytes:
    at = rng.randint(0, len(content))
    return content[:at] + rng.choice(FRAGMENTS) + content[at:]


def replace_a_word(content: bytes, rng: random.Random) -> bytes:
    words = content.split(b" ")
    words[rng.randrange(len(words))] = rng.choice((rng.choice(FRAGMENTS), rng.choice(words)))
    return b" ".join(words)


def replace_digits(content: bytes, rng: random.Random) -> bytes:
    places = [i for i, byte in enumerate(content) if byte in b"0123456789"]
    if not places:
        return content
    at = rng.choice(places)
    return content[:at] + rng.choice((b"0", b"-1", b"1e400", b"9" * 400, b"0.5", b"nan", b"x")) + content[at + 1 :]


def move_lines(content: bytes, rng: random.Random) -> bytes:
    """Some lines doubled, dropped, or in another order."""
    lines = content.split(b"\n")
    start = rng.randrange(len(lines))
    part = lines[start : start + rng.randint(1, 5)]
    rest = lines[:start] + lines[start + len(part) :]
    if rng.random() < 0.3:
        return b"\n".join(rest)
    at = rng.randint(0, len(rest))
    rest[at:at] = part * rng.choice((1, 1, 2))
    return b"\n".join(rest)


CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip_bits,
    cut_the_end,
    cut_out,
    insert_a_fragment,
    replace_a_word,
    replace_digits,
    move_lines,
    move_lines,
)
