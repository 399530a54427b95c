"""What a trial slot loses between trials: tinysearch beside Ray's OptunaSearch + ASHAScheduler, on warm workers.

    python -m benchmarks.overhead [--json] [--trials 40] [--rounds 2] [--slots 2]

Both run the same trials, which train nothing, on the same Ray and in turns (A B A B), so that a noisy machine is
noisy for both. A trial reports at every rung of the space's budget a loss that depends on its configuration, so that
ASHA stops some. The worker stamps the start and end of every step.

Definition, the same for both: a slot's overhead for a trial is the time from the end of the last step of the trial
before it on that slot to the end of its own last step, less the time inside its steps. It holds everything in between:
reporting, deciding, finishing the one trial; proposing, resetting the worker for and starting the next. The first trial
of a slot is left out: a cold worker, which waits until every slot has one. A worker that is started later takes over
the slot that has been idle longest, and its start counts, because the slot suffers it.

What runs, and why it is a fair comparison:
- tinysearch: `run_trials` as `tinysearch run` calls it: the controller, a journal on disk, the requests for the trainer
  and the display; only the training is missing.
- Ray: both parts as in Ray's documentation: `OptunaSearch` with the same ranges (its rules cannot be told, so no draw
  is ever rejected), which keeps its record in memory, and `ASHAScheduler` at the same rungs and eta. Tune's defaults
  otherwise, with its loggers, snapshots and a trial proposed ahead, because users get them; as a favour
  `reuse_actors=True` (off by default: every trial would start a process) and `verbose=0`.
A trial that is stopped early reports less often, so the table also shows the steps per trial.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from search.worker.messages import TrialReport, TrialRequest

SPACE = Path(__file__).resolve().parent.parent / "spaces" / "hybrid.yaml"
MAX_WAIT_SECONDS = 60.0  # for the other slots' workers to start
SLOTS = "slots"  # a file with the number of slots, beside the stamps
TINYSEARCH, RAY_STOCK = "tinysearch", "ray_stock"


class NoopTrial:
    """Stands in for search.worker.trial's TrialRun: each step is a rung, reached at once. Runs in the worker."""

    def __init__(self, request: TrialRequest):
        self._train = request.train
        self._rungs = list(request.rungs)
        self._trial = request.checkpoint
        self._stamps = Path(request.location)

    def step(self) -> TrialReport:
        started = time.time()
        self._wait_for_all_slots()
        tokens = self._rungs.pop(0)
        report = TrialReport(tokens=tokens, tokens_per_second=1e6, measurement=self._measurement(tokens))
        self._stamp(started, time.time())
        return report

    def close(self) -> None:
        pass

    def _measurement(self, tokens: int) -> dict[str, Any]:
        loss = 1 + abs(math.log(self._train["learning_rate"] / 2e-3)) / 4 + self._train["model"]["d_model"] ** -0.5
        loss += (tokens / self._train["rungs"][0]) ** -0.3
        return {
            "loss": loss,
            "bits_per_byte": loss / math.log(2),
            "tokens_per_second": 1e6,
            "peak_vram_bytes": 2**30,
            "num_params": 10**6,
            "tokens": tokens,
            "train_seconds": tokens / 1e6,
            "exclusive": True,
        }

    def _wait_for_all_slots(self) -> None:
        """In a cold worker, whose trial is not measured: let every slot get its worker.

        Trials this short would else all be done by the first worker: Tune gives up one that is still starting as soon
        as another is free.
        """
        (self._stamps / f"{os.getpid()}.jsonl").touch()
        num_slots = int((self._stamps / SLOTS).read_text())
        give_up = time.monotonic() + MAX_WAIT_SECONDS
        while len(list(self._stamps.glob("*.jsonl"))) < num_slots and time.monotonic() < give_up:
            time.sleep(0.01)

    def _stamp(self, started: float, ended: float) -> None:
        line = json.dumps([os.getpid(), self._trial, started, ended])
        with open(self._stamps / f"{os.getpid()}.jsonl", "a", encoding="utf-8") as file:
            file.write(line + "\n")


@dataclass(frozen=True)
class Span:
    """One trial in one worker process: when its first step started and its last ended, and the seconds inside steps."""

    process: int
    trial: str
    started: float
    ended: float
    inside_seconds: float
    num_steps: int


