"""A small study in which trials have ended in every way, driven without Ray and without training.

    python -m benchmarks.outcomes RUNS NAME

The controller records made-up measurements, so the folder RUNS/NAME is what a search would have left that was
interrupted. tests/study/studies holds such folders as earlier versions wrote them; files are fuzzed from one, too.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna

from search.space.loading import parse_space
from search.storage.folder import StudyFolder
from search.study.settings import StudySettings
from search.study.study import Proposal, Study
from search.worker.messages import DIVERGED, FAILED, OUT_OF_MEMORY

SPACE = """\
family: hybrid
about: A small space for the tests of stored studies.
budget: {trials: 12, min_tokens: 1000, max_tokens: 9000, eta: 3, eval_tokens: 1000}
limits: {tokens_per_second: {min: 10}}
parameters:
  d_model: {values: [16, 32, 64], default: 32}
  n_layers: {min: 2, max: 6, default: 3}
  attn_layer_idx: {min: 0, max: n_layers - 1, default: 1}
  n_heads: {values: [1, 2, 4, 8], default: 2}
  learning_rate: {min: 1e-4, max: 1e-1, log: true, default: 1e-3}
rules:
  - {require: d_model // n_heads >= 8, why: heads of at least eight channels}
presets:
  guide: {d_model: 32}
"""
ENVIRONMENT = {"host": "node", "device": "x86_64", "num_threads": 1, "python": "3.11.7", "torch": "2.13.0"}


def make_study(runs: Path, name: str) -> Study:
    """The study `name` in the folder `runs`, which must not have it yet."""
    folder, space = StudyFolder(runs, name), parse_space(SPACE, "spaces/small.yaml")
    folder.path.mkdir(parents=True)
    (folder.path / "space.yaml").write_text(SPACE, encoding="utf-8")
    settings = StudySettings(
        space=space,
        budget=space.budget(),
        run={"token_dtype": "uint16", "eval_tokens": 1000, "precision": "fp32"},
        corpus={"digest": "d", "about": "some text", "paths": []},
    )
    study = Study.create(folder.open_storage(), name, settings)
    odd: dict[int, Callable[[int], Any]] = {
        2: lambda number: study.finish(number, OUT_OF_MEMORY, "CUDA out of memory"),
        3: lambda number: study.finish(number, DIVERGED, "the training loss is nan", tokens=700),
        4: lambda number: study.finish(number, FAILED, "ValueError: x", traceback="Traceback: ValueError: x"),
        5: lambda number: study.report(number, measurement(1000, 2.0) | {"tokens_per_second": 5.0}),
    }
    while (proposal := study.propose()) is not None:
        if proposal.number in odd:
            odd[proposal.number](proposal.number)
        else:
            train(study, proposal)
    keep_a_confirmation(folder.load(), study)

    study = Study(folder.load(), settings, trials=24)  # extended, and then interrupted
    while not any(record.outcome == "paused" for record in study.records.values()):
        proposal = study.propose()
        assert proposal is not None
        train(study, proposal)
    interrupted = study.propose()
    assert interrupted is not None
    study.report(interrupted.number, {"tokens": 500, "tokens_per_second": 90.0})
    study.release(interrupted.number)
    study.propose()  # and one whose driver was killed
    return study


def train(study: Study, proposal: Proposal) -> None:
    """Report at each rung, until the search controller has another use for the worker."""
    for rung in study.rungs:
        if rung > study.records[proposal.number].rung:
            distance = abs(math.log10(proposal.values["learning_rate"]) + 2) + abs(proposal.values["n_layers"] - 4) / 4
            if not study.report(proposal.number, measurement(rung, 2 + distance + 1000 / rung)):
                return


def measurement(tokens: int, loss: float) -> dict[str, Any]:
    """What a worker would report."""
    return {
        "tokens": tokens,
        "loss": loss,
        "bits_per_byte": loss / math.log(2),
        "tokens_per_second": 100.0,
        "peak_vram_bytes": 2**20,
        "num_params": 1000,
        "train_seconds": tokens / 100,
        "peak_rss_bytes": 2**28,
        "estimated": True,
        "exclusive": True,
        "environment": dict(ENVIRONMENT),
    }


def keep_a_confirmation(stored: optuna.Study, study: Study) -> None:
    """A run of the reference with another seed, as `tinysearch confirm` keeps it."""
    run = measurement(9000, 3.2)
    environment = run.pop("environment")
    kept = {"outcome": "finished", "reason": "", "measurement": run, "environment": environment}
    stored.set_user_attr("confirmed 0 1", kept)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.outcomes", description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("name")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = make_study(options.runs, options.name)
    for record in study.records.values():
        print(record.number, record.outcome, record.rung)


if __name__ == "__main__":
    main()
