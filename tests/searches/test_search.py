"""The whole tool as a user runs it: real Ray, real training, the command line in its own process, a real browser."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow  # each starts Ray, which takes seconds

SMOKE = str(ROOT / "spaces" / "smoke.yaml")
DEADLINE_SECONDS = 900  # of what should end by itself; a slow machine is not a fault

SLOW_SPACE = """
family: hybrid
budget: {trials: 4, min_tokens: 20K, max_tokens: 120K, eta: 10, eval_tokens: 1K}
parameters:
  d_model: {values: [32, 64], default: 32}
  n_layers: {value: 4}
  n_heads: {value: 2}
  seq_len: {value: 32}
  batch_size: {value: 4}
  learning_rate: {min: 1e-4, max: 1e-2, log: true, default: 1e-3}
presets:
  reference: {d_model: 64}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small corpus, a slow space and a cache of its own."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "text").mkdir()
    for i in range(10):
        words = " ".join(f"{(i + 3) * j % 97} and {j % 13}" for j in range(400))
        (folder / "text" / f"{i}.txt").write_text(words)
    (folder / "slow.yaml").write_text(SLOW_SPACE)
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "search.cli", *map(str, arguments)]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "TINYSEARCH_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}


def tinysearch(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )


@contextlib.contextmanager
def driver(folder: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    """A search in the background; ended, with all it started, when the block ends."""
    process = subprocess.Popen(
        command("run", *arguments),
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for child in [*children, process]:
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                child.kill()
        process.communicate(timeout=30)


def trials(folder: Path, study: str) -> list[dict]:
    run = tinysearch(folder, "trials", study, "--json")
    return json.loads(run.stdout) if run.returncode == 0 else []


def wait_for(condition: Callable[[], bool], what: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert process.poll() is None, f"the search ended before {what}: {process.stdout.read()}"
        assert time.monotonic() < deadline, f"timed out waiting for {what}"
        time.sleep(0.3)


def a_rung_is_recorded(folder: Path, study: str) -> Callable[[], bool]:
    journal = folder / "runs" / study / "journal.log"
    return lambda: journal.exists() and '"rung 20000"' in journal.read_text(errors="ignore")


def states_in_journal(folder: Path, study: str) -> dict[int, int]:
    """Each trial's last state, as the journal has it: 0 running, 1 complete, 2 pruned, 3 fail, 4 waiting."""
    states = {}
    for line in (folder / "runs" / study / "journal.log").read_text().splitlines():
        entry = json.loads(line)
        if entry["op_code"] == 6:
            states[entry["trial_id"]] = entry["state"]
    return states


def assert_complete(folder: Path, study: str, num_trials: int) -> list[dict]:
    """Every trial has ended, once, and every rung below its deepest was measured."""
    found = trials(folder, study)
    assert [t["trial"] for t in found] == list(range(num_trials))
    assert {t["outcome"] for t in found} <= {"finished", "stopped"}
    assert set(states_in_journal(folder, study).values()) <= {1, 2}
    for trial in found:
        deepest = max(map(int, trial["measurements"]))
        rungs = [r for r in (20_000, 120_000) if r <= deepest]
        assert sorted(map(int, trial["measurements"])) == rungs
    return found


@pytest.fixture(scope="module")
def finished(folder: Path) -> Path:
    """The smoke search, run once to its end."""
    run = tinysearch(folder, "run", SMOKE, "--data", "text")
    assert run.returncode == 0, run.stdout + run.stderr
    (folder / "output.txt").write_text(run.stdout)
    assert run.stderr == ""
    return folder


def test_a_search_trains_stops_and_names_a_winner(finished: Path):
    found = trials(finished, "smoke")
    assert len(found) == 8
    outcomes = [t["outcome"] for t in found]
    assert outcomes.count("stopped") >= 2
    assert found[0]["preset"] == "default" and found[0]["outcome"] == "finished"
    best = json.loads(tinysearch(finished, "best", "smoke", "--json").stdout)
    finals = [t["measurements"]["36000"]["loss"] for t in found if t["outcome"] == "finished"]
    assert best["measurements"]["loss"] == min(finals)
    for trial in found:
        for measured in trial["measurements"].values():
            assert measured["loss"] > 0
            assert measured["tokens_per_second"] > 0
            assert measured["peak_vram_bytes"] > 0 and measured["estimated"]
    output = (finished / "output.txt").read_text()
    assert "8 of 8 trials" in output and "your 'default'" in output


def test_every_trial_leaves_nothing_but_the_checkpoints_that_can_be_continued(finished: Path):
    kept = {int(re.search(r"\d+", p.name)[0]) for p in (finished / "runs/smoke/checkpoints").iterdir()}
    assert kept == {t["trial"] for t in trials(finished, "smoke") if t["outcome"] == "finished"}


def test_the_winners_configuration_trains_alone_to_the_same_loss(finished: Path):
    best = json.loads(tinysearch(finished, "best", "smoke", "--json").stdout)
    config = json.loads(tinysearch(finished, "best", "smoke", "--format", "train").stdout)
    assert "num_threads" not in config  # that of the search's worker, which decides the last digits
    (finished / "best.json").write_text(json.dumps({**config, "num_threads": 1}))
    run = subprocess.run(
        [sys.executable, "-m", "trainer", "best.json", "--json"],
        cwd=finished,
        env=environment(finished),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert run.returncode == 0, run.stderr
    last = json.loads(run.stdout.splitlines()[-1])
    assert last["tokens"] == 36_000
    assert last["loss"] == best["measurements"]["loss"]  # to the bit, although that worker trained others before


def test_a_search_with_two_metrics_prints_a_front_of_finished_trials_and_is_complete(folder: Path):
    metrics = ("--metrics", "loss,num_params")
    run = tinysearch(folder, "run", SMOKE, "--data", "text", "--name", "both", *metrics)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "front of loss and num_params" in run.stdout and "tinysearch best both --pareto" in run.stdout
    found = {t["trial"]: t for t in trials(folder, "both")}
    assert len(found) == 8
    front = json.loads(tinysearch(folder, "best", "both", "--pareto", "--json").stdout)
    pairs = [(d["measurements"]["loss"], d["measurements"]["num_params"]) for d in front]
    assert pairs == sorted(pairs) and [size for _, size in pairs] == sorted((s for _, s in pairs), reverse=True)
    assert all(found[d["trial"]]["outcome"] == "finished" for d in front)
    again = tinysearch(folder, "run", SMOKE, "--data", "text", "--name", "both", *metrics)
    assert again.returncode == 0 and "8 of 8 trials" in again.stdout


def test_a_search_of_fewer_configurations_than_trials_ends_and_resume_says_so_too(folder: Path):
    (folder / "two.yaml").write_text(SLOW_SPACE.replace("20K, max_tokens: 120K", "1K, max_tokens: 2K"))
    ran = tinysearch(folder, "run", "two.yaml", "--data", "text", "--set", "learning_rate=0.002")
    resumed = tinysearch(folder, "resume", "two", "--trials", "+3")
    for run in (ran, resumed):
        assert run.returncode == 0, run.stdout + run.stderr
        assert "2 of 2 trials" in run.stdout
        assert "all 2 configurations that may be launched have been trained" in run.stdout
    assert sorted(trial["parameters"]["d_model"] for trial in trials(folder, "two")) == [32, 64]


def test_one_worker_and_the_same_seed_give_the_same_study(folder: Path):
    for study in ("first", "second"):
        run = tinysearch(
            folder, "run", SMOKE, "--data", "text", "--name", study, "--parallel", "1", "--trials", "5", "--seed", "3"
        )
        assert run.returncode == 0, run.stdout + run.stderr

    def essence(study: str) -> list:
        return [
            (t["trial"], t["outcome"], t["parameters"], {r: m["loss"] for r, m in t["measurements"].items()})
            for t in trials(folder, study)
        ]

    assert essence("first") == essence("second")


def test_ctrl_c_drains_and_the_same_command_resumes(folder: Path):
    with driver(folder, "slow.yaml", "--data", "text", "--name", "drained") as process:
        wait_for(a_rung_is_recorded(folder, "drained"), "the first rung", process)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 130, output
    assert "interrupted; run the same command to resume" in output
    states = states_in_journal(folder, "drained")
    assert 0 not in states.values(), "a trial is left RUNNING"
    assert 4 in states.values(), "no trial waits"
    before = {t["trial"]: t for t in trials(folder, "drained")}
    again = tinysearch(folder, "run", "slow.yaml", "--data", "text", "--name", "drained")
    assert again.returncode == 0, again.stdout + again.stderr
    for trial in assert_complete(folder, "drained", 4):
        if trial["trial"] in before:
            for rung, measured in before[trial["trial"]]["measurements"].items():
                assert trial["measurements"][rung] == measured


def test_a_second_ctrl_c_ends_at_once_and_nothing_is_lost(folder: Path):
    with driver(folder, "slow.yaml", "--data", "text", "--name", "ended") as process:
        wait_for(a_rung_is_recorded(folder, "ended"), "the first rung", process)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 130, output
    again = tinysearch(folder, "run", "slow.yaml", "--data", "text", "--name", "ended")
    assert again.returncode == 0, again.stdout + again.stderr
    assert_complete(folder, "ended", 4)


def test_a_killed_worker_and_a_killed_driver_lose_no_trial(folder: Path):
    with driver(folder, "slow.yaml", "--data", "text", "--name", "killed") as process:
        wait_for(a_rung_is_recorded(folder, "killed"), "the first rung", process)
        workers = [
            p for p in psutil.Process(process.pid).children(recursive=True) if "Trainable" in " ".join(p.cmdline())
        ]
        assert workers
        workers[0].kill()
        time.sleep(3)
        assert process.poll() is None, "the driver did not survive the loss of a worker"
        everything = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait(timeout=30)
        for child in everything:  # without its driver a local Ray ends by itself, in its own time
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    status = json.loads(tinysearch(folder, "status", "killed", "--json").stdout)
    assert status["driver"] is None and status["counts"]["running"] == 0
    again = tinysearch(folder, "run", "slow.yaml", "--data", "text", "--name", "killed")
    assert again.returncode == 0, again.stdout + again.stderr
    assert_complete(folder, "killed", 4)


def test_a_worker_with_another_trainer_is_refused_with_both_paths(folder: Path):
    code = (
        "import search.worker.code, sys\n"
        "search.worker.code.code_digest = lambda: 'another'\n"  # the driver's; its workers import the real one
        "import search.cli.main\n"
        f"sys.argv = ['tinysearch', 'run', {SMOKE!r}, '--data', 'text', '--name', 'foreign']\n"
        "search.cli.main.main()"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
    )
    assert run.returncode == 2, run.stdout + run.stderr
    assert f"a worker imports another trainer: {ROOT / 'trainer'} there, {ROOT / 'trainer'} here" in run.stderr
    assert 0 not in states_in_journal(folder, "foreign").values()


def test_out_of_memory_and_bugs_are_outcomes_of_their_trials(folder: Path):
    """A worker whose trials end in every possible way; the study continues and each trial has its outcome."""
    code = (
        "from pathlib import Path\nimport json\nfrom rich.console import Console\n"
        "import search.driver.launch as launch, search.driver.tune as tune\n"
        "from search.driver.options import RunOptions\n"
        "original = tune.run_trials\n"
        "tune.run_trials = lambda *a, **k: original(*a, **{**k, 'worker': 'faulty:FaultyTrial'})\n"
        f"options = RunOptions(space=Path({SMOKE!r}), name='faulty', data=(Path('text'),), parallel=1)\n"
        "launch.run_search(options, Console())\n"
    )
    (folder / "faulty.py").write_text(
        "from search.worker.errors import report_of\n"
        "from search.worker.messages import TrialReport\n"
        "class FaultyTrial:\n"
        "    def __init__(self, request):\n"
        "        self.number = int(request.checkpoint.rsplit('-', 1)[1].removesuffix('.pt'))\n"
        "        self.rungs = list(request.rungs)\n"
        "    def step(self):\n"
        "        kind = self.number % 4\n"
        "        if kind == 1:\n"
        "            return report_of(RuntimeError('CUDA out of memory. Tried to allocate 9 GiB'))\n"
        "        if kind == 2:\n"
        "            return report_of(KeyError('a bug'))\n"
        "        tokens = self.rungs.pop(0)\n"
        "        loss = float('nan') if kind == 3 else 1.0\n"
        "        measurement = {'tokens': tokens, 'loss': loss, 'tokens_per_second': 1.0}\n"
        "        return TrialReport(tokens=tokens, measurement=measurement)\n"
        "    def close(self):\n"
        "        pass\n"
    )
    env = environment(folder)
    env["PYTHONPATH"] = os.pathsep.join([str(folder), env["PYTHONPATH"]])
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=DEADLINE_SECONDS
    )
    assert run.returncode == 0, run.stdout + run.stderr
    outcomes = [t["outcome"] for t in trials(folder, "faulty")]
    assert outcomes[1::4] == ["out of memory"] * 2
    assert outcomes[2::4] == ["failed"] * 2
    assert outcomes[3::4] == ["diverged"] * 2
    assert set(states_in_journal(folder, "faulty").values()) <= {1, 2, 3}


@pytest.mark.skipif(not shutil.which("chromedriver"), reason="no Chromium with its driver here; CI installs them")
def test_the_dashboard_shows_the_study_in_a_browser(finished: Path):
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    server = subprocess.Popen(
        command("dashboard", "smoke", "--port", "0"),
        cwd=finished,
        env=environment(finished),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    browser = None
    try:
        url = re.search(r"http://127\.0\.0\.1:\d+/dashboard/", server.stdout.readline())[0]
        listening = {c.laddr.ip for c in psutil.Process(server.pid).net_connections() if c.status == "LISTEN"}
        assert listening == {"127.0.0.1"}
        options = Options()
        for flag in (
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--window-size=1600,1400",
            f"--user-data-dir={finished / 'browser'}",
        ):
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))

        def shows(page: str, *texts: str) -> None:
            browser.get(url + page)

            def complete(_: object) -> bool:
                body = browser.find_element("tag name", "body").text
                return all(text.lower() in body.lower() for text in texts)

            WebDriverWait(browser, 60).until(complete, f"{page} does not show {texts}")

        shows("", "smoke")
        # a curve for each trial: the loss at its rungs
        shows("studies/0", "smoke", "Intermediate values", "History")
        # states and the measurements of a trial
        shows("studies/0/trials?numbers=0", "Trial 0", "Complete", "tokens_per_second", "peak_vram_bytes", "loss")
        shows("studies/0/trials?numbers=2", "Trial 2", "Pruned", "Complete")
        if folder := os.environ.get("TINYSEARCH_SCREENSHOTS"):
            for name in ("studies/0", "studies/0/trials?numbers=0"):
                browser.get(url + name)
                time.sleep(3)
                browser.save_screenshot(str(Path(folder) / f"{re.sub(r'[^a-zA-Z0-9]+', '-', name)}.png"))
    finally:
        if browser is not None:
            browser.quit()
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=30)
    assert server.returncode == 130
