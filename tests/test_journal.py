"""The journal file with transactions: Optuna reads from it what was written, and a step is one write."""

from __future__ import annotations

import os
from contextlib import nullcontext

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.journal import Journal


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


@pytest.mark.parametrize("in_transaction", [True, False])
def test_a_write_that_fails_leaves_no_part_of_a_line_behind(tmp_path, monkeypatch, in_transaction):
    journal, study = new_study(tmp_path / "j.log")
    train(study, 0.1)

    def full(file: int) -> None:
        os.write(file, b'{"op_code":8,"half')
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"), journal.transaction() if in_transaction else nullcontext():
            study.set_user_attr("note", "lost")
    study.set_user_attr("note", "kept")
    assert as_optuna_reads_it(tmp_path / "j.log").user_attrs == {"note": "kept"}
    assert [t.value for t in as_optuna_reads_it(tmp_path / "j.log").trials] == [0.1]


def test_a_line_that_is_not_whole_is_read_once_it_is(tmp_path):
    journal, study = new_study(tmp_path / "j.log")
    entry = b'{"op_code":2,"worker_id":"w","study_id":0,"user_attr":{"note":1}}\n'
    with open(tmp_path / "j.log", "ab", buffering=0) as file:
        file.write(entry[:30])
        assert study.user_attrs == {}
        file.write(entry[30:])
        assert study.user_attrs == {"note": 1}
