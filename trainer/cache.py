"""The cache of corpora: each is a folder named by its digest, with a file for each part and facts in `meta.json`."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainer.corpus import Corpus
from trainer.text.errors import CorpusError, shown

META = "meta.json"
DTYPES = ("uint8", "uint16", "uint32", "int32", "int64")  # of a cached part


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder given, or TINYSEARCH_CACHE, or the user's cache folder."""
    if cache_dir is not None:
        return Path(cache_dir)
    if folder := os.environ.get("TINYSEARCH_CACHE"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tinysearch"


def known_corpus(digest: str, *, vocab_size: int, cache_dir: str | os.PathLike[str] | None = None) -> Corpus | None:
    """The corpus with that digest, if the cache has all of it; reads no text."""
    cache = cache_folder(cache_dir)
    meta = read_json(cache / digest / META)
    return None if meta is None else map_corpus(meta, cache, vocab_size)


@contextlib.contextmanager
def building(cache: Path) -> Iterator[Path]:
    """A folder beside the cache's corpora to build one in. Raises CorpusError if the cache cannot be written."""
    try:
        (cache / "index").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as scratch:
            yield Path(scratch)
    except OSError as error:
        raise CorpusError(
            f"{shown(cache)}: the cache folder cannot be written: {error.strerror}; set cache_dir or TINYSEARCH_CACHE"
        ) from None


def keep_corpus(
    files: Mapping[str, tuple[Path, str]],
    *,
    digest: str,
    vocab_size: int,
    about: str,
    read: Mapping[str, Any] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Move a corpus's parts, each a file and its dtype, into the cache; returns what `map_corpus` needs.

    Concurrent processes write the same bytes, each part by one rename. Raises OSError.
    """
    cache = cache_folder(cache_dir)
    parts = {name: described(file, dtype, f"{digest}/{name}.bin") for name, (file, dtype) in files.items()}
    meta = {"vocab_size": vocab_size, "digest": digest, "about": about, "read": dict(read or {}), "parts": parts}
    (cache / digest).mkdir(parents=True, exist_ok=True)
    for name, (file, _) in files.items():
        os.replace(file, cache / parts[name]["path"])
    write_json(cache / digest / META, meta)
    return meta


def map_corpus(meta: Any, cache: Path, vocab_size: int) -> Corpus | None:
    """The corpus that `meta` describes; None if a file is missing or of another size, or if `meta` is invalid.

    So a damaged cache, whatever its JSON says, is rebuilt.
    """
    try:
        parts = {}
        for name, part in meta["parts"].items():
            path = cache / part["path"]  # an absolute path, of the user's own tokens, stays as it is
            if os.path.getsize(path) != part["bytes"]:
                return None
            if part["dtype"] not in DTYPES:
                return None
            first, last, dtype = part["first"], part["last"], np.dtype(part["dtype"])
            if not 0 <= first <= last <= part["bytes"] // dtype.itemsize:
                return None
            whole = np.memmap(path, dtype=dtype, mode="r") if part["bytes"] else np.empty(0, dtype)
            parts[name] = np.asarray(whole)[first:last]
        corpus = Corpus(
            train=parts["train"],
            validation=parts["validation"],
            vocab_size=meta["vocab_size"],
            token_bytes=parts.get("token_bytes"),
            digest=meta["digest"],
            about=meta["about"],
            test=parts.get("test"),
            marks=parts.get("marks"),
            read=_checked_read(meta.get("read", {})),
        )
    except (OSError, LookupError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    sizes = corpus.token_bytes
    is_sound = corpus.vocab_size == vocab_size and isinstance(corpus.digest, str) and isinstance(corpus.about, str)
    return corpus if is_sound and (sizes is None or len(sizes) == vocab_size and sizes.min() >= 0) else None


def _checked_read(read: Any) -> Mapping[str, Any]:
    """What a cache says about the text that was read. Raises TypeError if it is invalid."""
    counts = ("train_bytes", "validation_bytes", "test_bytes", "documents")
    if not isinstance(read, dict) or not all(type(read.get(name, 0)) is int for name in counts):
        raise TypeError(read)
    return read


def described(path: Path, dtype: str, stored_as: str | None = None) -> dict[str, Any]:
    """What `map_corpus` needs of a part: a file of the cache, or, unless it will be stored there, its own path."""
    size = path.stat().st_size
    last = size // np.dtype(dtype).itemsize
    return {"path": stored_as or os.path.abspath(path), "dtype": dtype, "bytes": size, "first": 0, "last": last}


def read_json(path: Path) -> Any:
    """The content of a JSON file of the cache; None if it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):  # missing, or cut short by a full disk: rebuilt in both cases
        return None


def write_json(path: Path, document: Any) -> None:
    """Write the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    temporary.write_text(json.dumps(document))
    os.replace(temporary, path)
