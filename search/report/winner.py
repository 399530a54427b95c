"""A trial's configuration for reuse: in the trainer's format, with its measurements and the reference beside it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna

from search.report.overview import Overview
from search.report.texts import finite, is_number
from search.storage.folder import StudyError
from search.study.record import TrialRecord
from search.study.settings import StudySettings
from search.study.text import corpus_digests
from trainer.cache import cache_folder
from trainer.checks import counted
from trainer.data import open_corpus
from trainer.families.family import BYTE_VOCAB_SIZE


def best_document(stored: optuna.Study, *, max_tokens: int | None = None) -> dict[str, Any] | None:
    """The best finished trial (by the first metric) for reuse; None if no trial has finished its budget.

    It has the parameters, the measurements, and under `train` the trainer's configuration, for `max_tokens` or by
    default for the search's last rung.
    """
    overview, settings = Overview.stored(stored, is_run=False), StudySettings.of(stored)
    if max_tokens is not None:
        budget = settings.budget.model_copy(update={"max_tokens": max_tokens})
        settings = replace(settings, budget=budget, earlier_ends=())
    return None if overview.best is None else _document(overview, settings, overview.best)


def write_tokenizer(stored: optuna.Study, file: Path) -> str:
    """Write the tokenizer.json of the best trial's model; returns a sentence about it.

    Raises StudyError if it has none or if its text has changed, and CorpusError.
    """
    overview, settings = Overview.stored(stored, is_run=False), StudySettings.of(stored)
    assert overview.best is not None
    config = settings.train_config(overview.best.values)
    size = config.model.vocab_size
    if size == BYTE_VOCAB_SIZE:
        raise StudyError(f"--tokenizer: trial {overview.best.number} reads bytes, so its model needs no tokenizer")
    corpus = open_corpus(config.data, vocab_size=size, token_dtype=config.token_dtype)
    if corpus.token_bytes is None:
        raise StudyError("--tokenizer: the text is token files; the tokenizer is whatever these were made with")
    digests = corpus_digests(settings)
    source = cache_folder() / corpus.digest / "tokenizer.json"
    if digests and corpus.digest not in digests:
        raise StudyError("--tokenizer: the text has changed since the search, and with it the tokenizer would")
    if not source.exists():
        raise StudyError(f"--tokenizer: {source} is gone; delete its folder, then it is made again")
    if file.exists() and file.read_bytes() != source.read_bytes():
        raise StudyError(f"--tokenizer {file}: there is another file; give a new name")
    shutil.copyfile(source, file)
    return f"{file}: the tokenizer of trial {overview.best.number}, {counted(size, 'token')}"


def front_documents(stored: optuna.Study) -> list[dict[str, Any]]:
    """As `best_document`, for each trial of the front; the best by the first metric comes first."""
    overview, settings = Overview.stored(stored, is_run=False), StudySettings.of(stored)
    return [_document(overview, settings, record) for record in overview.front]


def _document(overview: Overview, settings: StudySettings, best: TrialRecord) -> dict[str, Any]:
    reference = overview.reference
    compared: dict[str, Any] = {}
    names = [metric.name for metric in overview.metrics]
    theirs = {} if reference is None else {name: reference.measured(name, best.rung) for name in names}
    if reference is not None and all(map(is_number, theirs.values())):
        compared = {"reference": {"preset": reference.preset, **theirs, "tokens": best.rung}}
    train = settings.train_config(best.values).to_dict()
    return {
        "study": overview.name,
        "trial": best.number,
        "preset": best.preset or None,
        "family": settings.space.spec.family,
        "measurements": {name: finite(value) for name, value in best.measurements[best.rung].items()},
        **compared,
        "parameters": best.values,
        "train": {key: value for key, value in train.items() if key != "num_threads"},  # of the machine
    }
