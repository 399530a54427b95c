"""The journal file with transactions: Optuna reads from it what was written, and a step is one write."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import warnings
from collections.abc import Iterator

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search.storage.folder import StudyFolder
from search.storage.journal import Journal, JournalError
from search.storage.optuna_private import JournalOperation
from search.storage.replay import Replay
from search.storage.snapshot import WORTHWHILE, Snapshot


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
        pytest.raises(JournalError, match=r"j\.log cannot be written: File too large; .* the same command resumes"),
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


def large_journal(file, num_trials: int = 3) -> optuna.Study:
    """A study whose journal is worth a snapshot."""
    study = new_study(file)[1]
    for number in range(num_trials):
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        trial.set_user_attr("padding", "x" * (WORTHWHILE // 2))
        study.tell(trial, float(number))
    return study


def read(file) -> list:
    return optuna.load_study(study_name="s", storage=JournalStorage(Journal(str(file)))).trials


def test_a_journal_that_has_grown_is_read_from_its_snapshot_and_what_came_after_it(tmp_path, monkeypatch):
    file = tmp_path / "journal.log"
    study = large_journal(file)
    assert read(file) == study.trials
    snapshot = (tmp_path / "journal.snapshot").read_bytes()
    study.ask()
    taken = []
    take = Replay.take
    monkeypatch.setattr(Replay, "take", lambda replay, entry: taken.append(entry["op_code"]) or take(replay, entry))
    assert read(file) == study.trials == as_optuna_reads_it(file).trials
    assert len(taken) == 5 < len(file.read_bytes().splitlines())  # the study, three whole trials, and the new one
    assert (tmp_path / "journal.snapshot").read_bytes() == snapshot  # not worth another


@pytest.mark.parametrize("spoil", ["journal", "snapshot", "cut", "entry", "nested", "number", "newer"])
def test_a_snapshot_that_is_not_of_this_journal_is_passed_over(tmp_path, spoil):
    file, snapshot = tmp_path / "journal.log", tmp_path / "journal.snapshot"
    trials = large_journal(file).trials
    assert read(file) == trials
    header, entries = snapshot.read_bytes().split(b"\n")
    if spoil == "journal":
        file.write_bytes(file.read_bytes().replace(b'"values":[2.0]', b'"values":[2.5]'))
    elif spoil == "snapshot":
        snapshot.write_bytes(header + b"\n" + entries.replace(b"[2.0]", b"[3.0]"))
    elif spoil == "cut":
        snapshot.write_bytes(header + b"\n" + entries[:-100])
    elif spoil == "entry":  # its digest is right
        Snapshot([{"op_code": 77}], *sizes(header)).keep(file, file.read_bytes())
    elif spoil == "nested":
        snapshot.write_bytes(b"[" * 100_000)
    elif spoil == "number":
        snapshot.write_bytes(header.replace(b'"bytes": ', b'"bytes": -') + b"\n" + entries)
    else:
        snapshot.write_bytes(header.replace(b'"format": 1', b'"format": 2') + b"\n" + entries)
    assert [trial.value for trial in read(file)] == [0.0, 1.0, 2.5 if spoil == "journal" else 2.0]
    assert read(file) == as_optuna_reads_it(file).trials


def sizes(header: bytes) -> tuple[int, int]:
    about = json.loads(header)
    return about["bytes"], about["lines"]


def test_damage_after_a_snapshot_is_reported_by_its_line_of_the_journal(tmp_path):
    file = tmp_path / "journal.log"
    large_journal(file)
    read(file)
    with open(file, "a") as journal:
        journal.write("[nonsense\n")
    with pytest.raises(JournalError, match=r"journal\.log:14: the journal is damaged here: not JSON"):
        read(file)


def test_a_driver_leaves_a_snapshot(tmp_path):
    folder = StudyFolder(tmp_path, "s")
    with folder.lock(["minimize"]):
        assert not folder.journal.exists()
        large_journal(folder.journal)
    assert folder.journal.with_name("journal.snapshot").exists()


def test_the_journal_has_the_entries_in_their_order_whatever_the_transaction_made_of_them(tmp_path):
    journal, study = new_study(tmp_path / "j.log")
    with journal.transaction():
        trial = study._storage.create_new_trial(0, optuna.trial.create_trial(state=TrialState.RUNNING))
        optuna.Trial(study, trial).set_user_attr("loss", 2.0)
    created = json.loads((tmp_path / "j.log").read_text().splitlines()[-2])
    assert created["op_code"] == 4 and created["user_attrs"] == {}


def every_operation(file) -> None:
    """A journal with an entry of each operation that this Optuna has."""
    journal = Journal(str(file))
    storage = JournalStorage(journal)
    optuna.create_study(storage=storage, study_name="gone")
    optuna.delete_study(study_name="gone", storage=storage)
    study = optuna.create_study(storage=storage, study_name="s", directions=["minimize", "maximize"])
    study.set_user_attr("note", 1)
    study.set_metric_names(["loss", "speed"])
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.set_user_attr("values", {"x": 0.5})
    storage.set_trial_system_attr(0, "place", "here")
    storage.set_trial_intermediate_value(0, 10, 0.25)
    journal.append_logs([{"op_code": JournalOperation.DISCARD_TRIALS, "worker_id": "another", "study_id": 1}])
    study.tell(trial, [0.5, 2.0])
    study.ask()


def whole(study: optuna.Study) -> tuple:
    return study.trials, study.user_attrs, study.metric_names, study.directions


def test_every_operation_that_optuna_defines_is_read_as_optuna_reads_it(tmp_path):
    file = tmp_path / "j.log"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        every_operation(file)
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    assert {entry["op_code"] for entry in entries} == set(JournalOperation)
    assert whole(new_reader(file)) == whole(as_optuna_reads_it(file))


@pytest.mark.parametrize("operation", JournalOperation)
def test_a_journal_with_an_operation_that_is_not_known_here_is_read_as_optuna_reads_it(
    tmp_path, monkeypatch, operation: JournalOperation
):
    file = tmp_path / "j.log"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        every_operation(file)
    make = Replay.__init__

    def forgetful(replay: Replay) -> None:
        make(replay)
        del replay._takers[operation]

    monkeypatch.setattr(Replay, "__init__", forgetful)
    study = new_reader(file)
    assert whole(study) == whole(as_optuna_reads_it(file))
    study.set_user_attr("note", 2)  # and continues
    assert as_optuna_reads_it(file).user_attrs == new_reader(file).user_attrs == {"note": 2}
