"""A corpus: training and held-out tokens, memory-mapped from one cached copy that every trial on a machine shares.

The cache is keyed by content. A second, smaller index leads from what the file system says about the sources
(size, times) to that key, so that opening a known corpus reads no text.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import TOKEN_DTYPES
from trainer.configs.model import BYTE_VOCAB_SIZE
from trainer.documents import CorpusError, Sources, find_sources, read_documents, unreadable
from trainer.tokenizer import BpeTokenizer, ByteTokenizer, train_bpe

FORMAT = "tinysearch-corpus-1"  # part of every key: change it with anything that changes tokens
HELD_OUT = 0.1  # of the documents, or of the text where there is only one
NUM_STRETCHES = 8  # of held-out text: enough to see most kinds of it, few enough to be long
UNSETTLED_NS = 2 * 10**9  # a file changed this recently may change again within the clock's grain, unseen
CHUNK_BYTES = 16 * 2**20
DTYPES = ("uint8", "uint16", "uint32", "int32")  # of a cached part


@dataclass(frozen=True, kw_only=True)
class Corpus:
    train: np.ndarray  # 1-D, memory-mapped, read-only
    validation: np.ndarray
    vocab_size: int
    token_bytes: np.ndarray | None  # UTF-8 bytes of each token, (V,); None where tokens came without a tokenizer
    digest: str  # of the text, the split and the tokenizer
    about: str

    def require(self, seq_len: int) -> None:
        """Raises CorpusError where either part has no window of seq_len tokens and their next ones."""
        for part, tokens in (("training", self.train), ("held-out", self.validation)):
            if len(tokens) < seq_len + 1:
                raise CorpusError(
                    f"{self.about}: the {part} part has {len(tokens)} tokens, seq_len {seq_len} needs {seq_len + 1}; "
                    "give more text or shorten seq_len"
                )

    def training_batch(self, key: tuple[int, ...], rows: int, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets (rows, seq_len), int64: random windows, a pure function of the key (seed, step, part).

        The first rows do not depend on how many are asked for.
        """
        starts = np.random.default_rng(key).integers(0, len(self.train) - seq_len, size=rows)
        windows = self.train[starts[:, None] + np.arange(seq_len + 1)]
        self._check(windows)
        return windows[:, :-1].astype(np.int64), windows[:, 1:].astype(np.int64)

    def held_out_stretches(self, num_tokens: int) -> list[np.ndarray]:
        """Evenly spaced, never overlapping stretches of held-out text, in which num_tokens are to be predicted.

        Each has one token more than it predicts. Where there is less text than that, all of it, in one stretch.
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

    def _check(self, tokens: np.ndarray) -> None:
        """Raises CorpusError for tokens that the corpus did not have when it was opened: a model has none for them."""
        if len(tokens) and tokens.max() >= self.vocab_size:
            raise CorpusError(
                f"{self.about}: token {tokens.max()} is outside vocab_size {self.vocab_size}: the tokens or their "
                "cache were damaged; delete the cache folder"
            )


def open_corpus(
    paths: Iterable[str | os.PathLike[str]],
    *,
    vocab_size: int,
    cache_dir: str | os.PathLike[str] | None = None,
    token_dtype: str = "uint16",
) -> Corpus:
    """The corpus of these files and folders, or of Python's standard library where there are none.

    Raises CorpusError for whatever the user can mend: a path, a file's content, the cache folder.
    """
    assert token_dtype in TOKEN_DTYPES, token_dtype
    sources = find_sources(tuple(os.fspath(path) for path in paths))
    if not sources.are_tokens and vocab_size < BYTE_VOCAB_SIZE:
        raise CorpusError(f"vocab_size {vocab_size} cannot hold text: {BYTE_VOCAB_SIZE} reads bytes, more learn a BPE")
    cache = Path(cache_dir) if cache_dir is not None else _default_cache()
    stats = sources.stats()
    key = _digest([FORMAT, vocab_size, token_dtype if sources.are_tokens else "text", sources.about, stats])
    index = cache / "index" / f"{key}.json"
    meta = _read_json(index)
    if meta is None or (corpus := _map(meta, cache, vocab_size)) is None:
        meta = _prepare(sources, vocab_size, token_dtype, cache)
        corpus = _map(meta, cache, vocab_size)
        assert corpus is not None, meta
        newest = max(max(mtime, ctime) for *_, mtime, ctime in stats)
        if time.time_ns() - newest > UNSETTLED_NS and sources.stats() == stats:
            _write_json(index, meta)
    return dataclasses.replace(corpus, about=f"{_describe(sources)}, {corpus.about}")


def _describe(sources: Sources) -> str:
    skipped = f", {sources.num_skipped:,} hidden or binary files skipped" if sources.num_skipped else ""
    num_files = len(sources.files)
    return f"{sources.about}: {num_files:,} file{'' if num_files == 1 else 's'}{skipped}"


def _default_cache() -> Path:
    if folder := os.environ.get("TINYSEARCH_CACHE"):
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tinysearch"


def _map(meta: Any, cache: Path, vocab_size: int) -> Corpus | None:
    """The corpus that `meta` describes; None where one of its files is missing, not of its recorded size, or no part.

    So a cache that was damaged, whatever its JSON says, is built again.
    """
    try:
        parts = {}
        for name, part in meta["parts"].items():
            path = cache / part["path"]  # an absolute path, of the user's own tokens, stands for itself
            if os.path.getsize(path) != part["bytes"]:
                return None
            if part["dtype"] not in DTYPES:
                return None
            first, last, dtype = part["first"], part["last"], np.dtype(part["dtype"])
            if not 0 <= first <= last <= part["bytes"] // dtype.itemsize:
                return None
            parts[name] = np.asarray(np.memmap(path, dtype=dtype, mode="r"))[first:last]
        corpus = Corpus(
            train=parts["train"],
            validation=parts["validation"],
            vocab_size=meta["vocab_size"],
            token_bytes=parts.get("token_bytes"),
            digest=meta["digest"],
            about=meta["about"],
        )
    except (OSError, LookupError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    sizes = corpus.token_bytes
    is_sound = corpus.vocab_size == vocab_size and isinstance(corpus.digest, str) and isinstance(corpus.about, str)
    return corpus if is_sound and (sizes is None or len(sizes) == vocab_size and sizes.min() >= 0) else None


def _prepare(sources: Sources, vocab_size: int, token_dtype: str, cache: Path) -> dict[str, Any]:
    """Read the sources, write what of them belongs into the cache, and return what `_map` needs."""
    try:
        (cache / "index").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as scratch:
            if sources.are_tokens:
                return _prepare_tokens(sources, vocab_size, np.dtype(token_dtype), cache, Path(scratch))
            return _prepare_text(sources, vocab_size, cache, Path(scratch))
    except OSError as error:
        raise CorpusError(
            f"{cache}: the cache folder cannot be written: {error.strerror}; set cache_dir or TINYSEARCH_CACHE"
        ) from None


def _prepare_text(sources: Sources, vocab_size: int, cache: Path, scratch: Path) -> dict[str, Any]:
    content = _split_text(sources, scratch)
    digest = _digest([FORMAT, vocab_size, content])
    files = {"train": scratch / "train.bytes", "validation": scratch / "validation.bytes"}
    dtype = "uint8"
    if vocab_size == BYTE_VOCAB_SIZE:
        tokenizer: ByteTokenizer | BpeTokenizer = ByteTokenizer()
    else:
        known = _read_json(cache / digest / "meta.json")
        if known is not None and _map(known, cache, vocab_size) is not None:
            return known
        train_bpe(np.memmap(files["train"], dtype=np.uint8, mode="r"), vocab_size, scratch / "tokenizer.json")
        tokenizer = BpeTokenizer(scratch / "tokenizer.json", vocab_size)
        for part in files:
            encoded = tokenizer.encode(files[part].read_bytes())
            dtype = encoded.dtype.name
            files[part] = scratch / f"{part}.tokens"
            encoded.tofile(files[part])
    num_bytes = sum((scratch / f"{part}.bytes").stat().st_size for part in ("train", "validation"))
    files["token_bytes"] = scratch / "token_bytes.bin"
    tokenizer.token_bytes.astype(np.int32).tofile(files["token_bytes"])
    dtypes = {"train": dtype, "validation": dtype, "token_bytes": "int32"}
    parts = {part: _part(path, dtypes[part], stored_as=f"{digest}/{part}.bin") for part, path in files.items()}
    unit = "bytes" if vocab_size == BYTE_VOCAB_SIZE else f"BPE of {vocab_size:,}"
    about = f"{num_bytes:,} bytes, {_count_tokens(parts)} ({unit})"
    meta = {"vocab_size": vocab_size, "digest": digest, "about": about, "parts": parts}
    (cache / digest).mkdir(exist_ok=True)
    if vocab_size != BYTE_VOCAB_SIZE:
        os.replace(scratch / "tokenizer.json", cache / digest / "tokenizer.json")
    for part, path in files.items():
        # Whole files by one rename each: processes that build the same corpus at once write the same bytes.
        os.replace(path, cache / parts[part]["path"])
    _write_json(cache / digest / "meta.json", meta)
    return meta


def _split_text(sources: Sources, scratch: Path) -> str:
    """Write train.bytes and validation.bytes; return a digest of both.

    A document is held out by a hash of its key, so that adding one moves no other; at least one and never all.
    A single document is cut, its last tenth held out.
    """
    documents, position, digest = [], 0, hashlib.sha256()
    with open(scratch / "all.bytes", "wb") as file:
        for key, text in read_documents(sources.files):
            text = text if text.endswith(b"\n") else text + b"\n"  # what keeps two documents apart
            place = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()[:8]
            documents.append((int.from_bytes(place) / 2**64, position, position + len(text)))
            position += len(text)
            file.write(text)
    if not documents:
        raise CorpusError(f"{sources.about}: the text is empty; give a file with something to learn from")
    everything = np.memmap(scratch / "all.bytes", dtype=np.uint8, mode="r")
    places = sorted({place for place, _, _ in documents})
    if len(places) == 1:
        cut = _character_start(everything, int(position * (1 - HELD_OUT)))
        held_out = [(False, 0, cut), (True, cut, position)]
    else:
        border = min(max(HELD_OUT, places[0]), (places[-2] + places[-1]) / 2)
        held_out = [(place <= border, start, end) for place, start, end in documents]
    with open(scratch / "train.bytes", "wb") as train, open(scratch / "validation.bytes", "wb") as validation:
        for is_held_out, start, end in held_out:
            digest.update(f"{is_held_out} {end - start} ".encode())
            digest.update(everything[start:end])
            (validation if is_held_out else train).write(everything[start:end])
    return digest.hexdigest()


def _character_start(text: np.ndarray, position: int) -> int:
    while position > 0 and text[position] & 0xC0 == 0x80:  # 10xxxxxx continues a UTF-8 character
        position -= 1
    return position


def _prepare_tokens(
    sources: Sources, vocab_size: int, dtype: np.dtype[Any], cache: Path, scratch: Path
) -> dict[str, Any]:
    """Tokens need no copy: the parts are the user's own files, except where several have to become one."""
    digest = hashlib.sha256(f"{FORMAT} {vocab_size} {dtype}".encode())
    for file in sources.files:
        digest.update(f" {file.name} {file.path.stat().st_size} ".encode())
        _check_tokens(file.path, vocab_size, dtype, digest)
    by_name = {file.path.name: file.path for file in sources.files}
    if set(by_name) == {"train.bin", "val.bin"}:
        parts = {"train": _part(by_name["train.bin"], dtype.name), "validation": _part(by_name["val.bin"], dtype.name)}
    else:
        path, stored_as = sources.files[0].path, None
        if len(sources.files) > 1:
            path, stored_as = scratch / "joined.bin", f"{digest.hexdigest()}/joined.bin"
            with open(path, "wb") as joined:
                for file in sources.files:
                    joined.write(np.memmap(file.path, dtype=np.uint8, mode="r"))
        part = _part(path, dtype.name, stored_as)
        cut = part["last"] - max(1, int(part["last"] * HELD_OUT))
        parts = {"train": {**part, "last": cut}, "validation": {**part, "first": cut}}
        if stored_as:
            (cache / stored_as).parent.mkdir(exist_ok=True)
            os.replace(path, cache / stored_as)
    about = _count_tokens(parts)
    return {"vocab_size": vocab_size, "digest": digest.hexdigest(), "about": about, "parts": parts}


