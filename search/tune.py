"""Ray Tune around the brain: a Searcher and a Scheduler that only forward, and a Trainable that only forwards.

The only file that imports Ray. Ray places trials on hardware, restarts lost workers and reuses warm ones; every
decision is the brain's, and the study is recovered from its own storage, never from Ray's experiment state.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

# Before Ray is imported: it reads these once.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")  # else every Tuner warns about Train's own migration
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # the record is Optuna's; no CSV, JSON and TensorBoard beside it
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the newer one prints a banner even when told to be silent
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C drains, see _interruptible
os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"  # a lost worker is no news: its trial goes on in another
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(10**9)  # Ray's experiment state is never read

import ray
from ray import tune
from ray.tune import CheckpointConfig, FailureConfig, RunConfig, Stopper, TuneConfig
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from search.hardware import Slots
from search.record import FAILED, PAUSED, TrialRecord
from search.storage import StudyError
from search.study import Study
from search.trial import FOREIGN_CODE

MAX_WORKER_LOSSES = 3  # of one trial, before it is given up
CONNECT_SECONDS = 5.0
OBJECT_STORE_BYTES = 128 * 2**20  # trials exchange small reports; the corpus is a file
PROJECT_ROOT = Path(__file__).resolve().parent.parent


class Listener(Protocol):
    """Is told of every trial that starts, reaches a rung or ends, as it happens."""

    def on_event(self, kind: str, record: TrialRecord) -> None: ...


@contextlib.contextmanager
def local_ray(num_cpus: int, num_gpus: int) -> Iterator[None]:
    """Start Ray on this machine until the block ends. Raises StudyError.

    Ray 2.60 listens on every interface, whatever address it is told.
    """
    with _ray(
        "Ray does not start on this machine",
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
    ):
        yield


@contextlib.contextmanager
def ray_cluster(address: str) -> Iterator[tuple[float, float]]:
    """Connect to a running cluster until the block ends; yields its CPUs and GPUs. Raises StudyError."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():  # Ray itself would try for minutes
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise StudyError(f"no Ray cluster answers at {address!r}: {error}") from None
    with _ray(f"no Ray cluster answers at {address!r}", address=address):
        there = ray.cluster_resources()
        yield there.get("CPU", 1), there.get("GPU", 0)


@contextlib.contextmanager
def _ray(failure: str, **options: Any) -> Iterator[None]:
    logging.getLogger("ray").setLevel(logging.ERROR)
    # Workers import this very checkout, also where it is not installed.
    path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
    # Threads that wait for each other by spinning are up to 30 times slower once anything else wants a core.
    wait_policy = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    try:
        ray.init(
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {"PYTHONPATH": path, "OMP_WAIT_POLICY": wait_policy}},
            **options,
        )
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise StudyError(f"{failure}: {str(error).splitlines()[0]}") from None
    try:
        yield
    finally:
        ray.shutdown()


def run_trials(
    study: Study,
    slots: Slots,
    request_for: Callable[[int, dict[str, Any]], dict[str, Any]],
    listener: Listener,
    *,
    worker: str = "search.trial:TrialRun",
) -> bool:
    """Run the study's trials on a started Ray until none is left; True if it was interrupted before.

    `request_for` turns a trial's number and configuration into what `worker` ("module:class", with `step` and
    `close`) is made with. The first Ctrl-C or SIGTERM drains: each trial stops at its next report and waits in the
    study for another run. A second one ends at once. Raises what ended the study: StudyFailed, NothingFeasible,
    StudyError.
    """
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(slots.num_slots)  # the searcher itself limits how many run
    bridge = _Bridge(study, slots, request_for, listener, worker)
    with tempfile.TemporaryDirectory(prefix="tinysearch-ray-") as scratch, _interruptible(bridge):
        tuner = tune.Tuner(
            tune.with_resources(TrialActor, {"cpu": slots.cpus_per_trial, "gpu": slots.gpus_per_trial}),
            tune_config=TuneConfig(
                search_alg=BrainSearcher(bridge),
                scheduler=BrainScheduler(bridge),
                num_samples=10**9,  # the brain knows when to end
                reuse_actors=True,
            ),
            run_config=RunConfig(
                name="trials",
                storage_path=scratch,
                failure_config=FailureConfig(max_failures=MAX_WORKER_LOSSES),
                checkpoint_config=CheckpointConfig(checkpoint_at_end=False),  # else an empty save for every trial
                stop=_BrainStopper(bridge),
                verbose=0,
            ),
        )
        try:
            tuner.fit()
        finally:
            bridge.release_all()
    if bridge.fatal is not None:
        raise bridge.fatal
    return bridge.is_draining


