"""A file's bytes in order, decompressed if its name says that they are compressed."""

from __future__ import annotations

import contextlib
import io
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from trainer.text.errors import CorpusError, shown, unreadable
from trainer.text.formats import compression_of

CHUNK_BYTES = 2**20


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The file for reading. Raises CorpusError, naming the file, if it cannot be read to its end."""
    try:
        with _opened(path, compression_of(path)) as stream:
            yield stream
    except EOFError:
        raise CorpusError(
            f"{shown(path)}: the compressed file ends too early; fetch it again or leave it out"
        ) from None
    except zlib.error as error:
        raise CorpusError(f"{shown(path)}: the compressed file is damaged ({error}); fetch it again") from None
    except OSError as error:
        if error.errno is None:  # errors of the decompressors
            raise CorpusError(f"{shown(path)}: the compressed file is damaged ({error}); fetch it again") from None
        raise unreadable(path, error) from None


def chunks_of(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _opened(path: Path, compression: str | None) -> Any:
    if compression is None:
        return open(path, "rb")
    if compression == "gzip":
        import gzip

        return gzip.open(path, "rb")
    if compression == "bz2":
        import bz2

        return bz2.open(path, "rb")
    if compression == "xz":
        return _xz(path)
    return _zstd(path)


@contextlib.contextmanager
def _xz(path: Path) -> Iterator[IO[bytes]]:
    import lzma

    try:
        with lzma.open(path, "rb") as stream:
            yield stream
    except lzma.LZMAError as error:
        raise CorpusError(f"{shown(path)}: the compressed file is damaged ({error}); fetch it again") from None


@contextlib.contextmanager
def _zstd(path: Path) -> Iterator[IO[bytes]]:
    pyarrow = arrow_for(path, ".zst")
    # Opened here, because Arrow does not accept a path that is not UTF-8.
    with open(path, "rb") as file, pyarrow.CompressedInputStream(pyarrow.PythonFile(file), "zstd") as stream:
        yield io.BufferedReader(stream, CHUNK_BYTES)


def arrow_for(path: Path, what: str) -> Any:
    """The package pyarrow. Raises CorpusError if it is not installed, as for the trainer alone."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise CorpusError(
            f"{shown(path)}: {what} is read with pyarrow, which is not installed: pip install pyarrow"
        ) from None
    return pyarrow
