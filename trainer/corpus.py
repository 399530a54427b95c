"""A corpus: training and held-out tokens, memory-mapped from one cached copy that all trials on a machine share.

In the cache a corpus is a folder named by its digest: a file for each part, and facts about them in `meta.json`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trainer.text.errors import CorpusError

META = "meta.json"
NUM_STRETCHES = 8  # of held-out text: enough to cover most kinds of it, few enough to be long
DTYPES = ("uint8", "uint16", "uint32", "int32", "int64")  # of a cached part


@dataclass(frozen=True, kw_only=True)
class Corpus:
    train: np.ndarray  # 1-D, memory-mapped, read-only
    validation: np.ndarray
    vocab_size: int
    token_bytes: np.ndarray | None  # UTF-8 bytes of each token, (V,); None if tokens came without a tokenizer
    digest: str  # of the text, the split and the tokenizer
    about: str
    test: np.ndarray | None = None  # held out from the search too; None if the text has no such part
    marks: np.ndarray | None = None  # (M,), int64: where stretches of `validation` may start and end
    read: Mapping[str, Any] = field(default_factory=dict)  # what was read, and how it was split; see data.py

    @property
    def bytes_per_token(self) -> float | None:
        """Of the training text; None if tokens came without a tokenizer."""
        num_bytes = self.read.get("train_bytes")
        return num_bytes / len(self.train) if num_bytes and self.token_bytes is not None else None

    def require(self, seq_len: int) -> None:
        """Raises CorpusError if either part has no window of seq_len tokens with their next ones."""
        for part, tokens in (("training", self.train), ("held-out", self.validation)):
            if len(tokens) < seq_len + 1:
                raise CorpusError(
                    f"{self.about}: the {part} part has {len(tokens)} tokens, seq_len {seq_len} needs {seq_len + 1}; "
                    "give more text or shorten seq_len"
                )

    def training_batch(self, key: tuple[int, ...], rows: int, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets (rows, seq_len), int64: random windows, a pure function of the key (seed, step, part).

        The first rows do not depend on the number of rows.
        """
        starts = np.random.default_rng(key).integers(0, len(self.train) - seq_len, size=rows)
        windows = self.train[starts[:, None] + np.arange(seq_len + 1)]
        self._check(windows)
        return windows[:, :-1].astype(np.int64), windows[:, 1:].astype(np.int64)

    def held_out_stretches(self, num_tokens: int) -> list[np.ndarray]:
        """Evenly spaced, non-overlapping stretches of held-out text, in which num_tokens are predicted in total.

        Each has one token more than it predicts. If there is less text than that: all of it, in one stretch.
        """
        available = len(self.validation) - 1
        num_tokens = min(num_tokens, available)
        count = min(NUM_STRETCHES, num_tokens) if num_tokens < available else 1
        spare, stretches = available - num_tokens, []
        for i in range(count):
            gap = i * spare // max(count - 1, 1)
            first, last = i * num_tokens // count, (i + 1) * num_tokens // count
            stretches.append(self.validation[gap + first : gap + last + 1])
            self._check(stretches[-1])
        return stretches

    def held_out_text(self, num_bytes: int) -> list[np.ndarray]:
        """As `held_out_stretches`, with about that many bytes of text: the same bytes in every vocabulary.

        If the text has too few marks to choose from: everything between the first and the last. Raises CorpusError if
        there are none.
        """
        assert self.token_bytes is not None and self.marks is not None
        marks = self.marks[self.marks > 0]
        if len(marks) < 2:
            raise CorpusError(f"{self.about}: the held-out part is too short to be compared between vocabularies")
        per_mark = self.read["validation_bytes"] / len(marks)  # they are about evenly spaced
        span = max(1, round(num_bytes / NUM_STRETCHES / per_mark))
        count = min(NUM_STRETCHES, (len(marks) - 1) // span)
        if count < 2:
            span, count = len(marks) - 1, 1
        spare, stretches = len(marks) - 1 - span * count, []
        for i in range(count):
            first = i * span + i * spare // max(count - 1, 1)
            stretches.append(self.validation[marks[first] - 1 : marks[first + span]])
            self._check(stretches[-1])
        return stretches

    def _check(self, tokens: np.ndarray) -> None:
        """Raises CorpusError for tokens outside the vocabulary, which can appear only through later damage."""
        if len(tokens) and tokens.max() >= self.vocab_size:
            raise CorpusError(
                f"{self.about}: token {tokens.max()} is outside vocab_size {self.vocab_size}: the tokens or their "
                "cache were damaged; delete the cache folder"
            )


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
    """The corpus that `meta` describes; None if one of its files is missing, or has another size or content.

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
