"""A file's bytes in order, uncompressed on the way if its name says that they are compressed."""

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
    """The file for reading. Raises CorpusError for whatever keeps it from being read to its end, naming it."""
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
        if error.errno is None:  # what the decompressors say
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
    return io.BufferedReader(_zstd(path), CHUNK_BYTES)


def _xz(path: Path) -> Any:
    import lzma

    @contextlib.contextmanager
    def reading() -> Iterator[IO[bytes]]:
        try:
            with lzma.open(path, "rb") as stream:
                yield stream
        except lzma.LZMAError as error:
            raise CorpusError(f"{shown(path)}: the compressed file is damaged ({error}); fetch it again") from None

    return reading()


def _zstd(path: Path) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise CorpusError(
            f"{shown(path)}: .zst is read with pyarrow, which is not installed: pip install pyarrow"
        ) from None
    return pyarrow.CompressedInputStream(pyarrow.OSFile(str(path)), "zstd")
