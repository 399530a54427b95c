"""Ray Tune around the study: a Searcher, a Scheduler and a Trainable that only forward calls.

Ray places trials on hardware, restarts lost workers and reuses warm ones. Every decision is the study's. The study is
recovered from its own storage, never from Ray's experiment state.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Set before Ray Tune is imported: it reads these once.
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")  # otherwise every Tuner warns about the migration of Ray Train
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # Optuna keeps the record; no CSV, JSON or TensorBoard files
os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the newer output prints a banner even at verbosity 0
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C drains, see _interruptible
os.environ["TUNE_PRINT_ALL_TRIAL_ERRORS"] = "0"  # a lost worker needs no message: its trial resumes in another one
os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(10**9)  # Ray's experiment state is never read

from ray import tune
from ray.tune import CheckpointConfig, RunConfig, Stopper, TuneConfig
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from search.driver.bridge import Bridge, Listener
from search.driver.cluster import DriverRegistration, is_here, nodes
from search.driver.hardware import Slots
from search.driver.ray_private import count_every_loss_of_a_worker
from search.driver.scratch import scratch_folder
from search.storage.folder import StudyError
from search.study.study import Study
from search.worker.hangup import HANGUP, heeded
from search.worker.messages import TrialReport, TrialRequest

ActorManager = count_every_loss_of_a_worker()
LOOK_SECONDS = 5.0  # between two checks for new and lost machines


def run_trials(
    study: Study,
    slots: Slots,
    request_for: Callable[[int, dict[str, Any]], TrialRequest],
    listener: Listener,
    *,
    worker: str = "search.worker.trial:TrialRun",
    is_shared: bool = False,
    max_seconds: float = math.inf,
) -> bool:
    """Run the study's trials on a started Ray until none is left; True if it was interrupted.

    `request_for` turns a trial's number and configuration into the request for `worker` ("module:class", with `step`
    and `close`). The first Ctrl-C, SIGTERM or hangup drains: each trial stops at its next report and waits in the study
    for the next run. A second one, except a hangup, ends at once. After `max_seconds` the search drains by itself.
    `is_shared`: other searches may run on this Ray too. Raises what ended the study: StudyFailed, NothingFeasible or
    StudyError.
    """
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(10**6)  # the searcher itself limits how many run
    bridge = Bridge(study, slots.num_slots, request_for, listener, worker, max_seconds=max_seconds)
    with scratch_folder() as folder, _interruptible(bridge):
        scratch = str(folder)
        try:
            watch = _Watch(bridge, slots, DriverRegistration() if is_shared else None)
            _tuner(bridge, slots, watch, scratch).fit()
            while not bridge.is_ending and study.has_more:  # Ray stops asking once there was no proposal
                _tuner(bridge, slots, watch, scratch).fit()
        finally:
            bridge.release_all()
    if bridge.fatal is not None:
        raise bridge.fatal
    return bridge.is_interrupted


def _tuner(bridge: Bridge, slots: Slots, watch: _Watch, scratch: str) -> tune.Tuner:
    return tune.Tuner(
        tune.with_resources(TrialActor, slots.resources),
        tune_config=TuneConfig(
            search_alg=StudySearcher(bridge),
            scheduler=StudyScheduler(bridge),
            num_samples=10**9,  # the study knows when to end
            reuse_actors=True,
        ),
        run_config=RunConfig(
            name="trials",
            storage_path=scratch,
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),  # otherwise an empty save for every trial
            stop=watch,
            verbose=0,
        ),
    )


class TrialActor(tune.Trainable):
    """A warm worker: one process that runs one trial after another."""

    def setup(self, config: dict[str, Any]) -> None:
        module, _, name = config["worker"].partition(":")
        self._trial = getattr(importlib.import_module(module), name)(TrialRequest.from_dict(config["request"]))

    def step(self) -> dict[str, Any]:
        return {"report": [self._trial.step().to_dict()]}  # in a list, because Tune flattens mappings

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._trial.close()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        self._trial.close()

    # The trial writes its own checkpoints: they outlive Ray and name their trial.
    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None

    def load_checkpoint(self, checkpoint: Any) -> None:
        return None


class StudySearcher(Searcher):
    """Passes the study's proposals to Ray, one for each free slot and no earlier: a later proposal knows more."""

    def __init__(self, bridge: Bridge):
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # it has no FINISHED
        if self._bridge.is_full and not self._bridge.is_ending:
            return None
        found = self._bridge.suggest(trial_id)
        if found is None and self._bridge.may_have_more:
            return None
        return found or Searcher.FINISHED

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._bridge.on_end(trial_id, worker_lost=error)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Does nothing: the study is recovered from its own storage."""

    def save(self, checkpoint_path: str) -> None:
        """As save_to_dir."""

    def restore(self, checkpoint_path: str) -> None:
        raise AssertionError("a study is recovered from its storage, not from Ray")


class StudyScheduler(FIFOScheduler):
    """Asks the study after each report whether the trial continues."""

    def __init__(self, bridge: Bridge):
        super().__init__()
        self._bridge = bridge

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """Prefers no trial: each new one gets a free worker, or else a new one.

        Ray's FIFO would give a free worker to a trial whose own worker is about to start, and end that one. If some
        worker is free every few seconds, no new worker would ever begin: machines that join a large cluster would stay
        unused.
        """
        return None

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        report = TrialReport.from_dict(result["report"][0])
        return self.CONTINUE if self._bridge.on_report(trial.trial_id, report) else self.STOP

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        trial.max_failures = trial.num_failures + self._bridge.num_losses_left(trial.trial_id)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """A worker was lost. Ray calls this before it starts another one, or before it gives the trial up.

        Ray 2.60 reports the loss of a worker that was about to begin a trial twice, and gives the trial up at the
        second report, when it is pending. The bridge makes it resume.
        """
        if trial.status != trial.PENDING:
            failures = Path(trial.error_file).read_text(errors="replace")
            self._bridge.on_worker_lost(trial.trial_id, failures.split("Failure # ")[-1])
            self.on_trial_add(tune_controller, trial)


class _Watch(Stopper):
    """Checks Ray's machines and drivers every few seconds, and ends the run if the bridge has a reason.

    New machines are used, and lost ones are not waited for. But if the Ray of this machine is gone, Tune would wait for
    ever. If there are several drivers, each takes its share.
    """

    def __init__(self, bridge: Bridge, slots: Slots, registration: DriverRegistration | None):
        self._bridge, self._slots, self._registration = bridge, slots, registration
        self._next_look = 0.0

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_SECONDS
            if not is_here():
                self._bridge.fail(StudyError("Ray has ended on this machine; the same command resumes"))
                return True
            num_slots = self._slots.on(nodes())
            self._bridge.on_slots(self._registration.share(num_slots) if self._registration else num_slots)
        return self._bridge.fatal is not None


@contextlib.contextmanager
def _interruptible(bridge: Bridge) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM drains; the second interrupts. A hangup drains, however often it comes."""

    def on_signal(signum: int, frame: Any) -> None:
        if bridge.is_interrupted:
            if signum == HANGUP:
                return
            raise KeyboardInterrupt
        bridge.is_interrupted = True
        again = "" if signum == HANGUP else "; once more ends at once"
        print(f"\nending: every trial stops at its next checkpoint{again}", file=sys.stderr, flush=True)

    signals = (signal.SIGINT, signal.SIGTERM, *heeded())
    before = {s: signal.signal(s, on_signal) for s in signals}
    try:
        yield
    finally:
        for signum, handler in before.items():
            ended_so = signum == HANGUP and bridge.is_interrupted  # a shell that ends sends one more
            signal.signal(signum, signal.SIG_IGN if ended_so else handler)
