"""The fault campaign: it finds wrong states, and a search with a few faults has none of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import found_wrong, run_campaign, written_twice

RUNGS = [10, 30, 90]
SOUND: list[dict[str, Any]] = [
    {"trial": 0, "outcome": "finished", "parameters": {"x": 1}, "measurements": {"10": {}, "30": {}, "90": {}}},
    {"trial": 1, "outcome": "stopped", "parameters": {"x": 2}, "measurements": {"10": {}}},
    {"trial": 2, "outcome": "diverged", "parameters": {"x": 3}, "measurements": {}},
]
NOTHING = {"lost": 0, "double": 0, "running": 0}


def spoilt(trial: int, **changes: Any) -> list[dict[str, Any]]:
    trials = copy.deepcopy(SOUND)
    trials[trial] |= changes
    return trials


def test_a_sound_record_has_nothing_wrong():
    assert found_wrong(SOUND, RUNGS) == NOTHING


@pytest.mark.parametrize(
    "trials, wrong",
    [
        (spoilt(0, measurements={"10": {}, "90": {}}), {"lost": 1}),
        (spoilt(0, measurements={"10": {}, "30": {}}), {"lost": 1}),
        (spoilt(1, parameters={"x": 1}), {"double": 1}),
        (spoilt(1, outcome="waiting"), {"running": 1}),
        (spoilt(2, outcome="running"), {"running": 1}),
        (SOUND[:1] + SOUND[2:], {"lost": 1}),
        (SOUND + SOUND[2:], {"double": 2}),  # the number and the configuration
    ],
)
def test_what_must_not_be_is_counted(trials: list[dict[str, Any]], wrong: dict[str, int]):
    assert found_wrong(trials, RUNGS) == NOTHING | wrong


def test_a_rung_that_was_written_twice_is_seen_in_the_journal(tmp_path: Path):
    rung = {"op_code": 8, "trial_id": 3, "user_attr": {"rung 10": {"loss": 1.0}}}
    other = [{**rung, "trial_id": 4}, {**rung, "user_attr": {"rung 30": {}}}, {"op_code": 2, "user_attr": {"rung": 1}}]
    (tmp_path / "j").write_text("\n".join(map(json.dumps, [rung, *other])) + "\n")
    assert written_twice(tmp_path / "j") == 0
    (tmp_path / "j").write_text("\n".join(map(json.dumps, [rung, *other, rung])) + "\n")
    assert written_twice(tmp_path / "j") == 1


@pytest.mark.benchmark  # starts Ray after every strike
def test_a_search_that_is_struck_loses_nothing(tmp_path: Path):
    found = run_campaign(tmp_path, rounds=2, seed=4)
    assert found["rounds"] == 2 and found["complete"]
    assert {key: found[key] for key in NOTHING} == NOTHING
