"""A driver that is killed between any two writes: the study resumes and ends as if nothing had happened."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from search.storage.journal import Journal
from search.study.study import Study
from search.worker.messages import FAILED, OUT_OF_MEMORY
from tests.support.killed import connection_of, images_of_database
from tests.support.simulated import (
    OUTCOMES,
    PARETO,
    SPACE,
    Workers,
    check_whole,
    described,
    records_of,
    resume_study,
    settings,
)
from tests.support.thorough import some_of

# Every fifth write; the others are of the same kinds.
NUM_PARTS = 5
every_part = pytest.mark.parametrize("part", some_of(range(NUM_PARTS), always=[0]))


@pytest.mark.thorough  # tests/study/test_samplers_in_studies.py kills one in a database in every run
@pytest.mark.slow  # some 20 studies each
@every_part
def test_a_driver_killed_at_any_write_to_a_database_leaves_a_study_that_ends_the_same(part: int):
    undisturbed, workers = RDBStorage("sqlite:///:memory:"), Workers()
    images = images_of_database(undisturbed, workers)
    resume_study(undisturbed, SPACE, workers)
    check_whole(undisturbed, workers)
    expected = described(undisturbed)
    assert {record.outcome for record in records_of(undisturbed)} >= OUTCOMES
    assert len(images) > 80
    storage = RDBStorage("sqlite:///:memory:")  # one for all: its engine remembers the statements it has compiled
    for k, (image, left) in list(enumerate(images))[part::NUM_PARTS]:
        connection_of(storage).deserialize(image)
        resume_study(storage, SPACE, left)
        check_whole(storage, left)
        assert described(storage) == expected, f"killed before write {k}"


@pytest.mark.slow  # some 20 studies each
@every_part
@pytest.mark.parametrize("space", [SPACE, PARETO], ids=["one metric", "two metrics"])
def test_a_driver_killed_at_any_line_of_a_journal_leaves_a_study_that_ends_the_same(
    space: str, part: int, tmp_path: Path, monkeypatch
):
    workers, images = Workers(), []
    write = JournalFileBackend.append_logs

    def photographed(self: Journal, logs: list[dict[str, Any]]) -> None:
        images.extend(copy.deepcopy(workers) for _ in logs)
        write(self, logs)

    with monkeypatch.context() as patched:
        patched.setattr(JournalFileBackend, "append_logs", photographed)
        resume_study(JournalStorage(Journal(str(tmp_path / "whole.log"))), space, workers)
    undisturbed = JournalStorage(Journal(str(tmp_path / "whole.log")))
    lines = (tmp_path / "whole.log").read_bytes().splitlines(keepends=True)
    assert len(lines) == len(images)
    expected = described(undisturbed)
    for k, left in list(enumerate(images))[part::NUM_PARTS]:
        (tmp_path / f"{k}.log").write_bytes(b"".join(lines[:k]))
        storage = JournalStorage(Journal(str(tmp_path / f"{k}.log")))
        resume_study(storage, space, left)
        check_whole(storage, left)
        assert described(storage) == expected, f"killed before line {k}"


@pytest.mark.parametrize(("outcome", "state"), [(FAILED, "FAIL"), (OUT_OF_MEMORY, "PRUNED")])
def test_a_trial_whose_outcome_was_written_is_ended_so_and_not_trained_again(
    outcome: str, state: str, monkeypatch: pytest.MonkeyPatch
):
    storage, made = InMemoryStorage(), settings(SPACE)
    study = Study.create(storage, "study", made)
    number = study.propose().number
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(storage, "set_trial_state_values", killed)
        study.finish(number, outcome, "so it was")
    again = Study(optuna.load_study(study_name="study", storage=storage), made)
    (record,) = records_of(storage)
    assert (record.outcome, record.reason) == (outcome, "so it was")
    assert storage.get_trial(number).state.name == state
    assert again.propose().number == number + 1


def killed(*args: object) -> None:
    raise KeyboardInterrupt
