"""From text to a corpus: split, tokenised and kept in the cache.

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
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import TOKEN_DTYPES
from trainer.configs.model import BYTE_VOCAB_SIZE
from trainer.corpus import META, Corpus, cache_folder, described, keep_corpus, map_corpus, read_json, write_json
from trainer.documents import CorpusError, Sources, find_sources, read_documents, unreadable
from trainer.tokenizer import BpeTokenizer, ByteTokenizer, OnProgress, train_bpe

FORMAT = "tinysearch-corpus-1"  # part of every key: change it with anything that changes tokens
HELD_OUT = 0.1  # of the documents, or of the text where there is only one
UNSETTLED_NS = 2 * 10**9  # a file changed this recently may change again within the clock's grain, unseen
CHUNK_BYTES = 16 * 2**20


def open_corpus(
    paths: Iterable[str | os.PathLike[str]],
    *,
    vocab_size: int,
    cache_dir: str | os.PathLike[str] | None = None,
    token_dtype: str = "uint16",
    on_progress: OnProgress | None = None,
) -> Corpus:
    """The corpus of these files and folders, or of Python's standard library where there are none.

    A preparation that takes long tells `on_progress` how far it is, a line every few seconds.

    Raises CorpusError for whatever the user can mend: a path, a file's content, the cache folder.
    """
    assert token_dtype in TOKEN_DTYPES, token_dtype
    sources = find_sources(tuple(os.fspath(path) for path in paths))
    if not sources.are_tokens and vocab_size < BYTE_VOCAB_SIZE:
        raise CorpusError(f"vocab_size {vocab_size} cannot hold text: {BYTE_VOCAB_SIZE} reads bytes, more learn a BPE")
    cache = cache_folder(cache_dir)
    stats = sources.stats()
    key = _digest([FORMAT, vocab_size, token_dtype if sources.are_tokens else "text", sources.about, stats])
    index = cache / "index" / f"{key}.json"
    meta = read_json(index)
    if meta is None or (corpus := map_corpus(meta, cache, vocab_size)) is None:
        meta = _prepare(sources, vocab_size, token_dtype, cache, on_progress)
        corpus = map_corpus(meta, cache, vocab_size)
        assert corpus is not None, meta
        newest = max(max(mtime, ctime) for *_, mtime, ctime in stats)
        if time.time_ns() - newest > UNSETTLED_NS and sources.stats() == stats:
            write_json(index, meta)
    return dataclasses.replace(corpus, about=f"{_describe(sources)}, {corpus.about}")


def _describe(sources: Sources) -> str:
    skipped = f", {sources.num_skipped:,} hidden or binary files skipped" if sources.num_skipped else ""
    num_files = len(sources.files)
    return f"{sources.about}: {num_files:,} file{'' if num_files == 1 else 's'}{skipped}"


def _prepare(
    sources: Sources, vocab_size: int, token_dtype: str, cache: Path, on_progress: OnProgress | None
) -> dict[str, Any]:
    """Read the sources, write what of them belongs into the cache, and return what `map_corpus` needs."""
    try:
        (cache / "index").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as scratch:
            if sources.are_tokens:
                return _prepare_tokens(sources, vocab_size, np.dtype(token_dtype), cache, Path(scratch))
            return _prepare_text(sources, vocab_size, cache, Path(scratch), on_progress)
    except OSError as error:
        raise CorpusError(
            f"{cache}: the cache folder cannot be written: {error.strerror}; set cache_dir or TINYSEARCH_CACHE"
        ) from None


def _prepare_text(
    sources: Sources, vocab_size: int, cache: Path, scratch: Path, on_progress: OnProgress | None
) -> dict[str, Any]:
    content = _split_text(sources, scratch)
    digest = _digest([FORMAT, vocab_size, content])
    files = {"train": scratch / "train.bytes", "validation": scratch / "validation.bytes"}
    dtype = "uint8"
    if vocab_size == BYTE_VOCAB_SIZE:
        tokenizer: ByteTokenizer | BpeTokenizer = ByteTokenizer()
    else:
        known = read_json(cache / digest / META)
        if known is not None and map_corpus(known, cache, vocab_size) is not None:
            return known
        train_bpe(files["train"], vocab_size, scratch / "tokenizer.json", on_progress)
        tokenizer = BpeTokenizer(scratch / "tokenizer.json", vocab_size)
        for part, text in files.items():
            files[part] = scratch / f"{part}.tokens"
            dtype = tokenizer.encode_file(text, files[part], on_progress).name
    num_bytes = sum((scratch / f"{part}.bytes").stat().st_size for part in ("train", "validation"))
    files["token_bytes"] = scratch / "token_bytes.bin"
    tokenizer.token_bytes.astype(np.int32).tofile(files["token_bytes"])
    width = np.dtype(dtype).itemsize
    unit = "bytes" if vocab_size == BYTE_VOCAB_SIZE else f"BPE of {vocab_size:,}"
    counts = _counts(*(files[part].stat().st_size // width for part in ("train", "validation")))
    if vocab_size != BYTE_VOCAB_SIZE:
        (cache / digest).mkdir(exist_ok=True)
        os.replace(scratch / "tokenizer.json", cache / digest / "tokenizer.json")
    return keep_corpus(
        {part: (path, "int32" if part == "token_bytes" else dtype) for part, path in files.items()},
        digest=digest,
        vocab_size=vocab_size,
        about=f"{num_bytes:,} bytes, {counts} ({unit})",
        cache_dir=cache,
    )


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
        own = {"train": by_name["train.bin"], "validation": by_name["val.bin"]}
        parts = {part: described(path, dtype.name) for part, path in own.items()}
    else:
        path, stored_as = sources.files[0].path, None
        if len(sources.files) > 1:
            path, stored_as = scratch / "joined.bin", f"{digest.hexdigest()}/joined.bin"
            with open(path, "wb") as joined:
                for file in sources.files:
                    joined.write(np.memmap(file.path, dtype=np.uint8, mode="r"))
        part = described(path, dtype.name, stored_as)
        cut = part["last"] - max(1, int(part["last"] * HELD_OUT))
        parts = {"train": {**part, "last": cut}, "validation": {**part, "first": cut}}
        if stored_as:
            (cache / stored_as).parent.mkdir(exist_ok=True)
            os.replace(path, cache / stored_as)
    about = _counts(*(parts[part]["last"] - parts[part]["first"] for part in ("train", "validation")))
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


def _counts(train: int, validation: int) -> str:
    return f"{train:,} tokens to train on, {validation:,} held out"


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()
