"""Files of tokens: checked, recognised if their width is not as given, and split like text."""

from __future__ import annotations

import hashlib
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.text.collection import HASH_BYTES, Documents, parts_of
from trainer.text.errors import CorpusError, shown, unreadable
from trainer.text.names import PARTS, TRAIN
from trainer.text.sources import Sources
from trainer.text.split import Split

CHUNK_BYTES = 16 * 2**20
LOOKED_AT = 2**16  # values from which the width is recognised
FEWEST = 16  # values needed for that
ALIKE = 0.2  # below this, bytes are alike; the frequencies of upper and lower bytes of wider tokens differ more

_MAGIC = {
    b"PK\x03\x04": "an archive, such as a PyTorch checkpoint",
    b"\x93NUMPY": "a NumPy array with a header (save it with .tofile)",
    b"GGUF": "a GGUF model",
    b"\x89HDF": "an HDF5 file",
    b"PAR1": "a Parquet file (name it .parquet)",
    b"\x1f\x8b": "compressed (unpack it)",
    b"\x28\xb5\x2f\xfd": "compressed (unpack it)",
}
_HEADERS = (20240520, 20240801)  # llm.c's files of GPT-2 and Llama 3 tokens begin with 256 whole numbers of 4 bytes


@dataclass(frozen=True)
class Stretch:
    """Tokens [first, last) of a file."""

    path: Path
    first: int
    last: int


def collect_tokens(sources: Sources, vocab_size: int, dtype: np.dtype[Any]) -> Documents:
    """Every file as a document. Raises CorpusError unless all are whole tokens of the vocabulary."""
    sizes, digests = array("q"), array("Q")
    for file in sources.files:
        digest = hashlib.blake2b(f"{dtype}".encode(), digest_size=HASH_BYTES)
        sizes.append(_check(file.path, vocab_size, dtype, digest))
        digests.append(int.from_bytes(digest.digest()))
    return Documents(
        np.array(sizes, np.int64), np.array(digests, np.uint64), np.array(parts_of(sources), np.int8), sources.left_out
    )


def stretches_of(sources: Sources, documents: Documents, split: Split, width: int) -> dict[str, list[Stretch]]:
    """The tokens of each part: a stretch for each file or end of a file."""
    found: dict[str, list[Stretch]] = {part: [] for part in PARTS}
    for file, size, part, cut in zip(sources.files, documents.sizes, split.part, split.cuts, strict=True):
        last = int(size) // width
        at = min(max(1, int(cut) // width), last - 1) if cut else 0
        if at:
            found[TRAIN].append(Stretch(file.path, 0, at))
        if part >= 0 and last > at:
            found[PARTS[part]].append(Stretch(file.path, at, last))
    return found


def join(stretches: list[Stretch], dtype: np.dtype[Any], target: Path) -> None:
    """Write stretches of tokens one after another into one file."""
    with open(target, "wb") as joined:
        for stretch in stretches:
            with open(stretch.path, "rb") as file:
                file.seek(stretch.first * dtype.itemsize)
                left = (stretch.last - stretch.first) * dtype.itemsize
                while left and (chunk := file.read(min(left, 2**24))):
                    joined.write(chunk)
                    left -= len(chunk)


def _check(path: Path, vocab_size: int, dtype: np.dtype[Any], digest: Any) -> int:
    """Add a file of tokens to the digest; returns its size in bytes. Raises CorpusError, saying what it looks like."""
    size = 0
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                if size == 0 and (fault := _fault_of_start(chunk, vocab_size, dtype)):
                    raise CorpusError(f"{shown(path)}: {fault}")
                size += len(chunk)
                if len(chunk) % dtype.itemsize:
                    raise CorpusError(
                        f"{shown(path)}: not a whole number of {dtype} tokens; set token_dtype (--token-dtype) to what "
                        "it holds"
                    )
                digest.update(chunk)
                highest = int(np.frombuffer(chunk, dtype).max())
                if highest >= vocab_size:
                    raise CorpusError(
                        f"{shown(path)}: token {highest} is outside vocab_size {vocab_size}; raise vocab_size above "
                        f"it, or set token_dtype (--token-dtype) if the tokens are not {dtype}"
                    )
    except OSError as error:
        raise unreadable(path, error) from None
    if not size:
        raise CorpusError(f"{shown(path)}: the file is empty")
    return size


def _fault_of_start(chunk: bytes, vocab_size: int, dtype: np.dtype[Any]) -> str:
    """Why a file that begins like this does not hold such tokens; empty if nothing indicates it."""
    for magic, what in _MAGIC.items():
        if chunk.startswith(magic):
            return f"the file is {what}, not tokens"
    if len(chunk) >= 1024 and int.from_bytes(chunk[:4], "little") in _HEADERS:
        return "the file has a header of 1,024 bytes, as llm.c writes; cut it off (tail -c +1025 FILE > NEW)"
    found = _evident_width(chunk, vocab_size)
    if not found or found == dtype.name:
        return ""
    if found in ("uint16", "uint32"):
        return f"the tokens are evidently {found}, not {dtype}; set token_dtype to it (--token-dtype {found})"
    return f"the tokens are evidently {found}; write them as uint16 or uint32 (numpy: .astype('uint16').tofile(FILE))"


def _evident_width(chunk: bytes, vocab_size: int) -> str:
    """The type that a file's values indicate; empty if there are too few or it is not evident.

    Wider tokens read as uint16 are lanes, and all but the first contain only what is left of the vocabulary.
    """
    values = np.frombuffer(chunk[: len(chunk) // 2 * 2], "<u2")[:LOOKED_AT]
    if len(values) < FEWEST:
        return ""
    lanes = [values[i::4].astype(np.int64) for i in range(4)]
    highest = [int(lane.max(initial=0)) for lane in lanes]
    high_part = (vocab_size - 1) >> 16
    if highest[0] > max(high_part, 1) and highest[1] <= high_part and highest[2] == highest[3] == 0:
        return "int64"
    if max(highest[0], highest[2]) > max(high_part, 1) and max(highest[1], highest[3]) <= high_part:
        return "uint32"
    wide = np.frombuffer(chunk[: len(chunk) // 4 * 4], "<u4")[:LOOKED_AT]
    if int(wide.max(initial=0)) < vocab_size:
        return ""  # either is possible
    if int(wide.byteswap().max(initial=0)) < vocab_size:
        return "big-endian uint32"
    if max(highest) < vocab_size:
        return "uint16"
    if int(values.byteswap().max()) < vocab_size:
        return "big-endian uint16"
    even, odd = (np.bincount(np.frombuffer(chunk[i : 2 * LOOKED_AT : 2], np.uint8), minlength=256) for i in (0, 1))
    if np.count_nonzero(even) >= FEWEST and np.abs(even / even.sum() - odd / odd.sum()).sum() < ALIKE:
        return "uint8"
    return ""
