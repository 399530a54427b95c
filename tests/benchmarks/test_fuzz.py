"""A short run of the fuzz benchmark, and that it can find what it looks for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import benchmarks.fuzz.campaign
from benchmarks.fuzz.campaign import Opening, run_campaign
from benchmarks.fuzz.spaces import space_file
from search.space.document import Fault, SpaceError
from tests.support.paths import ROOT


def odd_case(folder: Path, number: int) -> Opening:
    def opening() -> None:
        match number:
            case 1:
                raise SpaceError("space.yaml", [Fault("is wrong")])
            case 2:
                raise KeyError("x")
            case 3:
                os._exit(7)
            case 4:
                time.sleep(60)
            case 5:
                raise SpaceError("space.yaml", [])  # says nothing
            case 6:
                bytearray(8 * 2**30)

    return opening


def test_every_way_to_fail_is_found_and_the_campaign_continues(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(benchmarks.fuzz.campaign, "MAX_SECONDS", 2.0)
    findings = run_campaign(odd_case, range(9))
    assert findings.outcomes == {
        "loaded": 3, "SpaceError": 1, "KeyError": 1, "ended its process (7)": 1, "hung": 1,
        "SpaceError of 0 characters": 1, "MemoryError": 1,
    }  # fmt: skip
    assert sorted(fault.number for fault in findings.faults) == [2, 3, 4, 5, 6]


def test_a_number_is_always_the_same_file():
    assert [space_file(0, i) for i in range(6)] == [space_file(0, i) for i in range(6)]
    assert len({space_file(seed, i) for i in range(20) for seed in (0, 1)}) > 35


@pytest.mark.benchmark  # trains models of a few weights, in a process of its own
def test_damaged_files_load_or_are_refused_with_one_located_error():
    command = [sys.executable, "-m", "benchmarks.fuzz", "--spaces", "100", "--files", "40", "--seed", "7", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.stderr == ""
    for name, findings in json.loads(done.stdout).items():
        assert findings["faults"] == [], name
        assert findings["outcomes"]["loaded"] > 5
    assert done.returncode == 0
