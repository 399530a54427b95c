"""Checkpoints and text at a URL, which may not answer for a while: nothing may be lost."""

from __future__ import annotations

import errno
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from typer.testing import CliRunner

import search.worker.object_store
from search.cli.main import app
from search.worker.checkpoints import checkpoints_at, claim_location, is_owner
from search.worker.corpora import fetch_corpus, share_corpus
from search.worker.messages import TextLocation, TrialRequest
from search.worker.object_store import ObjectStore, ObjectStoreError
from search.worker.trial import TrialRun
from tests.support.paths import SMOKE
from tests.support.s3 import BUCKET, s3_server
from tests.support.searches import QUICK
from trainer.config import TrainConfig
from trainer.data import open_corpus
from trainer.text.errors import CorpusError

CONFIG = {"rungs": [512, 1024, 2048], "seq_len": 16, "batch_size": 4, "d_model": 16, "n_layers": 2, "eval_tokens": 256}
NAME = "trial-0.pt"


@pytest.fixture(scope="module")
def _server(s3: dict[str, str]) -> Iterator[dict[str, str]]:
    with s3_server(s3):
        yield s3


@pytest.fixture(params=["s3", "file"])
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, small_text: Path) -> str:
    """A location of each kind that nothing else uses."""
    if request.param == "file":
        return f"file://{small_text}/shared/store"
    for name, value in request.getfixturevalue("_server").items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{small_text.name}"


@pytest.fixture
def store(url: str) -> ObjectStore:
    return ObjectStore(url, patience_seconds=0)


