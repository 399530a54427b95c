"""A study's text if its machines share no folder: its tokens are stored once at a URL, and once on each machine.

At the URL a corpus is a folder named by its digest, with an object for each part and a list of them, written last.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from search.worker.object_store import NO_SPACE, ObjectStore, ObjectStoreError
from trainer.cache import cache_folder, keep_corpus, known_corpus
from trainer.corpus import Corpus
from trainer.text.errors import CorpusError

CORPORA = "corpora"
LISTED = "corpus.json"
SHARED = ("train_bytes", "validation_bytes")  # of what was read: what an evaluation needs


def share_corpus(corpus: Corpus, store: ObjectStore) -> None:
    """Write a corpus to a URL, unless it is there. Raises ObjectStoreError, and OSError for a full disk."""
    folder = f"{CORPORA}/{corpus.digest}"
    if store.exists(f"{folder}/{LISTED}"):
        return
    arrays = {
        "train": corpus.train,
        "validation": corpus.validation,
        "token_bytes": corpus.token_bytes,
        "marks": corpus.marks,
    }
    parts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=cache_folder(), prefix="building-") as scratch:
        for name, array in arrays.items():
            if array is None:
                continue
            file = Path(scratch, name)
            with open(file, "wb") as content:
                content.write(array.data)
            store.put(file, f"{folder}/{name}.bin")
            parts[name] = {"dtype": array.dtype.name, "sha256": _checksum(file)}
            file.unlink()
    read = {name: corpus.read[name] for name in SHARED if name in corpus.read}
    about = {"vocab_size": corpus.vocab_size, "about": corpus.about, "read": read, "parts": parts}
    store.write(json.dumps(about).encode(), f"{folder}/{LISTED}")


def fetch_corpus(digest: str, store: ObjectStore, *, vocab_size: int, cache_dir: str | Path | None = None) -> Corpus:
    """The corpus with that digest, copied into this machine's cache by the first of its processes that asks.

    Raises ObjectStoreError; CorpusError if it is missing or damaged, or if the cache cannot be written; and OSError for
    a full disk.
    """
    if (corpus := known_corpus(digest, vocab_size=vocab_size, cache_dir=cache_dir)) is not None:
        return corpus
    cache = cache_folder(cache_dir)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{digest}.lock"):
            if known_corpus(digest, vocab_size=vocab_size, cache_dir=cache_dir) is None:
                with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as scratch:
                    _copy(digest, store, vocab_size, cache, Path(scratch))
    except OSError as error:
        if error.errno in NO_SPACE:
            raise
        raise CorpusError(
            f"{cache}: the cache folder cannot be written: {error.strerror}; set TINYSEARCH_CACHE on this machine"
        ) from None
    corpus = known_corpus(digest, vocab_size=vocab_size, cache_dir=cache_dir)
    if corpus is None:
        raise CorpusError(f"{_location(store, digest)} is not a corpus of {vocab_size} tokens; delete the folder")
    return corpus


def _copy(digest: str, store: ObjectStore, vocab_size: int, cache: Path, scratch: Path) -> None:
    folder, location = f"{CORPORA}/{digest}", _location(store, digest)
    if (listed := store.read(f"{folder}/{LISTED}")) is None:
        raise CorpusError(f"{location} is gone: the driver writes it again when it starts")
    try:
        about = json.loads(listed)
        files = {}
        for name, part in about["parts"].items():
            file = scratch / Path(name).name
            if not store.get(f"{folder}/{name}.bin", file) or _checksum(file) != part["sha256"]:
                raise CorpusError(f"{location}: its {name} is damaged or not there; delete the folder")
            files[file.name] = (file, np.dtype(part["dtype"]).name)
        read = about.get("read", {})
        keep_corpus(files, digest=digest, vocab_size=vocab_size, about=about["about"], read=read, cache_dir=cache)
    except (CorpusError, ObjectStoreError, OSError):
        raise
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise CorpusError(f"{location} is damaged: {error}; delete the folder") from None


def _location(store: ObjectStore, digest: str) -> str:
    return f"{store}/{CORPORA}/{digest}"


def _checksum(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
