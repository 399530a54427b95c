"""The overhead benchmark: what it counts as overhead, and that it runs. Times are reported, never asserted."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from benchmarks.overhead import Span, overhead_seconds
from tests.support.paths import ROOT

NUM_TRIALS, NUM_SLOTS = 6, 2


def span(process: int, started: float, ended: float, inside_seconds: float = 0.0) -> Span:
    return Span(process, f"{process}-{started}", started, ended, inside_seconds, num_steps=1)


def test_overhead_is_the_time_since_the_trial_before_on_that_slot_less_the_steps():
    spans = [span(1, 0, 10, 9), span(2, 0, 20, 9), span(1, 11, 15, 3), span(2, 21, 26, 5)]
    assert overhead_seconds(spans, 2) == [15 - 10 - 3, 26 - 20 - 5]


def test_a_worker_that_replaces_another_takes_over_the_slot_that_has_been_idle_longest():
    spans = [span(1, 0, 10), span(2, 0, 5), span(3, 12, 13), span(1, 14, 14)]
    assert overhead_seconds(spans, 2) == [13 - 5, 14 - 10]


def test_a_slot_that_starts_late_is_cold_too():
    assert overhead_seconds([span(1, 0, 1), span(1, 2, 2), span(2, 9, 9)], 2) == [1]


@pytest.mark.benchmark  # starts Ray and two workers for each system
def test_the_benchmark_prints_one_json_object_for_both_systems():
    command = [sys.executable, "-m", "benchmarks.overhead", "--json", "--rounds", "1"]
    command += ["--trials", str(NUM_TRIALS), "--slots", str(NUM_SLOTS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert (measured["trials"], measured["slots"]) == (NUM_TRIALS, NUM_SLOTS)
    assert {"ray", "optuna", "python"} <= measured["versions"].keys()
    assert measured["ratio"] == measured["tinysearch_median_s"] / measured["ray_stock_median_s"]
    for name in ("tinysearch", "ray_stock"):
        assert measured[f"{name}_trials"] == NUM_TRIALS
        assert measured[f"{name}_measured"] >= NUM_TRIALS - NUM_SLOTS
        for key in ("median_s", "p90_s"):
            assert math.isfinite(measured[f"{name}_{key}"]) and measured[f"{name}_{key}"] > 0
    assert measured["tinysearch_workers"] == NUM_SLOTS  # no slot idles, and none starts a second process