class Flaky:
    """A file system that fails as given before it does what it is asked."""

    def __init__(self, failures: list[Exception]):
        self.failures = failures

    def cat_file(self, path: str) -> bytes:
        if self.failures:
            raise self.failures.pop(0)
        return b"here"

    def put_file(self, file: str, path: str) -> None:
        self.cat_file(path)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Sleeping passes the time, and only that; how long it was each time."""
    slept: list[float] = []
    monkeypatch.setattr(search.worker.object_store.time, "monotonic", lambda: 1000.0 + sum(slept))
    monkeypatch.setattr(search.worker.object_store.time, "sleep", slept.append)
    return slept


def flaky(*failures: Exception, **options: Any) -> ObjectStore:
    store = ObjectStore("memory://store", **options)
    store._files = Flaky(list(failures))
    return store


def test_what_is_put_is_got_listed_replaced_and_deleted(store: ObjectStore, tmp_path: Path):
    here, there = tmp_path / "here", tmp_path / "there"
    assert not store.exists("a/x.pt") and not store.get("a/x.pt", there) and store.sizes("a") == {}
    for content in (b"one", b"another"):
        here.write_bytes(content)
        store.put(here, "a/x.pt")
        assert store.get("a/x.pt", there) and there.read_bytes() == content and store.exists("a/x.pt")
    store.write(b"{}", "a/b.json")
    store.write(b"deeper", "a/b/c.json")
    assert store.sizes("a") == {"b.json": 2, "x.pt": 7} and store.read("a/b.json") == b"{}"
    store.delete("a/x.pt")
    store.delete("a/x.pt")
    assert store.sizes("a") == {"b.json": 2} and store.read("a/x.pt") is None
    store.check_writable("fresh")
    assert store.sizes("fresh") == {}


def test_a_put_that_ends_half_way_leaves_the_object_as_it_was(small_text: Path, monkeypatch: pytest.MonkeyPatch):
    store = ObjectStore(f"file://{small_text}/shared", patience_seconds=0)
    file = small_text / "text" / "0.txt"
    store.put(file, "x")

    def half(here: str, there: str) -> None:
        Path(there).write_bytes(b"hal")
        raise OSError("the connection is lost")

    monkeypatch.setattr(store._files, "put_file", half)
    with pytest.raises(ObjectStoreError, match="did not answer .OSError: the connection is lost"):
        store.put(file, "x")
    assert store.read("x") == file.read_bytes()


def test_silence_is_waited_for_and_reported_once_it_ends(clock: list[float]):
    waits: list[float] = []
    silence = [OSError("connection reset"), TimeoutError(), RuntimeError("503 slow down")]
    store = flaky(*silence, on_wait=waits.append)
    assert store.read("x") == b"here"
    assert clock == [0.5, 1.0, 2.0] and waits == [3.5]
    assert store.read("x") == b"here" and waits == [3.5]


def test_silence_that_lasts_ends_in_one_located_error(clock: list[float]):
    store = flaky(*[OSError("connection\nreset")] * 99, patience_seconds=100.0)
    with pytest.raises(ObjectStoreError) as refused:
        store.read("x")
    assert str(refused.value) == (
        "memory://store did not answer for 100 s (OSError: connection reset); see that it can be reached"
    )
    assert 80 < sum(clock) <= 100


def test_a_full_disk_here_is_no_silence_there(clock: list[float]):
    with pytest.raises(OSError, match="No space left"):
        flaky(OSError(errno.ENOSPC, "No space left on device", "/tmp/x")).read("x")
    assert not clock


class NoCredentialsError(Exception):
    pass


@pytest.mark.parametrize("error", [PermissionError("Access Denied"), NoCredentialsError("none"), ValueError("name")])
def test_what_will_not_change_is_not_waited_for(error: Exception, clock: list[float]):
    with pytest.raises(ObjectStoreError, match="memory://store cannot be used: "):
        flaky(error).read("x")
    with pytest.raises(ObjectStoreError, match="memory://store is not there: .*; make the bucket first"):
        flaky(FileNotFoundError("no bucket")).put(Path("any"), "x")
    assert not clock


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("runs/shared", "--storage-path runs/shared: not a URL; write one such as s3://bucket/folder"),
        ("sftp://me:pass@host/x", "--storage-path sftp://***@host/x: the study would keep the password or token"),
        ("s3://KEY:a/pass@bucket/x", "--storage-path s3://***@bucket/x: the study would keep the password or token"),
        ("abfs://box@host/x?sig=pass@", "--storage-path abfs://***: the study would keep the password or token"),
        ("nothing://x", "nothing://x cannot be used: ValueError: Protocol not known: nothing"),
        ("gs://bucket/x", "gs://bucket/x: what speaks to gs:// is not installed; Please install gcsfs"),
    ],
)
def test_a_url_that_cannot_be_is_refused_before_anything_is_written(url: str, said: str, small_text: Path):
    shutil.copy(SMOKE, "space.yaml")
    before = sorted(Path().iterdir())
    result = CliRunner().invoke(app, ["run", "space.yaml", "--data", "text", "--storage-path", url])
    assert result.exit_code == 2 and said in result.output and "pass@" not in result.output
    assert sorted(p for p in Path().iterdir() if p.name != "cache") == before


def _not_installed(url: str) -> None:
    raise ImportError("Install s3fs to access S3")


def test_a_package_that_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fsspec, "url_to_fs", _not_installed)
    with pytest.raises(ObjectStoreError, match=r"s3:// is not installed; run pip install -e '\.\[s3\]' in tinysearch"):
        ObjectStore("s3://bucket")


def test_a_server_that_is_not_there_is_one_error(monkeypatch: pytest.MonkeyPatch, small_text: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "n0secret")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(ObjectStoreError, match="s3://bucket/x did not answer .*127.0.0.1"):
        ObjectStore("s3://bucket/x", patience_seconds=0).read("y")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


# The text.


def config(**changes: Any) -> TrainConfig:
    flat = {**CONFIG, "data": ("text",), "attn_layer_idx": 1, "n_heads": 2, "num_threads": 1, **changes}
    return TrainConfig.from_flat("hybrid", flat)


@pytest.mark.parametrize("vocab_size", [256, 300])
def test_a_text_is_the_same_on_a_machine_that_has_none_of_its_files(store: ObjectStore, vocab_size: int):
    here = open_corpus(["text"], vocab_size=vocab_size)
    share_corpus(here, store)
    there = fetch_corpus(here.digest, store, vocab_size=vocab_size, cache_dir="elsewhere")
    assert (there.digest, there.about, there.vocab_size) == (here.digest, here.about, here.vocab_size)
    for part in ("train", "validation", "token_bytes", "marks"):
        ours, theirs = getattr(here, part), getattr(there, part)
        assert ours.dtype == theirs.dtype and (ours == theirs).all()
    assert there.bytes_per_token == here.bytes_per_token
    assert [list(s) for s in there.held_out_text(2000)] == [list(s) for s in here.held_out_text(2000)]


def test_tokens_of_the_users_own_are_shared_as_the_parts_they_are_cut_into(store: ObjectStore, small_text: Path):
    Path("own.bin").write_bytes(bytes(range(200)) * 10)
    here = open_corpus(["own.bin"], vocab_size=60_000)
    share_corpus(here, store)
    Path("own.bin").unlink()
    there = fetch_corpus(here.digest, store, vocab_size=60_000, cache_dir="elsewhere")
    assert len(there.validation) == 100 and (there.train[:100] == there.train[100:200]).all()
    assert there.token_bytes is None


def test_a_text_is_written_and_copied_once(store: ObjectStore, monkeypatch: pytest.MonkeyPatch):
    here = open_corpus(["text"], vocab_size=256)
    share_corpus(here, store)
    fetch_corpus(here.digest, store, vocab_size=256, cache_dir="elsewhere")
    monkeypatch.setattr(ObjectStore, "put", None)
    monkeypatch.setattr(ObjectStore, "get", None)
    share_corpus(here, store)
    fetch_corpus(here.digest, store, vocab_size=256, cache_dir="elsewhere")


def test_a_text_that_is_damaged_or_gone_is_not_trained_on(store: ObjectStore):
    here = open_corpus(["text"], vocab_size=256)
    share_corpus(here, store)
    folder = f"corpora/{here.digest}"
    good = store.read(f"{folder}/train.bin")
    listed = store.read(f"{folder}/corpus.json")
    assert good is not None and listed is not None

    def refusal() -> str:
        with pytest.raises(CorpusError) as refused:
            fetch_corpus(here.digest, store, vocab_size=256, cache_dir="elsewhere")
        return str(refused.value)

    location = f"{store}/{folder}"
    store.write(good[:-1] + b"?", f"{folder}/train.bin")
    assert refusal() == f"{location}: its train is damaged or not there; delete the folder"
    store.delete(f"{folder}/train.bin")
    assert refusal() == f"{location}: its train is damaged or not there; delete the folder"
    store.write(good, f"{folder}/train.bin")
    for broken in (b"[]", b"{", b'{"parts": {"train": 3}}', listed.replace(b"uint8", b"uint99")):
        store.write(broken, f"{folder}/corpus.json")
        assert refusal().startswith(f"{location} is damaged: ")
    store.delete(f"{folder}/corpus.json")
    assert refusal() == f"{location} is gone: the driver writes it again when it starts"
    assert not list(Path("elsewhere").glob("building-*"))
    store.write(listed, f"{folder}/corpus.json")
    assert fetch_corpus(here.digest, store, vocab_size=256, cache_dir="elsewhere").digest == here.digest


def test_a_cache_that_cannot_be_written_is_reported(store: ObjectStore):
    here = open_corpus(["text"], vocab_size=256)
    share_corpus(here, store)
    Path("file").touch()
    with pytest.raises(CorpusError, match="file/cache: the cache folder cannot be written: .*; set TINYSEARCH_CACHE"):
        fetch_corpus(here.digest, store, vocab_size=256, cache_dir="file/cache")


# A trial.


def trial(url: str, digest: str, **request: Any) -> TrialRun:
    """A trial on a machine that has neither the text nor a folder of the study."""
    train = config(data=("/nowhere/text",), cache_dir="elsewhere").to_dict()
    return TrialRun(
        TrialRequest(
            train=train,
            **{
                "location": f"{url}/study/checkpoints",
                "checkpoint": NAME,
                "trace": "/nowhere/trial-0.hang",
                "text": TextLocation(url, digest),
                "hang_seconds": 1000.0,
                **request,
            },
        )
    )


def losses(run: TrialRun, steps: int) -> list[float]:
    return [run.step().measurement["loss"] for _ in range(steps)]


def test_a_trial_resumes_elsewhere_from_its_checkpoint_to_the_same_losses(url: str, store: ObjectStore):
    corpus = open_corpus(["text"], vocab_size=256)
    share_corpus(corpus, store)
    at_home = TrialRun(TrialRequest(train=config().to_dict(), location="checkpoints", checkpoint=NAME))
    undisturbed = losses(at_home, 3)
    first = trial(url, corpus.digest)
    before = losses(first, 2)
    first.close()
    assert list(store.sizes("study/checkpoints")) == [NAME]
    second = trial(url, corpus.digest)
    again = losses(second, 3)  # its rungs are reported again, for those reports may have been lost
    assert before == undisturbed[:2] and again == undisturbed
    assert not Path("study").exists()
    later = trial(url, corpus.digest, checkpoint="trial-9.pt", continues=NAME)
    assert losses(later, 3) == undisturbed
    assert not list(Path("elsewhere").glob("building-*"))


def test_a_damaged_checkpoint_is_deleted_and_the_trial_trained_again(url: str, store: ObjectStore):
    corpus = open_corpus(["text"], vocab_size=256)
    share_corpus(corpus, store)
    undisturbed = losses(trial(url, corpus.digest), 3)
    name = f"study/checkpoints/{NAME}"
    content = store.read(name)
    assert content is not None
    store.write(content[:-10], name)
    report = trial(url, corpus.digest).step()
    assert report.measurement["loss"] == undisturbed[0]
    assert report.fault == (
        "checkpoint damaged: the checkpoint is damaged or cut short; deleted, and trained again from the start"
    )


def test_a_location_that_stays_silent_is_an_environment_error_and_one_that_comes_back_a_fault(
    url: str, store: ObjectStore, monkeypatch: pytest.MonkeyPatch, clock: list[float]
):
    corpus = open_corpus(["text"], vocab_size=256)
    share_corpus(corpus, store)
    run = trial(url, corpus.digest)
    assert losses(run, 1)
    away = [True] * 3
    put = ObjectStore._patiently

    def patiently(self: ObjectStore, call: Any, **options: Any) -> Any:
        def or_not() -> Any:
            if away and away.pop():
                raise OSError("network is unreachable")
            return call()

        return put(self, or_not, **options)

    monkeypatch.setattr(ObjectStore, "_patiently", patiently)
    report = run.step()
    assert report.measurement["tokens"] == 1024
    assert report.fault == "storage path silent: no answer for 4 s"
    away[:] = [True] * 99
    error = run.step().environment_error
    silent = "did not answer for 250 s"  # a quarter of what counts as a hang
    reason = "(OSError: network is unreachable); see that it can be reached"
    assert error == f"{url}/study/checkpoints {silent} {reason}"
    away.clear()
    assert losses(trial(url, corpus.digest), 3)[2]


def test_a_worker_on_the_drivers_machine_leaves_its_trace_where_the_driver_looks(small_text: Path):
    trace = small_text / "runs" / "study" / "checkpoints" / "trial-0.hang"
    elsewhere = trial("memory://store", "digest", trace=trace)._trace
    assert elsewhere.name == trace.name and not elsewhere.is_relative_to(small_text)
    assert elsewhere.parent != trial("memory://store", "digest", trace=trace)._trace.parent  # each has its own
    trace.parent.parent.mkdir(parents=True)
    assert trial("memory://store", "digest", trace=trace)._trace == trace


# A study.


def test_what_is_under_a_studys_name_is_one_studys(store: ObjectStore):
    assert not is_owner(store, "hybrid", "mine")
    claim_location(store, "hybrid", "mine")
    claim_location(store, "hybrid", "mine")
    assert is_owner(store, "hybrid", "mine") and not is_owner(store, "other", "mine")
    for content in (None, b"{", b"[]", b'{"id": 5}'):
        if content is not None:
            store.write(content, "hybrid/study.json")
        with pytest.raises(ObjectStoreError, match="/hybrid is of another study of that name; choose another --name"):
            claim_location(store, "hybrid", "theirs")


def test_only_the_studys_own_checkpoints_are_cleaned_there(url: str, store: ObjectStore):
    checkpoints = checkpoints_at(f"{url}/study/checkpoints", patience_seconds=0)
    for name in ("a.pt", "b.pt"):
        with checkpoints.to_write(name) as file:
            file.write_bytes(b"x" * 10)
    assert checkpoints.exists("a.pt") and checkpoints.sizes() == {"a.pt": 10, "b.pt": 10}
    checkpoints.delete("a.pt")
    with checkpoints.to_read("a.pt") as gone, checkpoints.to_read("b.pt") as there:
        assert gone is None and there is not None and there.read_bytes() == b"x" * 10
    assert not there.exists()  # what passed through this machine does not stay on it


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize("url", ["s3"], indirect=True)
def test_a_search_has_its_checkpoints_and_text_at_a_url(url: str, store: ObjectStore, monkeypatch: pytest.MonkeyPatch):
    Path("space.yaml").write_text(QUICK)
    run = ["run", "space.yaml", "--data", "text", "--name", "away", "--storage-path", url, "--trials", "3"]
    ask = CliRunner().invoke
    result = ask(app, run)
    assert result.exit_code == 0, result.output
    assert not list(Path("runs/away").glob("checkpoints/*"))
    kept = store.sizes("away/checkpoints")
    finished = [t for t in json.loads(ask(app, ["trials", "away", "--json"]).output) if t["outcome"] == "finished"]
    assert list(kept) == [f"trial-{trial['trial']}.pt" for trial in sorted(finished, key=lambda t: t["trial"])]
    status = ask(app, ["status", "away"]).output
    assert f"checkpoints in {url}/away/checkpoints: {len(kept)} file" in status
    # It continues from there, to more tokens; without the URL it would be another study.
    assert "storage path: " in ask(app, run[:6]).output
    further = ask(app, ["resume", "away", "--max-tokens", "18K"])
    assert further.exit_code == 0, further.output
    best = json.loads(ask(app, ["best", "away", "--json"]).output)
    assert best["measurements"]["tokens"] == 18_000
    cleaned = json.loads(ask(app, ["clean", "away", "--all", "--json"]).output)
    assert cleaned["files"] and all(f["file"].startswith(f"{url}/away/checkpoints/trial-") for f in cleaned["files"])
    assert list(store.sizes("away/checkpoints")) == [f"trial-{best['trial']}.pt"]
    # A reader without access to the location sees the study, and deletes nothing of it.
    with monkeypatch.context() as away:
        away.setattr(fsspec, "url_to_fs", _not_installed)
        seen = ask(app, ["status", "away"])
        assert seen.exit_code == 0 and "is not installed; run pip install" in seen.output
    own = store.read("away/study.json")
    assert own is not None
    store.write(b'{"id": "theirs"}', "away/study.json")
    for command in (["clean", "away"], ["resume", "away", "--trials", "+1"]):
        refused = ask(app, command)
        assert refused.exit_code == 2 and "away is of another study of that name" in refused.output
    store.write(own, "away/study.json")
    # Another study of that name would take its checkpoints for its own.
    shutil.rmtree("runs")
    refused = ask(app, run)
    assert refused.exit_code == 2 and f"{url}/away is of another study of that name; choose another" in refused.output
    assert not Path("runs").exists()