def read_spans(stamps: Path) -> list[Span]:
    """The trials that the workers of one round stamped, by start."""
    spans = []
    for file in stamps.glob("*.jsonl"):
        steps = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        for (process, trial), group in groupby(steps, key=lambda step: (step[0], step[1])):
            times = [(started, ended) for _, _, started, ended in group]
            inside = sum(ended - started for started, ended in times)
            spans.append(Span(process, trial, times[0][0], times[-1][1], inside, len(times)))
    return sorted(spans, key=lambda span: span.started)


def overhead_seconds(spans: list[Span], num_slots: int) -> list[float]:
    """The overhead of every trial but the first of each slot, by the definition above."""
    last_of_process = {span.process: span for span in spans}  # spans come by start: the last one stays
    slots: dict[int, Span] = {}  # the process that serves a slot now -> its latest trial
    found = []
    for span in spans:
        before = slots.pop(span.process, None)
        if before is None and len(slots) >= num_slots:
            ended = [s for s in slots.values() if s is last_of_process[s.process]]
            before = min(ended, key=lambda s: s.ended, default=None)
            if before is not None:
                del slots[before.process]
        if before is not None:
            found.append(span.ended - before.ended - span.inside_seconds)
        slots[span.process] = span
    return found


class _Results:
    """What the rounds of one system showed."""

    def __init__(self) -> None:
        self.overheads: list[float] = []
        self.num_trials = 0
        self.num_steps = 0
        self.num_workers = 0  # the most in a round

    def add(self, spans: list[Span], num_slots: int) -> None:
        self.overheads += overhead_seconds(spans, num_slots)
        self.num_trials += len({span.trial for span in spans})
        self.num_steps += sum(span.num_steps for span in spans)
        self.num_workers = max(self.num_workers, len({span.process for span in spans}))

    def to_dict(self, prefix: str) -> dict[str, Any]:
        deciles = statistics.quantiles(self.overheads, n=10, method="inclusive")
        return {
            f"{prefix}_median_s": statistics.median(self.overheads),
            f"{prefix}_p90_s": deciles[-1],
            f"{prefix}_mean_s": statistics.fmean(self.overheads),
            f"{prefix}_max_s": max(self.overheads),
            f"{prefix}_measured": len(self.overheads),
            f"{prefix}_trials": self.num_trials,
            f"{prefix}_steps_per_trial": self.num_steps / self.num_trials,
            f"{prefix}_workers": self.num_workers,
        }


def measure(num_trials: int, num_rounds: int, num_slots: int) -> dict[str, Any]:
    """Run both systems in turns; medians, 90th percentiles (seconds) and counts over all rounds."""
    from search.driver.cluster import local_ray
    from search.driver.hardware import Node, divide, num_cores

    results = {TINYSEARCH: _Results(), RAY_STOCK: _Results()}
    runs: dict[str, Callable[..., None]] = {TINYSEARCH: _run_tinysearch, RAY_STOCK: _run_ray_stock}
    num_cpus = max(num_cores(), num_slots)
    slots = divide([Node(num_cpus)], parallel=num_slots)
    with tempfile.TemporaryDirectory(prefix="tinysearch-overhead-") as scratch, local_ray(num_cpus, 0):
        for i in range(num_rounds):
            for name, run in runs.items():
                folder = Path(scratch) / f"{name}-{i}"
                stamps = folder / "stamps"
                stamps.mkdir(parents=True)
                (stamps / SLOTS).write_text(str(slots.num_slots))
                run(folder, stamps, slots, num_trials, seed=i)
                results[name].add(read_spans(stamps), slots.num_slots)
    measured = {key: value for name in runs for key, value in results[name].to_dict(name).items()}
    return {
        **measured,
        "ratio": measured[f"{TINYSEARCH}_median_s"] / measured[f"{RAY_STOCK}_median_s"],
        "trials": num_trials,
        "rounds": num_rounds,
        "slots": slots.num_slots,
        "space": SPACE.name,
        "cpu_cores": num_cores(),
        "platform": platform.machine(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("ray", "optuna")}},
    }


def _run_tinysearch(folder: Path, stamps: Path, slots: Any, num_trials: int, *, seed: int) -> None:
    import optuna
    from rich.console import Console

    from search.driver.tune import run_trials
    from search.report.display import Display
    from search.report.overview import Overview
    from search.space.loading import load_space
    from search.storage.folder import StudyFolder
    from search.study.settings import StudySettings
    from search.study.study import Study

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = load_space(SPACE)
    settings = StudySettings(space=space, budget=space.budget(), seed=seed, corpus={"paths": [], "digest": ""})
    home = StudyFolder(folder, "study")
    home.path.mkdir()
    study = Study.create(home.open_storage(), home.name, settings, trials=num_trials)

    def request(number: int, values: dict[str, Any]) -> TrialRequest:
        train = settings.train_config(values, num_threads=slots.num_threads).to_dict()
        return TrialRequest(train=train, location=str(stamps), checkpoint=str(number))

    with open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere, force_terminal=True, width=120)  # the live table, drawn for nobody
        with Display(lambda: Overview.of(study), console=console) as display:
            run_trials(study, slots, request, display, worker="benchmarks.overhead:NoopTrial")


