"""Searches on a real Ray, with real training; then their dashboard in a real browser."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from search.driver import requests
from search.worker.messages import TrialRequest
from tests.support.paths import ROOT
from tests.support.searches import (
    PATIENCE_SECONDS,
    QUICK,
    SLOW,
    command,
    environment,
    states_in_journal,
    use_worker,
    write_text,
)
from tests.support.tool import printed_json, succeeds, tinysearch

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_ray", "folder")]

ALONE = ("--parallel", "1", "--cpus-per-trial", "1")  # one worker to start


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a small text, the present one for all tests here."""
    folder = tmp_path_factory.mktemp("search")
    write_text(folder)
    (folder / "smoke.yaml").write_text(QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


@pytest.fixture(scope="module")
def finished(shared_ray: None, folder: Path) -> str:
    """What the smoke search prints, run once to its end."""
    code, output, errors = tinysearch("run", "smoke.yaml", "--data", "text")
    assert (code, errors) == (0, ""), output + errors
    return output


def test_a_search_trains_stops_and_names_a_winner(finished: str):
    found = printed_json("trials", "smoke")
    assert len(found) == 8
    outcomes = [t["outcome"] for t in found]
    assert outcomes.count("stopped") >= 2
    assert found[0]["preset"] == "default" and found[0]["outcome"] == "finished"
    best = printed_json("best", "smoke")
    finals = [t["measurements"]["9000"]["loss"] for t in found if t["outcome"] == "finished"]
    assert best["measurements"]["loss"] == min(finals)
    for trial in found:
        for measured in trial["measurements"].values():
            assert measured["loss"] > 0
            assert measured["tokens_per_second"] > 0
            assert measured["peak_vram_bytes"] > 0 and measured["estimated"]
    assert "8 of 8 trials" in finished and "your 'default'" in finished


def test_only_checkpoints_of_finished_trials_stay(finished: str):
    kept = {int(re.search(r"\d+", path.name)[0]) for path in Path("runs/smoke/checkpoints").iterdir()}
    assert kept == {t["trial"] for t in printed_json("trials", "smoke") if t["outcome"] == "finished"}


def test_the_winners_configuration_trains_alone_to_the_same_loss(finished: str, folder: Path):
    best = printed_json("best", "smoke")
    config = printed_json("best", "smoke", "--format", "train")
    assert "num_threads" not in config  # that of the search's worker, which decides the last digits
    Path("best.json").write_text(json.dumps({**config, "num_threads": 1}))
    run = subprocess.run(
        [sys.executable, "-m", "trainer", "best.json", "--json"],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert run.returncode == 0, run.stderr
    last = json.loads(run.stdout.splitlines()[-1])
    assert last["tokens"] == 9_000
    assert last["loss"] == best["measurements"]["loss"]  # to the bit, although that worker trained others before


def test_a_search_with_two_metrics_prints_a_front_of_finished_trials_and_is_complete():
    asked = ("run", "smoke.yaml", "--data", "text", "--name", "both", "--metrics", "loss,num_params", *ALONE)
    asked += ("--trials", "5")
    output = succeeds(*asked)
    assert "front of loss and num_params" in output and "tinysearch best both --pareto" in output
    found = {t["trial"]: t for t in printed_json("trials", "both")}
    assert len(found) == 5
    front = printed_json("best", "both", "--pareto")
    pairs = [(d["measurements"]["loss"], d["measurements"]["num_params"]) for d in front]
    assert pairs == sorted(pairs) and [size for _, size in pairs] == sorted((s for _, s in pairs), reverse=True)
    assert all(found[d["trial"]]["outcome"] == "finished" for d in front)
    assert "5 of 5 trials" in succeeds(*asked)


def test_a_search_of_fewer_configurations_than_trials_ends_and_resume_says_so_too():
    Path("two.yaml").write_text(SLOW.replace("8K, max_tokens: 48K", "1K, max_tokens: 2K"))
    asked = (
        "run",
        "two.yaml",
        "--data",
        "text",
        "--set",
        "learning_rate=0.002",
        *ALONE,
    )
    for output in (succeeds(*asked), succeeds("resume", "two", "--trials", "+3")):
        assert "2 of 2 trials" in output
        assert "all 2 configurations that may be launched have been trained" in output
    assert sorted(trial["parameters"]["d_model"] for trial in printed_json("trials", "two")) == [32, 64]


def test_one_worker_and_the_same_seed_give_the_same_study():
    asked = ("run", "smoke.yaml", "--data", "text", *ALONE, "--trials", "3", "--seed", "3", "--name")

    def essence(study: str) -> list:
        succeeds(*asked, study)
        return [
            (t["trial"], t["outcome"], t["parameters"], {r: m["loss"] for r, m in t["measurements"].items()})
            for t in printed_json("trials", study)
        ]

    assert essence("first") == essence("second")


def test_a_worker_with_another_trainer_is_refused_with_both_paths(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(requests, "TrialRequest", functools.partial(TrialRequest, code_digest="another"))
    code, output, errors = tinysearch("run", "smoke.yaml", "--data", "text", "--name", "foreign", *ALONE)
    assert code == 2, output + errors
    assert f"a worker imports another trainer: {ROOT / 'trainer'} there, {ROOT / 'trainer'} here" in errors
    assert 0 not in states_in_journal(Path("runs/foreign/journal.log")).values()


def test_out_of_memory_and_bugs_are_outcomes_of_their_trials(monkeypatch: pytest.MonkeyPatch):
    """A worker whose trials end in every way there is; the study resumes, and each has its outcome."""
    use_worker("FaultyTrial", monkeypatch)
    succeeds("run", "smoke.yaml", "--data", "text", "--name", "faulty", *ALONE)
    outcomes = [t["outcome"] for t in printed_json("trials", "faulty")]
    assert outcomes[1::4] == ["out of memory"] * 2
    assert outcomes[2::4] == ["failed"] * 2
    assert outcomes[3::4] == ["diverged"] * 2
    assert set(states_in_journal(Path("runs/faulty/journal.log")).values()) <= {1, 2, 3}


@pytest.mark.skipif(not shutil.which("chromedriver"), reason="no Chromium with its driver here; CI installs them")
def test_the_dashboard_shows_the_study_in_a_browser(finished: str, folder: Path):
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    server = subprocess.Popen(
        command("dashboard", "smoke", "--port", "0"),
        cwd=folder,
        env=environment(folder),
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
            f"--user-data-dir={folder / 'browser'}",
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