class TrialActor(tune.Trainable):
    """A warm worker: one process that runs a trial after another."""

    def setup(self, config: dict[str, Any]) -> None:
        module, _, name = config["worker"].partition(":")
        self._trial = getattr(importlib.import_module(module), name)(config["request"])

    def step(self) -> dict[str, Any]:
        return {"report": [self._trial.step()]}  # in a list: Tune flattens mappings

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._trial.close()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        self._trial.close()

    # The trial keeps its own checkpoints: they outlive Ray and say which trial they belong to.
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None

    def load_checkpoint(self, checkpoint: Any) -> None:
        return None


class BrainSearcher(Searcher):
    """Hands the brain's proposals to Ray, one for each free slot and no earlier: a later proposal knows more."""

    def __init__(self, bridge: _Bridge):
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return self._bridge.suggest(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        self._bridge.on_end(trial_id, worker_lost=error)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study's storage is the one truth."""

    def save(self, checkpoint_path: str) -> None:
        """As save_to_dir."""

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a study is recovered from its storage, not from Ray")


class BrainScheduler(FIFOScheduler):
    """Asks the brain whether a trial goes on after each report."""

    def __init__(self, bridge: _Bridge):
        super().__init__()
        self._bridge = bridge

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return self.CONTINUE if self._bridge.on_report(trial.trial_id, result["report"][0]) else self.STOP


class _BrainStopper(Stopper):
    def __init__(self, bridge: _Bridge):
        self._bridge = bridge

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._bridge.fatal is not None


class _Bridge:
    """What Searcher and Scheduler share: which Ray trial is which of ours, and whether the search is ending."""

    def __init__(self, study: Study, slots: Slots, request_for: Callable, listener: Listener, worker: str):
        self.is_draining = False
        self.fatal: BaseException | None = None
        self._study, self._slots, self._request_for, self._listener, self._worker = (
            study,
            slots,
            request_for,
            listener,
            worker,
        )
        self._numbers: dict[str, int] = {}  # Ray's id -> our number, of the trials under way

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher for a restore that never happens; the study stays here

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self.is_draining or self.fatal is not None:
            return Searcher.FINISHED
        if len(self._numbers) >= self._slots.num_slots:
            return None
        paused = [record for record in self._study.records.values() if record.outcome == PAUSED]
        try:
            proposal = self._study.propose()
        except Exception as error:
            return self._fail(error) or Searcher.FINISHED
        if proposal is None:
            for record in paused:  # the brain has stopped them
                self._listener.on_event("ended", record)
            return Searcher.FINISHED
        self._numbers[trial_id] = proposal.number
        self._listener.on_event("started", self._study.records[proposal.number])
        return {"worker": self._worker, "request": self._request_for(proposal.number, proposal.values)}

    def on_report(self, trial_id: str, report: dict[str, Any]) -> bool:
        """Forward a worker's report; True if the trial goes on."""
        number = self._numbers[trial_id]
        record = self._study.records[number]
        try:
            goes_on = self._forward(number, report)
        except Exception as error:
            self._fail(error)
            return False
        self._listener.on_event("ended" if record.has_ended else "report", record)
        if not goes_on:  # ended or paused; if paused, it may be taken up before Ray says that this worker is free
            del self._numbers[trial_id]
        return goes_on and not self.is_draining and self.fatal is None

    def on_end(self, trial_id: str, *, worker_lost: bool) -> None:
        """A Ray trial is over: stopped by us, drained, or given up by Ray because its worker was lost too often."""
        number = self._numbers.pop(trial_id, None)
        if number is None:
            return
        if not worker_lost:
            self._study.release(number)  # drained; does nothing to a trial that has ended
            return
        try:
            self._study.finish(number, FAILED, f"its worker was lost {MAX_WORKER_LOSSES + 1} times")
        except Exception as error:
            self._fail(error)
        self._listener.on_event("ended", self._study.records[number])

    def release_all(self) -> None:
        """Put every trial still under way back to wait."""
        for number in self._numbers.values():
            self._study.release(number)
        self._numbers.clear()

    def _forward(self, number: int, report: dict[str, Any]) -> bool:
        outcome = report.get("outcome")
        if outcome == FOREIGN_CODE:
            ours = PROJECT_ROOT / "trainer"
            raise StudyError(
                f"a worker imports another trainer: {report['reason']} there, {ours} here; make them equal"
            )
        if outcome is not None:
            self._study.finish(
                number, outcome, report["reason"], tokens=report["tokens"], traceback=report.get("traceback", "")
            )
            return False
        progress = {"tokens": report["tokens"], "tokens_per_second": report.get("tokens_per_second")}
        return self._study.report(number, report["measurement"] or progress)

    def _fail(self, error: BaseException) -> None:
        if self.fatal is None:
            self.fatal = error


@contextlib.contextmanager
def _interruptible(bridge: _Bridge) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM drains; the second interrupts."""

    def on_signal(signum: int, frame: Any) -> None:
        if bridge.is_draining:
            raise KeyboardInterrupt
        bridge.is_draining = True
        print("\nending: every trial stops at its next checkpoint; once more ends at once", file=sys.stderr, flush=True)

    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
