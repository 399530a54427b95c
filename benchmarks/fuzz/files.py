"""Studies, checkpoints and corpora to fuzz with, and what opening each means."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import os
import random
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fuzz.campaign import Opening
from benchmarks.fuzz.damage import damaged
from benchmarks.outcomes import make_study, train
from search.report.overview import Overview, trial_dict
from search.report.sentences import comparison_line, counts_line, leading_line, wasted_line
from search.report.tables import TrialsTable
from search.report.winner import best_document, front_documents
from search.storage.folder import StudyFolder
from search.study.settings import StudySettings
from search.study.study import Study
from search.study.verdict import StudyFailed
from trainer.checkpoint import HEADER_BYTES, MAGIC
from trainer.config import TrainConfig
from trainer.data import open_corpus
from trainer.loop import Diverged, TrainingRun

TEXT = "The quick brown fox jumps over the lazy dog; 'naïve' — 日本語.\n" * 30
CONFIG = {"d_model": 16, "d_state": 4, "n_layers": 2, "attn_layer_idx": 1, "n_heads": 2, "seq_len": 8, "batch_size": 2}
VOCAB_SIZE = 300  # a BPE, so that the cache holds a tokenizer

WRONG: tuple[Any, ...] = (
    None, True, "", "x", -1, 0, 1, 0.5, 10**30, 10**400, float("nan"), float("inf"), [], {}, [[]], {"x": 1}, "9" * 5000,
)  # fmt: skip


def make_originals(folder: Path) -> None:
    """What is damaged later: a study, a checkpoint, texts, tokens, and the cache of a text."""
    make_study(folder / "runs", "study")
    for name, content in {
        "a.txt": TEXT.encode(),
        "b.txt": TEXT.upper().encode(),
        "c.jsonl": b"".join(json.dumps({"text": f"{i} {TEXT[:80]}", "id": i}).encode() + b"\n" for i in range(40)),
        "d.bin": np.arange(2000, dtype=np.uint16).clip(max=VOCAB_SIZE - 1).tobytes(),
    }.items():
        (folder / name).write_bytes(content)
    run = _run(folder)
    run.advance(run.config.rungs[0])
    run.save(folder / "run.pt")
    run.close()
    open_corpus([folder / "a.txt"], vocab_size=VOCAB_SIZE, cache_dir=folder / "cache")


def file_case(scratch: Path, number: int, *, originals: Path, seed: int) -> Opening:
    """Damages one of the originals, in a copy under `scratch`; what comes back opens it."""
    rng = random.Random(f"file {seed} {number}")
    kind = (_study, _study, _checkpoint, _corpus, _cache)[number % 5]
    return kind(originals, scratch, rng)


def _study(originals: Path, scratch: Path, rng: random.Random) -> Opening:
    """A journal with damaged bytes, or with sound entries that say something wrong."""
    shutil.copytree(originals / "runs", scratch / "runs")
    folder = StudyFolder(scratch / "runs", "study")
    content = folder.journal.read_bytes()
    folder.journal.write_bytes(damaged(content, rng) if rng.random() < 0.4 else _with_wrong_entry(content, rng))
    return partial(_open_study, folder)


def _open_study(folder: StudyFolder) -> None:
    """All that `status`, `trials`, `best` and `run` do with a study, but for training."""
    with folder.lock():
        pass
    stored = folder.load()
    overview = Overview.stored(stored, is_run=False)
    for line in (comparison_line, leading_line):
        line(overview)
    counts_line(overview.counts, overview.num_trials), wasted_line(overview.records)
    TrialsTable(overview, overview.ranked(), width=200).rich()
    json.dumps([overview.to_dict(), [trial_dict(record) for record in overview.records]], allow_nan=False)
    if best_document(stored) is not None:
        json.dumps(front_documents(stored), allow_nan=False)
    study = Study(stored, StudySettings.of(stored), trials=len(overview.records) + 2)
    with contextlib.suppress(StudyFailed):  # what it says, too, is no fault of the file
        while (proposal := study.propose()) is not None:
            train(study, proposal)


def _with_wrong_entry(content: bytes, rng: random.Random) -> bytes:
    """A journal of sound JSON with one or two entries that say something wrong."""
    lines = content.splitlines(keepends=True)
    for _ in range(rng.randint(1, 2)):
        at = rng.randrange(len(lines))
        entry = json.loads(lines[at])
        _spoil(entry, rng)
        lines[at] = json.dumps(entry).encode() + b"\n"
    return b"".join(lines)


def _spoil(tree: Any, rng: random.Random) -> None:
    while isinstance(tree, (dict, list)) and tree:
        key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        if isinstance(tree[key], (dict, list)) and tree[key] and rng.random() < 0.8:
            tree = tree[key]
        elif rng.random() < 0.2:
            del tree[key]
            return
        else:
            tree[key] = copy.deepcopy(rng.choice(WRONG))
            return


def _checkpoint(originals: Path, scratch: Path, rng: random.Random) -> Opening:
    """A run that resumes from a checkpoint whose bytes or contents were changed; some with a matching hash."""
    content = (originals / "run.pt").read_bytes()
    match rng.randrange(3):
        case 0:
            content = damaged(content, rng)
        case 1:
            content = _with_hash(damaged(content[HEADER_BYTES:], rng))
        case _:
            contents = torch.load(io.BytesIO(content[HEADER_BYTES:]), weights_only=True)
            for _ in range(rng.randint(1, 2)):
                _spoil_contents(contents, rng)
            buffer = io.BytesIO()
            torch.save(contents, buffer)
            content = _with_hash(buffer.getvalue())
    (scratch / "run.pt").write_bytes(content)
    return partial(_resume, _run(originals), scratch / "run.pt")


def _resume(run: TrainingRun, checkpoint: Path) -> None:
    try:
        run.restore(checkpoint)
        if run.tokens < run.config.budget_tokens:
            with contextlib.suppress(Diverged):  # weights may be any numbers
                run.advance(run.config.budget_tokens)
    finally:
        run.close()


def _with_hash(payload: bytes) -> bytes:
    return MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload


def _spoil_contents(tree: Any, rng: random.Random) -> None:
    wrong = (*WRONG, torch.zeros(0), torch.zeros(3, 5), torch.zeros(()), torch.zeros(10**7, dtype=torch.int64))
    while isinstance(tree, (dict, list)) and tree:
        key = rng.choice(list(tree)) if isinstance(tree, dict) else rng.randrange(len(tree))
        if isinstance(tree[key], (dict, list)) and tree[key] and rng.random() < 0.8:
            tree = tree[key]
            continue
        if rng.random() < 0.2:
            del tree[key]
        else:
            tree[key] = copy.deepcopy(rng.choice(wrong))
        return


def _run(originals: Path) -> TrainingRun:
    config = {**CONFIG, "rungs": [32, 64], "data": [str(originals / "a.txt")], "cache_dir": str(originals / "bytes")}
    return TrainingRun(TrainConfig.from_flat("hybrid", {**config, "eval_tokens": 32, "num_threads": 1}))


def _corpus(originals: Path, scratch: Path, rng: random.Random) -> Opening:
    """A text, a .jsonl or tokens, damaged, some of them beside a sound one."""
    name = rng.choice(("a.txt", "c.jsonl", "d.bin"))
    (scratch / name).write_bytes(damaged((originals / name).read_bytes(), rng))
    beside = [originals / "b.txt"] if name != "d.bin" and rng.random() < 0.3 else []
    return partial(_use_corpus, [scratch / name, *beside], scratch / "cache", rng.choice((256, VOCAB_SIZE)))


def _cache(originals: Path, scratch: Path, rng: random.Random) -> Opening:
    """A text whose cache was damaged: bytes of any of its files, or what its JSON says."""
    shutil.copytree(originals / "cache", scratch / "cache")
    files = sorted(path for path in (scratch / "cache").rglob("*") if path.is_file())
    file = rng.choice(files)
    content = file.read_bytes()
    if file.suffix == ".json" and rng.random() < 0.6:
        document = json.loads(content)
        _spoil(document, rng)
        content = json.dumps(document).encode()
    else:
        content = damaged(content, rng)
    file.write_bytes(content)
    os.utime(file)
    return partial(_use_corpus, [originals / "a.txt"], scratch / "cache", VOCAB_SIZE)


def _use_corpus(paths: list[Path], cache: Path, vocab_size: int) -> None:
    """What a training does with a corpus."""
    corpus = open_corpus(paths, vocab_size=vocab_size, cache_dir=cache)
    corpus.require(8)
    for i in range(3):
        inputs, targets = corpus.training_batch((0, i), 4, 8)
        assert inputs.shape == targets.shape == (4, 8) and max(inputs.max(), targets.max()) < vocab_size
    for stretch in corpus.held_out_stretches(100):
        assert len(stretch) > 1 and stretch.max() < vocab_size
    assert corpus.token_bytes is None or len(corpus.token_bytes) == vocab_size
