"""The request that a worker gets for each trial of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search.driver.hardware import Slots
from search.space.space import Space
from search.space.spec import BudgetSpec
from search.storage.folder import StudyFolder
from search.study.study import Study
from search.study.text import corpus_digests
from search.worker.checkpoints import checkpoint_name, location_of
from search.worker.corpora import share_corpus
from search.worker.messages import Sentinel, TextLocation, TrialRequest
from search.worker.object_store import ObjectStore
from search.worker.watchdog import trace_file
from trainer.config import TrainConfig
from trainer.data import corpus_for

SPEED = "tokens_per_second"


class Requests:
    """Makes the requests, and writes the text to the study's URL if it has one."""

    def __init__(self, study: Study, folder: StudyFolder, slots: Slots, hang_seconds: float):
        self._study, self._folder, self._slots = study, folder, slots
        self._hang_seconds = hang_seconds
        url = study.settings.storage_path
        self._location = location_of(folder.checkpoints, folder.name, url)
        self._store = ObjectStore(url) if url else None
        self._corpus_digests = tuple(corpus_digests(study.settings))
        self._shared: dict[int, str] = {}  # digest of the text at the URL, by vocabulary

    def request(self, number: int, values: dict[str, Any]) -> TrialRequest:
        config = self._study.settings.train_config(values, num_threads=self._slots.num_threads)
        before = self._study.records[number].continues
        name = checkpoint_name(number)
        return TrialRequest(
            train=config.to_dict(),
            study_rungs=self._study.rungs,
            location=self._location,
            checkpoint=name,
            continues=None if before is None else checkpoint_name(before),
            trace=str(trace_file(self._folder.checkpoints / name)),
            text=self._text(config),
            exclusive=self._slots.is_exclusive,
            measures_alone=measures_alone(self._slots, self._study.settings.space, self._study.settings.budget),
            corpus_digests=self._corpus_digests,
            hang_seconds=self._hang_seconds,
            memory_share=None if self._slots.is_exclusive else self._slots.gpus_per_trial,
            family=self._study.settings.space.family_source,
            sentinel=sentinel_at(self._folder.owner) if self._store is None else None,
        )

    def _text(self, config: TrainConfig) -> TextLocation | None:
        """Where a worker finds the text. It is written there when the first trial with its vocabulary starts."""
        if self._store is None:
            return None
        size = config.model.vocab_size
        if size not in self._shared:
            corpus = corpus_for(config)
            share_corpus(corpus, self._store)
            self._shared[size] = corpus.digest
        return TextLocation(str(self._store), self._shared[size])


def sentinel_at(file: Path) -> Sentinel:
    return Sentinel(str(file), file.read_text(encoding="utf-8"))


def measures_alone(slots: Slots, space: Space, budget: BudgetSpec) -> bool:
    """Whether a trial's speed is measured while the others on its GPU pause: speeds count and the GPU is shared."""
    return not slots.is_exclusive and SPEED in {*(m.name for m in space.spec.objectives), *space.limits(budget)}
