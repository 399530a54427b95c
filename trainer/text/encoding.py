"""Checks that bytes are UTF-8 as they are read, removes byte order marks, and names other encodings."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterable, Iterator

from trainer.text.errors import CorpusError

MARK = codecs.BOM_UTF8
SAMPLE_BYTES = 2**16
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32LE",  # before UTF-16's, because it begins with that one
    codecs.BOM_UTF32_BE: "UTF-32BE",
    codecs.BOM_UTF16_LE: "UTF-16LE",
    codecs.BOM_UTF16_BE: "UTF-16BE",
}
_CONTROLS = frozenset(range(32)) - frozenset(b"\t\n\r\f\v\x1b\b")


def checked_utf8(chunks: Iterable[bytes], where: str) -> Iterator[bytes]:
    """The chunks, each ending with a whole character, without UTF-8's byte order marks at the start of a line.

    Such a mark is inside a file that was joined from several. Raises CorpusError, saying where, for bytes that are not
    UTF-8, or only by chance: UTF-16 and UTF-32 without a mark, and files padded with NULs.
    """
    rest, position, at_line_start = b"", 0, True
    for number, chunk in enumerate(chunks):
        if number == 0 and (fault := fault_of_sample(chunk[:SAMPLE_BYTES])):
            raise CorpusError(f"{where}: {fault}")
        data = rest + chunk
        end = _checked(data, position, where)
        data, rest = data[:end], data[end:]
        if (null := data.find(b"\0")) >= 0:
            raise CorpusError(f"{where}: {_nulls(data, position, null)}")
        position += end
        while at_line_start and data.startswith(MARK):
            data = data[len(MARK) :]
        at_line_start = data.endswith((b"\n", b"\r")) if data else at_line_start
        while b"\n" + MARK in data:
            data = data.replace(b"\n" + MARK, b"\n")
        if data:
            yield data
    if rest:
        raise CorpusError(
            f"{where}: not UTF-8 at byte {position:,}: the last character is cut off; the file is not whole"
        )


def _checked(data: bytes, position: int, where: str) -> int:
    """How many bytes of the data are whole characters. Raises CorpusError for invalid ones."""
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return error.start
        raise CorpusError(
            f"{where}: not UTF-8 at byte {position + error.start:,} (0x{data[error.start]:02x}); {_remedy(data)}"
        ) from None
    return len(data)


def fault_of_sample(sample: bytes) -> str:
    """What is wrong with a text that begins like this; empty if nothing is."""
    for mark, encoding in _MARKS.items():
        if sample.startswith(mark):
            return f"the text is {encoding}; {_convert(encoding)}"
    encoding = _wide_encoding(sample)
    return f"the text looks like {encoding} without a mark; {_convert(encoding)}" if encoding else ""


def _wide_encoding(sample: bytes) -> str:
    """UTF-16 or UTF-32, if this looks like it: every second byte, or three of four, is a control character or NUL.

    That is so for most alphabets, whose letters share the upper byte. Other text has hardly any control characters.
    """
    if len(sample) < 8 or sum(map(sample.count, map(bytes, zip(_CONTROLS)))) < len(sample) / 8:
        return ""
    lanes = [Counter(sample[i::4]) for i in range(4)]
    size = len(sample) // 4

    def is_upper(*indexes: int) -> bool:
        """Whether nearly all bytes of these lanes are one or a few upper bytes of letters."""
        return all(sum(n for byte, n in lanes[i].items() if byte in _CONTROLS) > 0.6 * size for i in indexes)

    if all(lanes[i][0] > 0.95 * size for i in (2, 3)) and lanes[0][0] < 0.5 * size:
        return "UTF-32LE"
    if all(lanes[i][0] > 0.95 * size for i in (0, 1)) and lanes[3][0] < 0.5 * size:
        return "UTF-32BE"
    if is_upper(1, 3) and not is_upper(0, 2):
        return "UTF-16LE"
    if is_upper(0, 2) and not is_upper(1, 3):
        return "UTF-16BE"
    return ""


def _nulls(data: bytes, position: int, first: int) -> str:
    run = len(data) - first - len(data[first:].lstrip(b"\0"))
    what = (
        "a NUL byte" if run == 1 else f"{run:,} NUL bytes or more" if first + run == len(data) else f"{run:,} NUL bytes"
    )
    return (
        f"{what} at byte {position + first:,}: the file was padded, or is not text; take them out "
        "(tr -d '\\000' < FILE > NEW) or leave the file out"
    )


def _remedy(data: bytes) -> str:
    """What to do about bytes that are not UTF-8."""
    control = sum(data.count(bytes([byte])) for byte in _CONTROLS)
    if control > len(data) / 20:
        return "it looks like a binary file; leave it out"
    return (
        "convert the file (if it is Western European text: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW) or leave it out"
    )


def _convert(encoding: str) -> str:
    return f"convert the file: iconv -f {encoding} -t UTF-8 FILE > NEW"
