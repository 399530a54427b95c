"""The journal file with transactions: Optuna reads from it what was written, and a step is one write."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.journal import Journal, JournalError
from search.storage import StudyFolder


def new_study(path) -> tuple[Journal, optuna.Study]:
    journal = Journal(str(path))
    return journal, optuna.create_study(storage=JournalStorage(journal), study_name="s")


def as_optuna_reads_it(path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=JournalStorage(JournalFileBackend(str(path))))


def train(study: optuna.Study, x: float) -> None:
    trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
    trial.set_user_attr("values", {"x": x})
    trial.report(x, step=1)
    study.tell(trial, x)


def test_what_a_transaction_records_is_seen_inside_it_and_read_by_optuna_after_it(tmp_path):
    journal, study = new_study(tmp_path / "j.log")
    for x in (0.1, 0.2, 0.3):
        with journal.transaction():
            train(study, x)
            assert study.trials[-1].value == x
    train(study, 0.4)  # outside a transaction, as Optuna does it
    assert [t.value for t in as_optuna_reads_it(tmp_path / "j.log").trials] == [0.1, 0.2, 0.3, 0.4]
    assert as_optuna_reads_it(tmp_path / "j.log").trials == study.trials


def test_a_transaction_is_synced_to_the_disk_once(tmp_path, monkeypatch):
    journal, study = new_study(tmp_path / "j.log")
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with journal.transaction(), journal.transaction():
        train(study, 0.5)
    assert len(synced) == 1


def test_what_was_recorded_before_an_error_is_kept(tmp_path):
    journal, study = new_study(tmp_path / "j.log")
    with pytest.raises(ZeroDivisionError), journal.transaction():
        train(study, 0.5)
        _ = 1 / 0
    train(study, 0.6)
    assert [t.value for t in as_optuna_reads_it(tmp_path / "j.log").trials] == [0.5, 0.6]


def test_what_another_process_writes_between_transactions_is_neither_lost_nor_doubled(tmp_path):
    journal, study = new_study(tmp_path / "j.log")
    with journal.transaction():
        train(study, 0.1)
    other = as_optuna_reads_it(tmp_path / "j.log")
    other.set_user_attr("note", "from a dashboard")
    with journal.transaction():
        train(study, 0.2)
    assert study.user_attrs["note"] == "from a dashboard"
    assert [t.value for t in study.trials] == [t.value for t in other.trials] == [0.1, 0.2]


@contextlib.contextmanager
def full_after(num_bytes: int) -> Iterator[None]:
    """The system writes that much of a file and then refuses, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("in_transaction", [True, False])
def test_a_full_disk_leaves_nothing_half_written(tmp_path, in_transaction):
    path = tmp_path / "j.log"
    journal, study = new_study(path)
    train(study, 0.1)
    before = path.read_bytes()
    with (
        pytest.raises(JournalError, match=r"j\.log cannot be written: File too large; .* the same command goes on"),
        full_after(len(before) + 100),
        journal.transaction() if in_transaction else contextlib.nullcontext(),
    ):
        study.set_user_attr("long", "x" * 1000)
    assert path.read_bytes() == before


def test_what_is_in_memory_after_a_failed_write_never_reaches_the_file(tmp_path):
    path = tmp_path / "j.log"
    journal, study = new_study(path)
    before = path.read_bytes()
    with pytest.raises(JournalError), full_after(len(before) + 100), journal.transaction():
        train(study, 0.1)
    with pytest.raises(JournalError, match="j.log cannot be written"):  # although there is space again
        train(study, 0.2)
    with pytest.raises(JournalError), journal.transaction():
        pytest.fail("a transaction began")
    assert path.read_bytes() == before and not list(tmp_path.glob("*.lock"))
    assert as_optuna_reads_it(path).trials == []
    train(as_optuna_reads_it(path), 0.3)
    assert [t.value for t in new_reader(path).trials] == [0.3]


def test_a_line_that_could_not_even_be_taken_back_is_dropped_at_the_next_start(tmp_path, monkeypatch):
    folder = StudyFolder(tmp_path, "s")
    folder.path.mkdir()
    journal = folder.path / "journal.log"
    _, study = new_study(journal)
    before = journal.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "truncate", refuse)
    with pytest.raises(JournalError), full_after(len(before) + 100):
        study.set_user_attr("long", "x" * 1000)
    assert journal.read_bytes() != before
    with folder.lock():
        pass
    assert journal.read_bytes() == before


def new_reader(path) -> optuna.Study:
    return optuna.load_study(study_name="s", storage=JournalStorage(Journal(str(path))))


def test_a_line_that_is_not_whole_is_read_once_it_is(tmp_path):
    journal, study = new_study(tmp_path / "j.log")
    entry = b'{"op_code":2,"worker_id":"w","study_id":0,"user_attr":{"note":1}}\n'
    with open(tmp_path / "j.log", "ab", buffering=0) as file:
        file.write(entry[:30])
        assert study.user_attrs == {}
        file.write(entry[30:])
        assert study.user_attrs == {"note": 1}