def _run_ray_stock(folder: Path, stamps: Path, slots: Any, num_trials: int, *, seed: int) -> None:
    import optuna

    from search.space.loading import load_space
    from search.space.space import rungs_of
    from search.strategy.sampling import distributions

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = load_space(SPACE)
    budget = space.budget()
    rungs = rungs_of(budget)

    with _environment_of_stock_ray():
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler
        from ray.tune.search.optuna import OptunaSearch

        class StockActor(tune.Trainable):
            def setup(self, config: dict[str, Any]) -> None:
                from benchmarks.overhead import NoopTrial

                model = {"d_model": config["d_model"]}
                train = {"rungs": rungs, "learning_rate": config["learning_rate"], "model": model}
                self._trial = NoopTrial(TrialRequest(train=train, location=str(stamps), checkpoint=self.trial_id))

            def step(self) -> dict[str, Any]:
                return self._trial.step().measurement

            def reset_config(self, new_config: dict[str, Any]) -> bool:
                self.setup(new_config)
                return True

            def save_checkpoint(self, checkpoint_dir: str) -> None:  # Tune saves each trial that ASHA stops
                return None

        tuner = tune.Tuner(
            tune.with_resources(StockActor, {"cpu": slots.cpus_per_trial, "gpu": slots.gpus_per_trial}),
            tune_config=tune.TuneConfig(
                metric="loss",
                mode="min",
                search_alg=OptunaSearch(space=distributions(space), metric="loss", mode="min", seed=seed),
                scheduler=ASHAScheduler(
                    time_attr="tokens", grace_period=rungs[0], max_t=rungs[-1], reduction_factor=budget.eta
                ),
                num_samples=num_trials,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(name="stock", storage_path=str(folder), verbose=0),
        )
        if errors := tuner.fit().errors:
            raise RuntimeError(f"{len(errors)} of Ray's trials failed, so its times mean nothing") from errors[0]


@contextlib.contextmanager
def _environment_of_stock_ray() -> Iterator[None]:
    """Without what search/driver/tune.py sets for itself: Tune reads its TUNE_ variables when an experiment starts."""
    ours = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("TUNE_")}
    try:
        yield
    finally:
        os.environ.update(ours)


def table(measured: dict[str, Any]) -> Any:
    """The measurement for people."""
    from rich.table import Table

    shown = Table(
        title="seconds that a slot loses to a trial: tinysearch beside Ray's OptunaSearch + ASHAScheduler",
        caption=f"{measured['rounds']} rounds of {measured['trials']} trials, {measured['slots']} slots, "
        f"{measured['cpu_cores']} CPU cores; "
        f"Ray {measured['versions']['ray']}, Optuna {measured['versions']['optuna']}; "
        f"tinysearch needs {measured['ratio']:.2f} of Ray's median",
    )
    for column in ("", "median", "p90", "mean", "most", "trials", "steps/trial", "workers"):
        shown.add_column(column, justify="right" if column else "left")
    for prefix, name in ((TINYSEARCH, "tinysearch"), (RAY_STOCK, "Ray's stock")):
        seconds = [f"{measured[f'{prefix}_{key}_s']:.3f}" for key in ("median", "p90", "mean", "max")]
        steps = f"{measured[f'{prefix}_steps_per_trial']:.2f}"
        shown.add_row(name, *seconds, str(measured[f"{prefix}_measured"]), steps, str(measured[f"{prefix}_workers"]))
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--trials", type=int, default=40, help="trials of each system in a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--slots", type=int, default=2, help="trials at a time")
    options = parser.parse_args()
    if min(options.slots, options.rounds) < 1 or options.trials < options.slots + 2:
        parser.error("give at least one round, one slot, and two trials more than slots: the first of a slot is cold")
    with contextlib.redirect_stdout(sys.stderr):  # whatever Ray prints
        measured = measure(options.trials, options.rounds, options.slots)
    if options.json:
        print(json.dumps(measured))
    else:
        from rich.console import Console

        Console().print(table(measured))


if __name__ == "__main__":
    main()
