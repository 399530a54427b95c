"""A search with fault after fault: what is lost, what is recorded twice, what is left running?

    python -m benchmarks.faults [--rounds 50] [--seed 0] [--postgres] [--json]

A real search of tiny models runs through `tinysearch`, with real workers and checkpoints. In each round, at a random
moment, one of its processes is killed with signal 9 (the driver, a worker, Ray's raylet), or its disk is full. Then the
study is resumed, and extended if it would end before the last round. At the end it runs undisturbed, and its record is
checked. If the disk cannot be filled (that takes a small tmpfs, and root), that fault is left out, as `strikes` shows.
With `--postgres` the record is in a PostgreSQL server started for it, which fails too: it crashes, and comes back
seconds later.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.postgres import Server, running_server

ROOT = Path(__file__).resolve().parent.parent
SPACE = """
family: hybrid
budget: {trials: 12, min_tokens: 8K, max_tokens: 72K, eta: 3, eval_tokens: 1K}
parameters:
  d_model: {values: [32, 48, 64], default: 32}
  n_layers: {min: 2, max: 4, default: 2}
  n_heads: {value: 2}
  attn_layer_idx: {value: 1}
  seq_len: {value: 32}
  batch_size: {value: 4}
  learning_rate: {min: 1e-4, max: 1e-2, log: true, default: 1e-3}
presets:
  reference: {d_model: 48}
