"""A trial in its worker when its environment fails: damaged checkpoints, full disks, vanished texts, broken GPUs."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from search.driver.requests import sentinel_at
from search.worker import alone
from search.worker.messages import FAILED, TrialReport, TrialRequest
from search.worker.trial import BrokenProcess, TrialRun, limit_memory
from search.worker.watchdog import take_trace, trace_file, watched
from tests.support.paths import ROOT
from trainer.config import TrainConfig
from trainer.data import open_corpus
from trainer.loop import TrainingRun

CONFIG = {"rungs": [512, 1024, 2048], "seq_len": 16, "batch_size": 4, "d_model": 16, "n_layers": 2, "eval_tokens": 256}
CHECKPOINT = Path("checkpoints/trial-0.pt")

pytestmark = pytest.mark.usefixtures("small_text")


def trial(**request: Any) -> TrialRun:
    text = {"data": ("text",), "attn_layer_idx": 1, "n_heads": 2, "num_threads": 1}
    train = TrainConfig.from_flat("hybrid", {**CONFIG, **text}).to_dict()
    return TrialRun(
        TrialRequest(train=train, **{"location": str(CHECKPOINT.parent), "checkpoint": CHECKPOINT.name, **request})
    )


def losses(run: TrialRun, steps: int) -> list[float]:
    return [run.step().measurement["loss"] for _ in range(steps)]


def test_a_damaged_checkpoint_is_deleted_and_the_trial_trained_again_to_the_same_losses():
    undisturbed = losses(trial(), 3)
    CHECKPOINT.unlink()
    losses(trial(), 2)
    CHECKPOINT.write_bytes(CHECKPOINT.read_bytes()[:-100])
    run = trial()
    first = run.step()
    assert first.fault == (
        "checkpoint damaged: the checkpoint is damaged or cut short; deleted, and trained again from the start"
    )
    assert first.measurement["tokens"] == 512
    second = run.step()
    assert second.fault is None
    measured = [report.measurement["loss"] for report in (first, second, run.step())]
    assert measured == undisturbed  # to the bit


def test_damage_is_reported_once_even_if_the_next_worker_is_lost_before_it_saves(monkeypatch: pytest.MonkeyPatch):
    CHECKPOINT.parent.mkdir()
    CHECKPOINT.write_bytes(b"damaged")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingRun, "advance", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        trial().step()
    assert trial().step().fault is None


def test_a_checkpoint_that_the_trainer_did_not_write_is_replaced_as_well():
    CHECKPOINT.parent.mkdir()
    CHECKPOINT.write_bytes(b"something else")
    assert trial().step().fault.startswith("checkpoint damaged: not a checkpoint of this trainer; ")
    assert trial().step().fault is None


def test_what_a_killed_worker_left_half_written_is_deleted_and_nothing_of_others():
    CHECKPOINT.parent.mkdir()
    for name in ("trial-0.pt.17.tmp", "trial-01.pt.17.tmp", "trial-0.pt.old"):
        CHECKPOINT.with_name(name).write_bytes(b"half")
    trial().step()
    assert sorted(p.name for p in CHECKPOINT.parent.iterdir()) == ["trial-0.pt", "trial-0.pt.old", "trial-01.pt.17.tmp"]


def test_a_text_that_vanished_or_changed_is_an_environment_error_and_not_an_outcome():
    digest = open_corpus(["text"], vocab_size=256).digest
    assert trial(corpus_digests=("another", digest)).step().measurement is not None
    Path("text/0.txt").write_text("Something else. " * 50)
    changed = trial(corpus_digests=(digest,)).step()
    assert changed.outcome is None and changed.environment_error.startswith(
        "the text has changed since the search began: text: 12 files"
    )
    Path("text").rename("elsewhere")
    assert trial().step() == TrialReport(tokens=0, environment_error="text: no such file or folder")
    Path("elsewhere").rename("text")


@contextlib.contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """The system writes that much of a file and then refuses, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_checkpoint_that_cannot_be_written_is_an_environment_error_and_the_last_one_stays():
    run = trial()
    run.step()
    good = CHECKPOINT.read_bytes()
    with files_of_at_most(10_000):
        report = run.step()
    refused = f"{CHECKPOINT}: the checkpoint cannot be written: File too large"
    assert report == TrialReport(tokens=1024, environment_error=refused)
    assert [p.name for p in CHECKPOINT.parent.iterdir()] == [CHECKPOINT.name]
    assert CHECKPOINT.read_bytes() == good
    again = trial()
    assert [again.step().measurement["tokens"] for _ in range(2)] == [512, 1024]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 200 KiB; only root may make one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a disk can be mounted by root only")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_on_a_full_disk_the_environment_error_says_how_much_a_checkpoint_takes(tiny_disk: Path):
    run = TrialRun(dataclasses.replace(trial()._request, location=str(tiny_disk)))
    run.step()
    good = (tiny_disk / "trial-0.pt").read_bytes()
    left = os.statvfs(tiny_disk)
    (tiny_disk / "other").write_bytes(b"x" * (left.f_bavail * left.f_frsize - len(good) // 2))
    message = run.step().environment_error
    size = f"{len(good) / 2**20:.1f} MiB"
    assert message.endswith(f"cannot be written: No space left on device; it takes {size}: free some space there")
    assert (tiny_disk / "trial-0.pt").read_bytes() == good
    assert not list(tiny_disk.glob("*.tmp"))


def test_any_other_file_that_a_full_disk_refuses_is_an_environment_error_too(monkeypatch: pytest.MonkeyPatch):
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded", "/some/where")

    monkeypatch.setattr(TrainingRun, "advance", full)
    assert trial().step().environment_error == "/some/where: Disk quota exceeded; free some space there"


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: device-side assert triggered\nCUDA kernel errors might be ..."),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
    ],
)
def test_after_a_cuda_error_the_process_is_given_up(error: RuntimeError, monkeypatch: pytest.MonkeyPatch):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    run = trial()
    monkeypatch.setattr(TrainingRun, "advance", fail)
    monkeypatch.setattr(TrainingRun, "close", fail)
    with pytest.raises(BrokenProcess) as raised:
        run.step()
    assert str(raised.value) == str(error).splitlines()[0]
    run.close()  # calls nothing of the GPU


