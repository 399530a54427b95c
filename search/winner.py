"""A trial's configuration for reuse: as the trainer takes it, with what was measured and the guide's own beside it."""

from __future__ import annotations

from typing import Any

import optuna

from search.record import TrialRecord
from search.report import Overview, finite, is_number
from search.settings import StudySettings
from trainer.config import TrainConfig


def best_document(stored: optuna.Study) -> dict[str, Any] | None:
    """The best finished trial (by the first metric) for reuse; None where no trial has finished its budget.

    It has the parameters, the measurements, and under `train` what the trainer takes.
    """
    overview, settings = Overview.stored(stored, is_run=False), StudySettings.of(stored)
    return None if overview.best is None else _document(overview, settings, overview.best)


def front_documents(stored: optuna.Study) -> list[dict[str, Any]]:
    """As `best_document`, each trial of the front; the best by the first metric stands first."""
    overview, settings = Overview.stored(stored, is_run=False), StudySettings.of(stored)
    return [_document(overview, settings, record) for record in overview.front]


def _document(overview: Overview, settings: StudySettings, best: TrialRecord) -> dict[str, Any]:
    reference, compared = overview.reference, {}
    names = [metric.name for metric in overview.metrics]
    theirs = {} if reference is None else {name: reference.measured(name, best.rung) for name in names}
    if reference is not None and all(map(is_number, theirs.values())):
        compared = {"reference": {"preset": reference.preset, **theirs, "tokens": best.rung}}
    return {
        "study": overview.name,
        "trial": best.number,
        "preset": best.preset or None,
        "family": settings.space.family,
        "measurements": {name: finite(value) for name, value in best.measurements[best.rung].items()},
        **compared,
        "parameters": best.values,
        "train": train_config(settings, best.values, num_threads=best.environment.get("num_threads")).to_dict(),
    }


def train_config(settings: StudySettings, values: dict[str, Any], *, num_threads: int | None = None) -> TrainConfig:
    """What the trainer takes for a configuration of this study."""
    return settings.space.train_config(
        values,
        rungs=settings.own_rungs(values),
        data=tuple(settings.corpus["paths"]),
        seed=settings.seed,
        num_threads=num_threads,
        **settings.run,
    )