"""
MORE_TRIALS = 6  # when the search is about to end before its rounds
DRIVER, WORKER, RAYLET, DISK, STORAGE = "driver", "worker", "raylet", "disk", "storage"
SHARES = {DRIVER: 0.4, WORKER: 0.4, RAYLET: 0.15, DISK: 0.05, STORAGE: 0.2}
MAX_ABSENCE_SECONDS = 8.0  # of the storage
DISK_BYTES = 48 * 2**20
PATIENCE_SECONDS = 300.0  # for anything that must happen; then the campaign has found a hang
END_SECONDS = 3600.0  # for the end of the whole search
ENDED = ("finished", "stopped", "infeasible", "out of memory", "diverged", "failed")


@dataclass
class Strike:
    """One round: what was hit, and how old the checkpoints of the running trials were at that moment."""

    kind: str
    ages_seconds: list[float] = field(default_factory=list)


class Campaign:
    """A study, the process that runs it, and what strikes them."""

    def __init__(self, folder: Path, *, seed: int, server: Server | None = None, parallel: int = 2):
        self.folder, self._server, self._parallel = folder, server, parallel
        self._storage = None if server is None else server.new_database()
        self._random = random.Random(seed)
        self._driver: subprocess.Popen[bytes] | None = None
        self._output = folder / "driver.txt"
        self._since = 0.0  # when the driver was started
        self.strikes: list[Strike] = []
        (folder / "text").mkdir()
        for i in range(10):
            words = " ".join(f"{(i + 3) * j % 97} and {j % 13}" for j in range(400))
            (folder / "text" / f"{i}.txt").write_text(words)
        (folder / "struck.yaml").write_text(SPACE)

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def round(self, kinds: dict[str, float]) -> None:
        """Let the search get somewhere, strike it, and start it again where that ended it."""
        self._get_going()
        time.sleep(self._random.uniform(0.0, 4.0))
        kind = self._random.choices(list(kinds), weights=list(kinds.values()))[0]
        strike = Strike(kind, self._checkpoint_ages())
        strikes = {
            DRIVER: self._kill_driver,
            WORKER: self._kill_worker,
            RAYLET: self._kill_raylet,
            DISK: self._fill,
            STORAGE: self._restart_storage,
        }
        if strikes[kind]():
            self.strikes.append(strike)

    def finish(self) -> None:
        """Run the study to its end, undisturbed."""
        if self._driver is not None:
            self._wait_for_driver("the end of the search", END_SECONDS)
            self._end_of_driver()
        for _ in range(3):  # one that was struck last ends and has to be asked again
            if self.status().get("complete"):
                return
            self._start()
            self._wait_for_driver("the end of the search", END_SECONDS)
            self._end_of_driver()

    def close(self) -> None:
        if self._driver is not None and self._driver.poll() is None:
            _kill_all([*psutil.Process(self._driver.pid).children(recursive=True), psutil.Process(self._driver.pid)])
            self._driver.wait(PATIENCE_SECONDS)

    def status(self) -> dict[str, Any]:
        return json.loads(self._ask("status", "struck", "--json") or "{}")

    def trials(self) -> list[dict[str, Any]]:
        return json.loads(self._ask("trials", "struck", "--json") or "[]")

    # What strikes: each returns whether it did.

    def _kill_driver(self) -> bool:
        assert self._driver is not None
        self._driver.kill()
        self._driver.wait(PATIENCE_SECONDS)
        self._driver = None
        return True

    def _kill_worker(self) -> bool:
        return self._kill_named("Trainable")

    def _kill_raylet(self) -> bool:
        if not self._kill_named("raylet/raylet"):
            return False
        assert self._driver is not None
        with contextlib.suppress(subprocess.TimeoutExpired):  # Ray ends its driver, in its own time
            self._driver.wait(60)
        if self._driver.poll() is None:
            self._driver.kill()
        self._driver.wait(PATIENCE_SECONDS)
        self._driver = None
        return True

    def _fill(self) -> bool:
        assert self._driver is not None
        filler = self.runs / "filler"
        with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"\0" * 4096)
        self._wait_for_driver("the end of a search whose disk is full")
        filler.unlink()
        self._end_of_driver(says="space")
        return True

    def _restart_storage(self) -> bool:
        assert self._server is not None
        self._server.crash()
        time.sleep(self._random.uniform(1.0, MAX_ABSENCE_SECONDS))
        self._server.start()
        return True

    def _kill_named(self, words: str) -> bool:
        assert self._driver is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            there = psutil.Process(self._driver.pid).children(recursive=True)
            found = [process for process in there if words in " ".join(_command_line(process))]
            if found:
                self._random.choice(found).kill()
                return True
        return False

    # The search.

    def _get_going(self) -> None:
        """Wait until the running driver, started here if there is none, has made a trial train."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            if self._driver is not None and self._driver.poll() is not None:
                self._end_of_driver()
            if self._driver is None:
                self._start()
            if any(path.stat().st_mtime > self._since for path in self._checkpoints()):
                return
            assert time.monotonic() < deadline, "no trial trains"
            time.sleep(0.2)

    def _start(self) -> None:
        status = self.status() if (self.runs / "struck").exists() else {}
        counts = status.get("counts", {})
        num_open = status.get("trials", 12) - sum(counts.get(outcome, 0) for outcome in ENDED)
        more = ["--trials", f"+{MORE_TRIALS}"] if status and num_open < 4 and self._wants_more else []
        arguments = ["run", "struck.yaml", "--data", "text", "--parallel", str(self._parallel), *more, *self._where]
        self._since = time.time()
        with open(self._output, "w") as output:  # no pipe: what outlives a killed driver would hold it open
            self._driver = subprocess.Popen(
                [sys.executable, "-m", "search.cli", *arguments],
                cwd=self.folder,
                env=self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    _wants_more = True

    def end_of_rounds(self) -> None:
        """From now on nothing is struck, and the study may end."""
        self._wants_more = False

    def _end_of_driver(self, says: str = "") -> None:
        """The driver has ended by itself: as it should, or with an error that `says` what is known to be wrong."""
        assert self._driver is not None
        output = self._output.read_text()
        is_expected = self._driver.returncode == 0 or (says and self._driver.returncode == 2 and says in output)
        assert is_expected and "Traceback" not in output, f"exit code {self._driver.returncode}: {output}"
        self._driver = None

    def _wait_for_driver(self, what: str, max_seconds: float = PATIENCE_SECONDS) -> None:
        assert self._driver is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._driver.wait(max_seconds)
        assert self._driver.poll() is not None, f"timed out waiting for {what}"

    def _ask(self, *arguments: str) -> str:
        run = subprocess.run(
            [sys.executable, "-m", "search.cli", *arguments, *self._where],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )
        return run.stdout if run.returncode == 0 else ""

    @property
    def _where(self) -> list[str]:
        return ["--storage", self._storage] if self._storage else []

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "TINYSEARCH_CACHE": str(self.folder / "cache"), "PYTHONPATH": str(ROOT)}

    def _checkpoints(self) -> list[Path]:
        return list((self.runs / "struck" / "checkpoints").glob("trial-*.pt"))

    def _checkpoint_ages(self) -> list[float]:
        """How long ago each running trial was saved: the most that it could lose now."""
        now, running = time.time(), [t["trial"] for t in self.trials() if t["outcome"] == "running"]
        paths = [self.runs / "struck" / "checkpoints" / f"trial-{number}.pt" for number in running]
        with contextlib.suppress(FileNotFoundError):
            return [now - max(path.stat().st_mtime, self._since) for path in paths if path.exists()]
        return []