def test_running_out_of_the_gpus_memory_breaks_no_process(monkeypatch: pytest.MonkeyPatch):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise torch.AcceleratorError("CUDA error: out of memory")

    monkeypatch.setattr(TrainingRun, "advance", fail)
    assert trial().step().outcome == "out of memory"


def test_a_slice_is_far_shorter_than_what_counts_as_a_hang(monkeypatch: pytest.MonkeyPatch):
    asked = []
    advance = TrainingRun.advance

    def slow_to_save(self: TrainingRun, tokens: int, *, max_seconds: float) -> Any:
        asked.append(max_seconds)
        return advance(self, tokens, max_seconds=max_seconds)

    monkeypatch.setattr(TrainingRun, "advance", slow_to_save)
    monkeypatch.setattr("search.worker.trial.SAVE_SHARE", 1e-9)  # as if saving took ages
    run = trial(hang_seconds=100.0)
    run.step(), run.step()
    assert asked == [10.0, 25.0]
    assert not trace_file(CHECKPOINT).exists()


HANGS = """
import sys, time
from pathlib import Path
from search.worker.watchdog import watched
def waits_for_ever():
    sum(range(10**18))  # holds the interpreter's lock
with watched(Path("checkpoints/trial-7.hang"), 0.5):
    pass
with watched(Path("checkpoints/trial-7.hang"), 0.5):
    waits_for_ever()
"""


def test_a_hung_process_ends_itself_and_leaves_where_it_hung():
    process = subprocess.run(
        [sys.executable, "-c", HANGS], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, timeout=60
    )
    assert process.returncode == 1
    trace = trace_file(Path("checkpoints/trial-7.pt"))
    assert "in waits_for_ever" in take_trace(trace)
    assert take_trace(trace) == "" and not trace.exists()


def test_what_ends_in_time_leaves_no_trace_also_where_it_fails():
    with pytest.raises(ZeroDivisionError), watched(trace_file(CHECKPOINT), 1000.0):
        assert trace_file(CHECKPOINT).exists()
        _ = 1 / 0
    assert not trace_file(CHECKPOINT).exists()


def test_a_confirmation_run_whose_gpu_breaks_has_failed_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    sent: list[TrialReport] = []
    monkeypatch.setattr(TrainingRun, "advance", fail)
    monkeypatch.setattr(alone.signal, "signal", lambda *_: None)
    alone._train(trial()._request, SimpleNamespace(send=sent.append))  # what runs in the other process
    assert sent == [TrialReport(tokens=0, outcome=FAILED, reason="CUDA error: device-side assert triggered")]


def test_a_trial_that_shares_its_gpu_has_its_share_of_the_memory(monkeypatch: pytest.MonkeyPatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", taken.append)
    limit_memory(0.25)
    assert not taken  # there is no GPU here
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    limit_memory(0.25)
    assert taken == [0.25]


def test_a_machine_that_does_not_see_the_studys_folder_takes_no_part(tmp_path: Path):
    sentinel = tmp_path / "driver.json"
    sentinel.write_text("this driver")
    there = trial(sentinel=sentinel_at(sentinel))
    assert there.step().environment_error is None
    for change in (lambda: sentinel.write_text("another"), sentinel.unlink):
        change()
        message = trial_of(there).step().environment_error
        assert message.endswith(
            f"does not see the study's folder {tmp_path}; give one with --runs that all machines share"
        )


def trial_of(other: TrialRun) -> TrialRun:
    """The same request in another worker."""
    return TrialRun(other._request)
