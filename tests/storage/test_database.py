"""Studies in a database: the same study as in a journal, one driver at a time, and a server that may go away."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import psutil
import pytest
import sqlalchemy
from optuna.storages import InMemoryStorage
from optuna_dashboard import wsgi

from benchmarks.postgres import PASSWORD, Server
from search.space.loading import load_space
from search.storage import lease, retrying
from search.storage.address import Address
from search.storage.database import Database
from search.storage.folder import FAULTS, StudyError, StudyFolder
from search.storage.lease import DRIVER, Lease
from search.storage.optuna_database import IdempotentStorage
from search.storage.retrying import RetryingStorage
from search.storage.study_store import study_store
from search.study.settings import StudySettings
from search.study.study import Study
from tests.support.paths import ROOT
from tests.support.searches import QUICK
from tests.support.simulated import SPACE, Workers, check_whole, described, resume_study, settings
from tests.support.tool import printed_json, tinysearch
from trainer.data import open_corpus

SMOKE = ROOT / "spaces" / "smoke.yaml"


@pytest.fixture(params=["journal", "sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """The URL of each kind of study store; None is the journal's."""
    return url_of(request, tmp_path)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return url_of(request, tmp_path)


def url_of(request: pytest.FixtureRequest, folder: Path) -> str | None:
    match request.param:
        case "sqlite":
            return f"sqlite:///{folder}/studies.db"
        case "postgres":
            return request.getfixturevalue("postgres").new_database()
    return None


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases and retries in tenths of a second."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "WATCH_SECONDS", 1.0)
    monkeypatch.setattr(retrying, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(retrying, "LONGEST_PAUSE_SECONDS", 0.1)


@functools.cache
def undisturbed() -> list[str]:
    storage = InMemoryStorage()
    resume_study(storage, SPACE, Workers())
    return described(storage)


def folder_at(url: str | None, runs: Path, name: str = "study") -> StudyFolder:
    return StudyFolder(runs, name, study_store(url, runs))


def run(folder: StudyFolder, workers: Workers) -> None:
    with folder.lock(settings(SPACE).directions):
        resume_study(folder.open_storage(), SPACE, workers)


def test_a_study_is_the_same_wherever_it_is_kept(store_url: str | None, tmp_path: Path):
    folder, workers = folder_at(store_url, tmp_path), Workers()
    assert folder.find() is None
    run(folder, workers)
    again = folder_at(store_url, tmp_path)
    assert described(again.open_storage()) == undisturbed()
    check_whole(again.open_storage(), workers)
    assert len(again.load().trials) == 7
    assert again.driver() is None
    assert FAULTS not in again.load().user_attrs


def test_the_study_that_was_run_last_is_the_latest(store_url: str | None, tmp_path: Path):
    assert study_store(store_url, tmp_path).names() == []
    for name in ("first", "second", "first"):
        folder = folder_at(store_url, tmp_path, name)
        with folder.lock(settings(SPACE).directions):
            if folder.find() is None:
                study = optuna.create_study(storage=folder.open_storage(), study_name=name, load_if_exists=True)
                for key, value in settings(SPACE).to_attrs().items():
                    study.set_user_attr(key, value)
            else:
                folder.load().set_user_attr("trials", 9)
    assert study_store(store_url, tmp_path).names() == ["second", "first"]


def test_looking_for_a_study_writes_nothing(tmp_path: Path, postgres: Server):
    file, server = f"sqlite:///{tmp_path}/studies.db", postgres.new_database()
    for url in (file, server):
        with pytest.raises(StudyError, match="no study 'study' in .*; there are no studies there yet"):
            folder_at(url, tmp_path).load()
    assert list(tmp_path.iterdir()) == []
    assert tables(server) == []


def tables(url: str) -> list[str]:
    with connected(url) as connection:
        return sqlalchemy.inspect(connection).get_table_names()


def execute(url: str, statement: str) -> None:
    with connected(url) as connection:
        connection.execute(sqlalchemy.text(statement))


@contextlib.contextmanager
def connected(url: str) -> Iterator[sqlalchemy.Connection]:
    """A connection of the test's own, beside what is tested."""
    engine = sqlalchemy.create_engine(Address(url).for_sqlalchemy)
    with engine.begin() as connection:
        yield connection
    engine.dispose()


# Whose turn it is.

DRIVER_PROCESS = """
import sys, time
from pathlib import Path
from search.storage.study_store import study_store
from search.storage.folder import StudyFolder
with StudyFolder(Path(sys.argv[2]), "study", study_store(sys.argv[1], Path(sys.argv[2]))).lock(["minimize"]):
    print("holds", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other_driver(url: str, tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process that drives the study, with another folder of runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER_PROCESS, url, tmp_path / "theirs"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "holds\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_driver_is_refused_with_the_first_ones_host_and_process(
    url: str, tmp_path: Path, other_driver: subprocess.Popen
):
    first = f"process {other_driver.pid} on {os.uname().nodename}"
    ours = folder_at(url, tmp_path / "ours")
    with pytest.raises(StudyError, match=f"the study study is being run by {first}; wait for it"), ours.lock():
        pass
    assert ours.driver() == first


def test_a_driver_that_was_killed_on_this_host_is_followed_at_once(
    url: str, tmp_path: Path, other_driver: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
):
    def watched(seconds: float) -> None:
        raise AssertionError("a dead process of this host needs no watching")

    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=time.monotonic, sleep=watched))
    other_driver.kill()  # and not waited for: a zombie is dead too
    while psutil.Process(other_driver.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    ours = folder_at(url, tmp_path / "ours")
    assert ours.driver() is None
    run(ours, Workers())
    assert described(ours.open_storage()) == undisturbed()


@pytest.mark.usefixtures("hurried")
def test_a_driver_elsewhere_that_gives_no_sign_is_followed_and_one_that_does_is_not(url: str, tmp_path: Path):
    folder = folder_at(url, tmp_path)
    run(folder, Workers())
    study = folder.load()
    theirs = {"host": "elsewhere", "system": "x", "pid": 7, "token": "t", "beats": 3, "turn": 1}
    study.set_user_attr(DRIVER, theirs)
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(0.02):
            theirs["beats"] += 1
            study.set_user_attr(DRIVER, theirs)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        assert folder.driver() == "process 7 on elsewhere"
        with pytest.raises(StudyError, match="run by process 7 on elsewhere"), folder.lock():
            pass
    finally:
        stopped.set()
        thread.join()
    assert folder.driver() is None
    with folder.lock():
        assert study.user_attrs[DRIVER]["pid"] == os.getpid()
    assert study.user_attrs[DRIVER] == {"turn": 2}


@pytest.mark.usefixtures("hurried")
def test_of_many_drivers_at_once_one_gets_the_study(url: str, tmp_path: Path):
    run(folder_at(url, tmp_path), Workers())
    storage = Database(url).open("study")
    study_id = storage.get_study_id_from_name("study")
    refusals: list[str] = []
    contenders = [Lease(storage.engine, study_id, "study") for _ in range(8)]
    gate = threading.Barrier(len(contenders))

    def contend(contender: Lease) -> None:
        gate.wait()
        try:
            contender.acquire()
        except StudyError as error:
            refusals.append(str(error))

    threads = [threading.Thread(target=contend, args=[contender]) for contender in contenders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    holders = [contender for contender in contenders if contender._thread.is_alive()]
    assert (len(holders), len(refusals)) == (1, 7)
    holders[0].check()
    holders[0].release()


@pytest.mark.usefixtures("hurried")
def test_the_end_of_a_driver_waits_for_a_running_beat(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Else the connection of that beat outlives the storage, and nobody closes it."""
    in_beat, gate, swap = threading.Event(), threading.Event(), Lease._swap

    def slow(self: Lease, before: str | None, after: str) -> bool:
        with self._engine.connect():
            if threading.current_thread() is self._thread:
                in_beat.set()
                gate.wait()
            return swap(self, before, after)

    monkeypatch.setattr(Lease, "_swap", slow)
    folder = folder_at(postgres.new_database(), tmp_path)
    with folder.lock(["minimize"]):
        engine = folder.open_storage().engine
        assert in_beat.wait(60)
        threading.Timer(0.5, gate.set).start()
    assert engine.pool.checkedout() == 0


@pytest.mark.usefixtures("hurried")
def test_a_driver_that_was_frozen_and_taken_over_ends_and_writes_nothing_more(url: str, tmp_path: Path):
    frozen = folder_at(url, tmp_path / "frozen")
    with frozen.lock(settings(SPACE).directions):
        storage, workers = frozen.open_storage(), Workers()
        writes: list[str] = []

        def taken_over() -> None:
            writes.append("one")
            if len(writes) == 40:
                set_lease(storage, {"host": "elsewhere", "pid": 7, "token": "t", "beats": 0, "turn": 2})
            guard()

        guard, storage.guard = storage.guard, taken_over
        with pytest.raises(StudyError, match="the study study was taken over by process 7 on elsewhere"):
            resume_study(storage, SPACE, workers)
        before = described(storage)
        with pytest.raises(StudyError, match="taken over"):
            resume_study(storage, SPACE, workers)
        assert described(storage) == before
    assert json.loads(lease_of(storage))["token"] == "t"  # the end of the frozen one leaves the other's lease alone


def set_lease(storage: RetryingStorage, content: dict[str, Any]) -> None:
    storage._storage.set_study_user_attr(storage.get_study_id_from_name("study"), DRIVER, content)


def lease_of(storage: RetryingStorage) -> str:
    return Lease(storage.engine, storage.get_study_id_from_name("study"), "study")._read()


# A server that does not answer.


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("after", [3, 25])  # of its writes: among the first, and while trials are running
def test_a_server_that_crashes_and_comes_back_costs_waiting_and_no_trial(
    after: int, postgres: Server, tmp_path: Path, capfd: pytest.CaptureFixture
):
    folder, workers = folder_at(postgres.new_database(), tmp_path), Workers()
    restart = threading.Timer(0.3, postgres.start)
    with folder.lock(settings(SPACE).directions):
        storage = folder.open_storage()
        create, calls = storage._storage.set_trial_user_attr, []

        def crashing(*args: Any) -> None:
            calls.append(args)
            if len(calls) == after:
                postgres.crash()
                restart.start()
            create(*args)

        storage._storage.set_trial_user_attr = crashing
        resume_study(storage, SPACE, workers)
        restart.join()
    assert described(storage) == undisturbed()
    check_whole(storage, workers)
    (fault,) = folder.load().user_attrs[FAULTS]
    assert fault.startswith("the storage did not answer for ") and fault.endswith(" s")
    message = capfd.readouterr().err
    assert message.count("does not answer, waiting") == message.count("answers again after") == 1
    assert "s3cret" not in message


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("lost", [2, 3])
def test_what_was_done_although_its_answer_was_lost_is_not_done_twice(
    lost: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Every second or third commit is carried out and then fails, as if the connection had broken."""
    monkeypatch.setattr("optuna.storages._rdb.storage.time", SimpleNamespace(sleep=lambda seconds: None))
    backend = IdempotentStorage(f"sqlite:///{tmp_path}/studies.db")
    commit, commits = backend.engine.dialect.do_commit, itertools.count(1)

    def losing(connection: Any) -> None:
        commit(connection)
        if next(commits) % lost == 0:
            raise sqlite3.OperationalError("database is locked")

    backend.engine.dialect.do_commit = losing
    storage, workers = RetryingStorage(backend, "the storage", str), Workers()
    resume_study(storage, SPACE, workers)
    assert next(commits) > 100
    assert described(storage) == undisturbed()
    check_whole(storage, workers)


@pytest.mark.usefixtures("hurried")
def test_a_server_that_stays_away_ends_the_driver_with_what_to_do(
    postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retrying, "PATIENCE_SECONDS", 0.3)
    folder = folder_at(postgres.new_database(), tmp_path)
    with folder.lock(settings(SPACE).directions):
        storage = folder.open_storage()
        postgres.crash()
        try:
            with pytest.raises(StudyError, match=r"postgresql://tinysearch:\*\*\*@.* did not answer for 0 s") as caught:
                resume_study(storage, SPACE, Workers())
            monkeypatch.setattr(retrying, "PATIENCE_SECONDS", 600)  # and yet what follows is not waited for again
            with pytest.raises(StudyError, match="did not answer"):
                storage.get_all_studies()
        finally:
            postgres.start()
    assert str(caught.value).endswith("once it does, the same command resumes")


@pytest.mark.usefixtures("hurried")
def test_what_waiting_does_not_mend_is_refused_at_once(url: str, tmp_path: Path, capfd: pytest.CaptureFixture):
    folder = folder_at(url, tmp_path)
    with folder.lock(settings(SPACE).directions):
        storage = folder.open_storage()
        execute(url, "drop table trial_intermediate_values")
        with pytest.raises(StudyError, match="refuses: .*trial_intermediate_values"):
            resume_study(storage, SPACE, Workers())
    assert "waiting" not in capfd.readouterr().err


# What is refused, and that no password is shown.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("studies.db", "--storage studies.db is not a database URL; write sqlite:///FILE, "),
        ("oracle://me:hush@host/db", "--storage oracle://me:***@host/db: unknown scheme 'oracle'. Known: sqlite, "),
        ("postgresql//me:hush@host/db", "not a database URL"),
        ("postgresql://me:hush@host:port/db", "--storage postgresql://me:***@host:port/db is not a database URL"),
        ("sqlite://", "--storage sqlite:// would be lost with this process; name a file: sqlite:///"),
        ("sqlite:///:memory:", "would be lost with this process"),
        ("postgresql+asyncpg9://me:hush@host/db", "postgresql+asyncpg9://me:***@host/db needs the driver asyncpg9, "),
        ("postgresql://me:hush@127.0.0.1:1/db", "postgresql://me:***@127.0.0.1:1/db cannot be opened: connection "),
        (
            "postgresql://127.0.0.1:1/db?user=me&password=hush",
            "postgresql://127.0.0.1:1/db?user=me&password=*** cannot",
        ),
        ("mysql://me:hush@127.0.0.1:1/db", "mysql://me:***@127.0.0.1:1/db cannot be opened: "),
        (
            "sqlite:////nowhere/at/all/studies.db",
            "sqlite:////nowhere/at/all/studies.db cannot be opened: unable to open",
        ),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_password(text: str, message: str):
    with pytest.raises(StudyError) as caught:
        Database(text).open("study")
    assert message in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(("scheme", "module"), [("postgresql", "psycopg"), ("mysql", "pymysql")])
def test_a_driver_that_is_missing_is_named_with_its_extra(scheme: str, module: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(StudyError) as caught:
        Database(f"{scheme}://me:hush@host/db").open("study")
    assert str(caught.value) == (
        f"{scheme}://me:***@host/db needs the driver {module}, which is not installed; "
        f"run pip install -e '.[{scheme}]' in tinysearch's checkout"
    )


def test_a_wrong_password_is_refused_and_not_shown(postgres: Server):
    url = postgres.new_database().replace("s3cret", "wr0ng")
    with pytest.raises(StudyError, match="password authentication failed") as caught:
        Database(url).open("study")
    assert "wr0ng" not in str(caught.value) and PASSWORD not in str(caught.value)


def test_a_password_in_what_the_database_says_is_masked():
    address = Address("postgresql://me:a%2Fb%20c@host/db?sslpassword=x%26y")
    for text in ("a/b c", "a%2Fb%20c", "a%2Fb+c", "x&y", "x%26y"):
        assert address.masked(f"cannot reach me:{text}@host") == "cannot reach me:***@host"
    assert address.shown == "postgresql://me:***@host/db?sslpassword=***"


def test_a_database_of_something_else_is_refused_and_left_alone(url: str):
    execute(url, "create table invoices (id integer)")
    for use in (lambda: Database(url).find("study"), lambda: Database(url).open("study"), Database(url).names):
        with pytest.raises(StudyError, match="is not Optuna's: it holds invoices; give tinysearch a database of its"):
            use()
    assert tables(url) == ["invoices"]


def test_a_database_of_another_optuna_is_refused_with_what_to_do(url: str):
    Database(url).open("study")
    execute(url, "update alembic_version set version_num = 'v2.6.0.a'")
    with pytest.raises(
        StudyError, match="was made by another Optuna .its tables are of v2.6.0.a, .*optuna storage upgrade"
    ):
        Database(url).names()


def test_a_study_of_another_program_is_refused(url: str, tmp_path: Path):
    storage = Database(url).open("study")
    optuna.create_study(storage=storage, study_name="theirs").set_user_attr("note", "theirs")
    with pytest.raises(StudyError, match="holds an Optuna study 'theirs' that tinysearch did not make"):
        folder_at(url, tmp_path, "theirs").find()
    assert study_store(url, tmp_path).names() == []


# The commands.


def trained_study(url: str, name: str = "mine") -> None:
    """A study of the smoke space whose two trials have ended, without any training."""
    parsed, text = load_space(SMOKE), str(Path("text").absolute())
    corpus = open_corpus([text], vocab_size=256)
    made = StudySettings(
        space=parsed,
        budget=parsed.budget(),
        run={"token_dtype": "uint16", "eval_tokens": 4000, "precision": "fp32"},
        corpus={"paths": [text], "digest": corpus.digest, "about": corpus.about},
    )
    folder = folder_at(url, Path("runs").absolute(), name)
    with folder.lock(made.directions):
        study = Study.create(folder.open_storage(), name, made, trials=2)
        while (proposal := study.propose()) is not None:
            for rung in study.rungs:
                if not study.report(proposal.number, {"tokens": rung, "loss": 3.0 - rung / 1e6}):
                    break


@pytest.mark.usefixtures("small_text")
def test_every_command_finds_the_study_by_url_or_by_environment(url: str, monkeypatch: pytest.MonkeyPatch):
    trained_study(url, "older")
    trained_study(url)
    status = json.loads(tinysearch("status", "--storage", url, "--json")[1])
    assert (status["study"], status["complete"], status["driver"]) == ("mine", True, None)
    assert len(json.loads(tinysearch("trials", "older", "--storage", url, "--json")[1])) == 2
    monkeypatch.setenv("OPTUNA_STORAGE", url)
    assert json.loads(tinysearch("best", "--json")[1])["study"] == "mine"
    code, out, _ = tinysearch("run", SMOKE, "--name", "mine", "--data", "text", "--trials", "2")
    assert code == 0 and "2 of 2 trials" in out and "s3cret" not in out and "--storage" not in out
    code, _, message = tinysearch("run", SMOKE, "--name", "mine", "--data", "text", "--seed", "1")
    assert code == 2 and "exists with other settings" in message
    code, _, message = tinysearch("status", "yours")
    assert code == 2 and message.endswith("studies there: mine, older\n") and "s3cret" not in message
    assert not list(Path("runs").glob("*/journal.log"))


@pytest.mark.usefixtures("small_text")
def test_status_says_who_drives(url: str, monkeypatch: pytest.MonkeyPatch):
    trained_study(url)
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER_PROCESS.replace('"study"', '"mine"'), url, Path("theirs").absolute()],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "holds\n"
        assert f"mine: run by process {process.pid} on " in tinysearch("status", "mine", "--storage", url)[1]
        code, _, message = tinysearch("confirm", "mine", "--storage", url, "--seeds", "1")
        assert code == 2 and f"is being run by process {process.pid} on " in message
    finally:
        process.kill()
        process.communicate()
    assert "mine: complete" in tinysearch("status", "mine", "--storage", url)[1]


@pytest.mark.usefixtures("small_text")
def test_the_dashboard_reads_the_study(url: str):
    trained_study(url)
    served = wsgi(folder_at(url, Path("runs").absolute(), "mine").open_storage())
    answered: list[str] = []
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    environ |= {"PATH_INFO": "/api/studies", "HTTP_HOST": "127.0.0.1"}
    body = b"".join(served(environ, lambda status, *rest: answered.append(status)))
    assert answered == ["200 OK"]
    assert [study["study_name"] for study in json.loads(body)["study_summaries"]] == ["mine"]


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_a_real_search_in_postgresql(postgres: Server, small_text: Path, monkeypatch: pytest.MonkeyPatch):
    url = postgres.new_database()
    monkeypatch.setenv("OPTUNA_STORAGE", url)
    Path("smoke.yaml").write_text(QUICK)
    code, *outputs = tinysearch("run", "smoke.yaml", "--data", "text", "--parallel", "1", "--cpus-per-trial", "1")
    assert code == 0, outputs
    status = printed_json("status")
    assert (status["study"], status["complete"], status["driver"]) == ("smoke", True, None)
    stored = folder_at(url, small_text / "runs", "smoke").load()
    assert {trial.state.name for trial in stored.trials} <= {"COMPLETE", "PRUNED"}
    written = [path for path in (small_text / "runs").rglob("*") if path.is_file()]
    assert "space.yaml" in {path.name for path in written}
    for message in (*outputs, *(path.read_bytes().decode("latin-1") for path in written)):
        assert "s3cret" not in message


def test_several_drivers_may_be_the_first_in_a_database(url: str, tmp_path: Path):
    """Every process that finds none of Optuna's tables creates them; if another one was first, it looks again."""
    opened: list[Any] = []
    gate = threading.Barrier(8)

    def open_one(number: int) -> None:
        gate.wait()
        try:
            opened.append(study_store(url, tmp_path).open(f"study{number}"))
        except StudyError as error:
            opened.append(error)

    threads = [threading.Thread(target=open_one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(storage) for storage in opened] == [RetryingStorage] * 8