def found_wrong(trials: list[dict[str, Any]], rungs: list[int]) -> dict[str, int]:
    """What of a record must not be: `lost` rungs and trials, `double` ones, and trials left `running`."""
    lost = double = 0
    numbers = [trial["trial"] for trial in trials]
    lost += len(set(range(max(numbers, default=-1) + 1)) - set(numbers))
    double += len(numbers) - len(set(numbers))
    configurations = [json.dumps(trial["parameters"], sort_keys=True) for trial in trials]
    double += len(configurations) - len(set(configurations))
    for trial in trials:
        measured = sorted(map(int, trial["measurements"]))
        deepest = max(measured, default=0)
        lost += len([rung for rung in rungs if rung <= deepest and rung not in measured])
        lost += trial["outcome"] == "finished" and deepest < rungs[-1]
    return {"lost": lost, "double": double, "running": sum(trial["outcome"] not in ENDED for trial in trials)}


def written_twice(journal: Path) -> int:
    """Rungs that a journal has more than once for the same trial."""
    seen: collections.Counter[tuple[int, str]] = collections.Counter()
    for line in journal.read_text().splitlines():
        entry = json.loads(line)
        for name in entry.get("user_attr", {}):
            if name.startswith("rung ") and "trial_id" in entry:
                seen[entry["trial_id"], name] += 1
    return sum(count - 1 for count in seen.values())


def run_campaign(folder: Path, *, rounds: int, seed: int, server: Server | None = None) -> dict[str, Any]:
    """Strike a search `rounds` times in `folder`, let it end, and say what its record has."""
    impossible = {
        *([] if os.path.ismount(folder / "runs") else [DISK]),
        *([] if server is not None else [STORAGE]),
    }
    kinds = {kind: share for kind, share in SHARES.items() if kind not in impossible}
    campaign = Campaign(folder, seed=seed, server=server)
    started = time.monotonic()
    try:
        while len(campaign.strikes) < rounds:
            campaign.round(kinds)
            last = campaign.strikes[-1].kind if campaign.strikes else "nothing"
            print(f"{len(campaign.strikes)} of {rounds} rounds, the last: {last}", file=sys.stderr, flush=True)
        campaign.end_of_rounds()
        campaign.finish()
    finally:
        campaign.close()
    status, trials = campaign.status(), campaign.trials()
    wrong = found_wrong(trials, status["rungs"])
    if server is None:
        wrong["double"] += written_twice(campaign.runs / "struck" / "journal.log")
    ages = [age for strike in campaign.strikes for age in strike.ages_seconds]
    return {
        "rounds": len(campaign.strikes),
        "strikes": dict(collections.Counter(strike.kind for strike in campaign.strikes)),
        "trials": len(trials),
        "complete": status["complete"],
        **wrong,
        "lost_seconds_per_kill_max": max(ages, default=0.0),
        "seconds": time.monotonic() - started,
    }


@contextlib.contextmanager
def small_disk(path: Path) -> Iterator[bool]:
    """Mount a tmpfs of DISK_BYTES at `path` until the block ends; False where that is not allowed."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(path)]
    try:
        is_mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        is_mounted = False
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(path)], check=True)


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0 where nothing is lost, double or left running."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of what is struck, and when")
    parser.add_argument("--postgres", action="store_true", help="in a PostgreSQL server in place of a journal file")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tinysearch-faults-")))
        stack.enter_context(small_disk(folder / "runs"))
        server = stack.enter_context(running_server()) if options.postgres else None
        found = run_campaign(folder, rounds=options.rounds, seed=options.seed, server=server)
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for key, value in found.items():
            print(f"{key:26} {value}")
    return int(bool(found["lost"] or found["double"] or found["running"] or not found["complete"]))


def _command_line(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _kill_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