def _check_tokens(path: Path, vocab_size: int, dtype: np.dtype[Any], digest: Any) -> None:
    """Add a file of tokens to the digest. Raises CorpusError unless all of them are in the vocabulary."""
    try:
        with open(path, "rb") as file:
            empty = True
            while chunk := file.read(CHUNK_BYTES):
                empty = False
                if len(chunk) % dtype.itemsize:
                    raise CorpusError(f"{path}: not a whole number of {dtype} tokens; set token_dtype to what it holds")
                digest.update(chunk)
                highest = int(np.frombuffer(chunk, dtype).max())
                if highest >= vocab_size:
                    raise CorpusError(
                        f"{path}: token {highest} is outside vocab_size {vocab_size}; raise vocab_size above it, or "
                        f"set token_dtype if the tokens are not {dtype}"
                    )
    except OSError as error:
        raise unreadable(path, error) from None
    if empty:
        raise CorpusError(f"{path}: the file is empty")


def _part(path: Path, dtype: str, stored_as: str | None = None) -> dict[str, Any]:
    size = path.stat().st_size
    last = size // np.dtype(dtype).itemsize
    return {"path": stored_as or os.path.abspath(path), "dtype": dtype, "bytes": size, "first": 0, "last": last}


def _count_tokens(parts: dict[str, Any]) -> str:
    train, validation = (parts[part]["last"] - parts[part]["first"] for part in ("train", "validation"))
    return f"{train:,} tokens to train on, {validation:,} held out"


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):  # missing, or cut short by a full disk: rebuilt either way
        return None


def _write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    temporary.write_text(json.dumps(document))
    os.replace(temporary, path)
