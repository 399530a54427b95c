"""From text to a corpus: found, split, tokenised and cached.

Text is cached as bytes first, for any vocabulary; a BPE is learned, and its tokens are made, from these. The cache is
keyed by content. A second, smaller index maps what the file system says about the sources (size, times) to that key, so
that opening a known corpus reads no text.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from trainer.cache import (
    building,
    cache_folder,
    described,
    keep_corpus,
    known_corpus,
    map_corpus,
    read_json,
    write_json,
)
from trainer.checks import counted
from trainer.config import TOKEN_DTYPES, TrainConfig
from trainer.corpus import Corpus
from trainer.families.family import BYTE_VOCAB_SIZE
from trainer.text.collection import collect
from trainer.text.errors import CorpusError
from trainer.text.names import PARTS, TEST, TRAIN, VALIDATION
from trainer.text.parts import marks_in_tokens, marks_of, write_parts
from trainer.text.sources import LeftOut, Sources, find_sources
from trainer.text.split import split_documents, split_summary
from trainer.text.tokens import collect_tokens, join, stretches_of
from trainer.tokenizer import BpeTokenizer, OnProgress, train_bpe

FORMAT = "tinysearch-corpus-2"  # part of every key: change it with anything that changes tokens
UNSETTLED_NS = 2 * 10**9  # a file changed this recently may change again without a new time stamp


def open_corpus(
    paths: Iterable[str | os.PathLike[str]],
    *,
    vocab_size: int,
    cache_dir: str | os.PathLike[str] | None = None,
    token_dtype: str = "uint16",
    text_key: str = "text",
    skip_bad: bool = False,
    on_progress: OnProgress | None = None,
) -> Corpus:
    """The corpus of these files and folders, or of Python's standard library if there are none.

    Records are read by their field `text_key`; those without it are refused, or left out with `skip_bad`. `on_progress`
    gets a line now and then about steps that take long. Raises CorpusError for mistakes that the user can fix: a path,
    a file's content, the cache folder.
    """
    assert token_dtype in TOKEN_DTYPES, token_dtype
    sources = find_sources(os.fspath(path) for path in paths)
    if not sources.are_tokens and vocab_size < BYTE_VOCAB_SIZE:
        raise CorpusError(f"vocab_size {vocab_size} cannot hold text: {BYTE_VOCAB_SIZE} reads bytes, more learn a BPE")
    cache = cache_folder(cache_dir)
    about = [vocab_size, token_dtype] if sources.are_tokens else ["text", text_key, skip_bad]
    stats = sources.stats()
    index = cache / "index" / f"{_digest([FORMAT, about, sources.may_split_by_name, stats])}.json"
    size = vocab_size if sources.are_tokens else BYTE_VOCAB_SIZE
    meta = read_json(index)
    if meta is None or (corpus := map_corpus(meta, cache, size)) is None:
        with building(cache) as scratch:
            if sources.are_tokens:
                meta = _prepare_tokens(sources, vocab_size, np.dtype(token_dtype), cache, scratch)
            else:
                meta = _prepare_text(sources, text_key, skip_bad, cache, scratch, on_progress)
        corpus = map_corpus(meta, cache, size)
        assert corpus is not None, meta
        newest = max(max(mtime, ctime) for *_, mtime, ctime in stats)
        if time.time_ns() - newest > UNSETTLED_NS and sources.stats() == stats:
            write_json(index, meta)
    read = {**corpus.read, "files": len(sources.files), "left_out": _left_out(sources, corpus)}
    if vocab_size != size:
        corpus = _in_tokens(corpus, vocab_size, cache, on_progress)
    about_sources = f"{sources.about}: {counted(len(sources.files), 'file')}"
    return dataclasses.replace(corpus, read={**corpus.read, **read}, about=f"{about_sources}, {corpus.about}")


def corpus_for(config: TrainConfig, *, on_progress: OnProgress | None = None) -> Corpus:
    """The corpus that a run trains on; see `open_corpus`."""
    return open_corpus(
        config.data,
        vocab_size=config.model.vocab_size,
        cache_dir=config.cache_dir,
        token_dtype=config.token_dtype,
        text_key=config.text_key,
        skip_bad=config.skip_bad,
        on_progress=on_progress,
    )


def _left_out(sources: Sources, corpus: Corpus) -> dict[str, Any]:
    """What was left out of the text: from the folders as they are now, and from the files when they were read."""
    both = LeftOut()
    both.update(sources.left_out)
    if "records_left_out" in corpus.read:
        both.update(LeftOut.from_dict(corpus.read["records_left_out"]))
    return both.to_dict()


def _prepare_text(
    sources: Sources, text_key: str, skip_bad: bool, cache: Path, scratch: Path, on_progress: OnProgress | None
) -> dict[str, Any]:
    """Read and split the text, store its parts as bytes, and return what `map_corpus` needs."""
    everything = scratch / "all.bytes"
    documents = collect(sources, everything, text_key=text_key, skip_bad=skip_bad, on_progress=on_progress)
    split = split_documents(documents)
    files = {part: scratch / f"{part}.bytes" for part in PARTS}
    content = write_parts(everything, documents, split, files)
    everything.unlink()
    sizes = {part: files[part].stat().st_size for part in PARTS}
    if not sizes[TEST]:
        del files[TEST]
    read = {
        "documents": len(documents.sizes),
        "split": split_summary(split, documents),
        "records_left_out": documents.left_out.to_dict(),
        **{f"{part}_bytes": sizes[part] for part in PARTS},
    }
    marks_of(files[VALIDATION]).tofile(scratch / "marks.bin")
    np.ones(BYTE_VOCAB_SIZE, np.int32).tofile(scratch / "token_bytes.bin")
    return keep_corpus(
        {part: (path, "uint8") for part, path in files.items()}
        | {"marks": (scratch / "marks.bin", "int64"), "token_bytes": (scratch / "token_bytes.bin", "int32")},
        digest=_digest([FORMAT, BYTE_VOCAB_SIZE, content]),
        vocab_size=BYTE_VOCAB_SIZE,
        about=f"{sum(sizes.values()):,} bytes, {_counts(sizes[TRAIN], sizes[VALIDATION])} (bytes)",
        read=read,
        cache_dir=cache,
    )


def _in_tokens(text: Corpus, vocab_size: int, cache: Path, on_progress: OnProgress | None) -> Corpus:
    """The corpus of bytes in the tokens of a BPE of that size, learned from its training part."""
    digest = _digest([FORMAT, vocab_size, text.digest])
    if (known := known_corpus(digest, vocab_size=vocab_size, cache_dir=cache)) is not None:
        return known
    with building(cache) as scratch:
        own = {part: cache / text.digest / f"{part}.bin" for part in PARTS if text.read[f"{part}_bytes"]}
        train_bpe(own[TRAIN], vocab_size, scratch / "tokenizer.json", on_progress)
        tokenizer = BpeTokenizer(scratch / "tokenizer.json", vocab_size)
        files: dict[str, tuple[Path, str]] = {}
        for part, content in own.items():
            dtype = tokenizer.encode_file(content, scratch / f"{part}.tokens", on_progress)
            files[part] = scratch / f"{part}.tokens", dtype.name
        tokenizer.token_bytes.astype(np.int32).tofile(scratch / "token_bytes.bin")
        files["token_bytes"] = scratch / "token_bytes.bin", "int32"
        assert text.marks is not None
        held_out = np.memmap(*files[VALIDATION], "r")
        marks_in_tokens(held_out, tokenizer.token_bytes, text.marks).tofile(scratch / "marks.bin")
        files["marks"] = scratch / "marks.bin", "int64"
        num_tokens = [
            files[part][0].stat().st_size // np.dtype(files[part][1]).itemsize for part in (TRAIN, VALIDATION)
        ]
        read = {f"{part}_bytes": text.read[f"{part}_bytes"] for part in PARTS}
        (cache / digest).mkdir(exist_ok=True)
        os.replace(scratch / "tokenizer.json", cache / digest / "tokenizer.json")
        meta = keep_corpus(
            files,
            digest=digest,
            vocab_size=vocab_size,
            about=f"{sum(read.values()):,} bytes, {_counts(*num_tokens)} (BPE of {vocab_size:,})",
            read=read,
            cache_dir=cache,
        )
    corpus = map_corpus(meta, cache, vocab_size)
    assert corpus is not None, meta
    return corpus


def _prepare_tokens(
    sources: Sources, vocab_size: int, dtype: np.dtype[Any], cache: Path, scratch: Path
) -> dict[str, Any]:
    """Tokens need no copy: the parts are the user's own files, unless several have to become one."""
    documents = collect_tokens(sources, vocab_size, dtype)
    split = split_documents(documents)
    stretches = {
        part: found for part, found in stretches_of(sources, documents, split, dtype.itemsize).items() if found
    }
    identity = [FORMAT, vocab_size, dtype.name, documents.digests.tolist(), split.part.tolist(), split.cuts.tolist()]
    digest = _digest(identity)
    parts = {}
    for part, found in stretches.items():
        if len(found) == 1:
            parts[part] = {**described(found[0].path, dtype.name), "first": found[0].first, "last": found[0].last}
        else:
            stored_as = f"{digest}/{part}.bin"
            join(found, dtype, scratch / f"{part}.bin")
            parts[part] = described(scratch / f"{part}.bin", dtype.name, stored_as)
            (cache / digest).mkdir(exist_ok=True)
            os.replace(scratch / f"{part}.bin", cache / stored_as)
    for part in (TRAIN, VALIDATION):
        if part not in parts:
            raise CorpusError(f"{sources.about}: too few tokens to train on some and hold out others")
    counts = {part: parts[part]["last"] - parts[part]["first"] for part in parts}
    read = {"documents": len(documents.sizes), "split": split_summary(split, documents)}
    read |= {f"{part}_bytes": counts.get(part, 0) * dtype.itemsize for part in PARTS}
    about = _counts(counts[TRAIN], counts[VALIDATION])
    return {"vocab_size": vocab_size, "digest": digest, "about": about, "read": read, "parts": parts}


def _counts(train: int, validation: int) -> str:
    return f"{train:,} tokens to train on, {validation:,} held out"


def _digest(document: Any) -> str:
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()
