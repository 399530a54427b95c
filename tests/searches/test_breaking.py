"""Searches on a real Ray whose workers break in every way that a CPU allows."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.driver import amounts, bridge
from search.worker.faults import HOST_OUT_OF_MEMORY, cause_of
from tests.support.searches import QUICK, use_worker, write_text
from tests.support.tool import printed_json, succeeds

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_ray", "folder")]

HANG_SECONDS = 20.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, the present one, with a small text and a space."""
    monkeypatch.chdir(tmp_path)
    write_text(tmp_path)
    Path("smoke.yaml").write_text(QUICK)
    return tmp_path


def test_a_worker_that_rays_memory_monitor_ends_is_lost_like_any_other():
    from ray.exceptions import OutOfMemoryError, RayActorError

    from search.driver.tune import ActorManager

    class Manager(ActorManager):
        def __init__(self):
            self._failed_actor_ids = set()

        def _cleanup_actor(self, tracked_actor: Any) -> None:
            pass

    seen: list[Exception] = []
    actor = SimpleNamespace(actor_id="a", _on_error=None)
    task = SimpleNamespace(_tracked_actor=actor, _on_error=lambda _, error: seen.append(error))
    Manager()._actor_task_failed(task, OutOfMemoryError("1 worker(s) were killed"))  # Ray's own raises here
    assert isinstance(seen[0], RayActorError)
    assert cause_of(str(seen[0])) == HOST_OUT_OF_MEMORY


def test_every_trial_resumes_but_the_one_that_breaks_each_time_and_all_is_reported(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(amounts, "MIN_HANG_MINUTES", HANG_SECONDS / 60)
    monkeypatch.setattr(bridge, "MAX_WORKER_LOSSES", 1)
    use_worker("BreakingTrial", monkeypatch)
    output = succeeds("run", "smoke.yaml", "--data", "text", "--hang-minutes", HANG_SECONDS / 60)
    assert "raylet" not in output, "Ray prints something"
    trials = printed_json("trials", "smoke")
    assert len(trials) == 8
    assert {t["outcome"] for t in trials if t["trial"] != 4} <= {"finished", "stopped"}
    faults = {t["trial"]: t["faults"] for t in trials if t["faults"]}
    lost, then = "worker lost: killed or crashed, last report at 0 tokens; ", "resumed from its checkpoint"
    assert faults == {
        0: [lost + then],
        1: [f"worker hung: no report for {HANG_SECONDS / 60:g} min, last report at 0 tokens; {then}"],
        2: [f"CUDA error: device-side assert triggered, last report at 0 tokens; {then}"],
        3: [
            lost + then,
            "checkpoint damaged: the checkpoint is damaged or cut short; deleted, and trained again from the start",
        ],
        4: [lost + then] + [lost + "given up"],
    }
    assert (trials[4]["outcome"], trials[4]["reason"]) == (
        "failed",
        "its worker was lost 2 times, the last time: killed or crashed",
    )
    assert "workers.py" in trials[1]["traceback"] and "in _advance" in trials[1]["traceback"]
    line = (
        "faults: 4 workers lost (trials 0, 3, 4), 1 worker hung (trial 1), 1 CUDA error (trial 2), "
        "1 checkpoint damaged (trial 3)"
    )
    assert line in succeeds("status", "smoke").splitlines()
    assert not list(Path().glob("runs/smoke/checkpoints/*.hang"))


def test_a_worker_that_starts_late_is_waited_for_while_others_are_free_again_and_again(monkeypatch: pytest.MonkeyPatch):
    use_worker("LateTrial", monkeypatch)
    succeeds("run", "smoke.yaml", "--data", "text")
    begun = {path.name for path in Path("begun").iterdir()}
    assert begun == set(Path("reported").read_text().split()) and len(begun) == 2
