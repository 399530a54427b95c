"""The benchmark of a large study, on a small one: that it measures what it says. Times are reported, never asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.large import RandomStrategy, crowd, fill, make_study, reports_in
from search.report.overview import Overview
from search.report.tables import MAX_TABLE_ROWS, TrialsTable
from search.storage.folder import StudyFolder
from tests.support.paths import ROOT


def test_many_workers_at_once_lose_no_report(tmp_path: Path):
    measured = crowd(tmp_path, num_workers=24, num_reports=120)
    assert (measured["lost"], measured["twice"]) == (0, 0)
    assert measured["rungs"] >= 40
    study = StudyFolder(tmp_path, "large")
    assert reports_in(study.journal).total() == measured["rungs"]
    assert sum(len(trial.intermediate_values) for trial in study.load().trials) == measured["rungs"]


def test_a_report_that_is_missing_or_there_twice_would_be_noticed(tmp_path: Path):
    study = make_study(tmp_path, 30, RandomStrategy)
    fill(study)
    journal = StudyFolder(tmp_path, "large").journal
    kept = reports_in(journal)
    lines = journal.read_text().splitlines(keepends=True)
    first, second = [i for i, line in enumerate(lines) if '"user_attr":{"rung ' in line][:2]
    lines[first] = lines[second]
    journal.write_text("".join(lines))
    found = reports_in(journal)
    assert (kept - found).total() == 1 == (found - kept).total()


def test_a_long_table_without_colours_says_what_the_short_one_says(tmp_path: Path):
    study = make_study(tmp_path, 40, RandomStrategy)
    fill(study)
    overview = Overview.of(study)
    lines = list(TrialsTable(overview, overview.ranked()).lines("large"))
    assert len(lines) == 42 and lines[0] == "large" and len({map(len, lines[1:])}) == 1
    best = next(line for line in lines if "*" in line)
    assert best.split()[1] == "finished" and f"{overview.best.number}*" in best
    assert MAX_TABLE_ROWS > 40


@pytest.mark.benchmark  # runs three commands and two drivers in processes of their own
def test_the_benchmark_prints_one_json_object():
    command = [sys.executable, "-m", "benchmarks.large", "--json", "--trials", "40", "--workers", "4"]
    command += ["--reports", "30"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert (done.returncode, done.stderr) == (0, "")
    measured = json.loads(done.stdout)
    assert measured["num_trials"] == 40
    for command in ("status", "best", "trials", "driver"):
        assert measured[command]["peak_mib"] > 10 and measured[command]["cpu_seconds"] > 0
