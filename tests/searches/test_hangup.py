"""A terminal that is closed, as by a broken ssh: the search saves its trials and leaves a study that resumes."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from search.cli.main import app
from search.driver import tune
from search.driver.bridge import Bridge
from search.worker import hangup
from search.worker.hangup import HANGUP, held_back, interrupting, outliving_the_terminal
from tests.support.paths import ROOT
from tests.support.thorough import some_of

PATIENCE_SECONDS = 600  # a slow machine is not a fault
SPACE = """
family: hybrid
budget: {trials: 3, min_tokens: 4K, max_tokens: 4M, eta: 10, eval_tokens: 1K}
parameters:
  d_model: {value: 16}
  n_layers: {value: 4}
  n_heads: {value: 2}
  seq_len: {value: 32}
  batch_size: {value: 4}
  learning_rate: {min: 1e-4, max: 1e-2, log: true, default: 1e-3}
"""


class Gone(io.StringIO):
    """A terminal that is gone."""

    def write(self, text: str) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def flush(self) -> None:
        self.write("")


def test_what_is_printed_to_a_terminal_that_is_gone_is_no_error(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdout", Gone())
    monkeypatch.setattr(sys, "stderr", Gone())
    with outliving_the_terminal():
        print("any", flush=True)
        print("any", file=sys.stderr, flush=True)


def test_another_error_of_a_stream_is_one(monkeypatch: pytest.MonkeyPatch):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    with outliving_the_terminal(), pytest.raises(OSError, match="No space"):
        print("any")


@pytest.fixture
def handlers() -> Iterator[None]:
    signals = (signal.SIGINT, signal.SIGTERM, HANGUP)
    before = {signum: signal.getsignal(signum) for signum in signals}
    signal.signal(HANGUP, signal.SIG_DFL)
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def test_a_hangup_drains_however_often_it_comes_and_a_second_term_ends(handlers: None, capsys):
    bridge = Bridge.__new__(Bridge)
    bridge.is_interrupted = False
    with pytest.raises(KeyboardInterrupt), tune._interruptible(bridge):
        for _ in range(3):
            signal.raise_signal(HANGUP)
            assert bridge.is_interrupted
        signal.raise_signal(signal.SIGTERM)
    assert capsys.readouterr().err.count("ending: every trial stops at its next checkpoint") == 1


def test_a_hangup_that_is_ignored_from_the_start_stays_so(handlers: None):
    signal.signal(HANGUP, signal.SIG_IGN)
    bridge = Bridge.__new__(Bridge)
    bridge.is_interrupted = False
    with tune._interruptible(bridge), interrupting():
        signal.raise_signal(HANGUP)
    assert not bridge.is_interrupted and signal.getsignal(HANGUP) is signal.SIG_IGN


@pytest.mark.parametrize("signum", [signal.SIGTERM, HANGUP])
def test_what_trains_alone_is_interrupted_once(handlers: None, signum: signal.Signals):
    caught = 0
    with interrupting():
        try:
            signal.raise_signal(signum)
        except KeyboardInterrupt:
            caught += 1
        signal.raise_signal(HANGUP)
    assert caught == 1


def test_processes_started_meanwhile_have_no_hangup(handlers: None):
    code = "import signal; print(signal.SIGHUP in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"
    with held_back():
        inside = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout
    assert inside.strip() == "True" and HANGUP not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert hangup.heeded() == [HANGUP] and threading.current_thread() is threading.main_thread()


@pytest.mark.slow
@pytest.mark.parametrize("is_ignored", some_of([False, True], always=[]))
def test_a_search_whose_terminal_is_closed_leaves_a_study_that_resumes(small_text: Path, is_ignored: bool):
    Path("space.yaml").write_text(SPACE if not is_ignored else SPACE.replace("4M", "40K"))
    command = [sys.executable, "-m", "search.cli", "run", "space.yaml", "--data", "text", "--parallel", "1"]
    process, terminal = start_on_a_terminal(command, is_ignored=is_ignored)
    journal = Path("runs/space/journal.log")
    started = '"rung 4000"'
    wait_for(lambda: journal.exists() and started in journal.read_text(errors="replace"), terminal)
    os.close(terminal)
    code = process.wait(PATIENCE_SECONDS)
    saved = list(Path("runs/space/checkpoints").glob("trial-*.pt"))
    status = CliRunner().invoke(app, ["status", "space"])
    assert status.exit_code == 0
    if is_ignored:
        assert code == 0 and "space: complete" in status.output
    else:
        assert code == 130 and "not running; `tinysearch resume` resumes it" in status.output
        assert saved and " running" not in status.output.partition("\n")[2], status.output
        assert "faults" not in status.output and " waiting" in status.output or " paused" in status.output


def start_on_a_terminal(command: list[str], *, is_ignored: bool) -> tuple[psutil.Popen, int]:
    """A process that leads the session of a new terminal, and the terminal's other end."""
    ours, theirs = pty.openpty()

    def in_child() -> None:
        signal.signal(HANGUP, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
        import fcntl
        import termios

        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"}
    process = psutil.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
        preexec_fn=in_child,
        close_fds=True,
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    return process, ours


def wait_for(condition, terminal: int) -> None:
    shown = b""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        with contextlib.suppress(OSError):
            shown += os.read(terminal, 65536)  # else the search would wait for a reader
        assert time.monotonic() < end, shown.decode(errors="replace")
        time.sleep(0.2)
