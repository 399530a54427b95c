"""Machines divided among trials: what each gets, how many run at once, and when machines come and go."""

from __future__ import annotations

import contextlib
import math

import pytest
from optuna.storages import InMemoryStorage

from search.driver import hardware
from search.driver.hardware import MAX_CPU_TRIALS, Node, Slots, divide, share_of, trials_that_fit
from search.driver.options import RunOptions
from search.driver.preparing import prepare_space, slots_for
from search.driver.requests import Requests
from search.report import tables
from search.storage.folder import StudyFolder
from search.storage.study_store import study_store
from search.strategy.feasibility import largest_peak
from search.study.record import TrialRecord
from search.study.settings import StudySettings
from search.study.study import Study
from tests.support.paths import SMOKE


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ([Node(2)], {}, (2, 1, 0)),
        ([Node(16)], {}, (8, 2, 0)),
        ([Node(20)], {}, (8, 2, 0)),  # whole cores: four are left to the driver
        ([Node(20)], {"parallel": 3}, (3, 6, 0)),
        ([Node(20)], {"parallel": 10}, (10, 2, 0)),
        ([Node(20)], {"parallel": 50}, (20, 1, 0)),
        ([Node(20)], {"cpus_per_trial": 1}, (20, 1, 0)),
        ([Node(20)], {"cpus_per_trial": 8}, (2, 8, 0)),
        ([Node(20)], {"cpus_per_trial": 0.5, "parallel": 30}, (30, 0.5, 0)),
        ([Node(32, 8)], {}, (8, 4, 1)),
        ([Node(32, 8)], {"gpus_per_trial": 2}, (4, 8, 2)),
        ([Node(32, 8)], {"gpus_per_trial": 0.25}, (32, 1, 0.25)),
        ([Node(4, 1)], {"gpus_per_trial": 0.125}, (8, 0.5, 0.125)),
        ([Node(32, 8)], {"parallel": 2}, (2, 16, 1)),
        ([Node(32, 8)], {"cpus_per_trial": 8}, (4, 8, 1)),
        ([Node(32, 8)], {"gpus_per_trial": 0}, (8, 4, 0)),
        ([Node(4), Node(4), Node(4)], {}, (12, 1, 0)),
        ([Node(16), Node(4)], {}, (12, 1, 0)),  # eight on the first
        ([Node(0), Node(16)], {}, (8, 2, 0)),  # a head that is not to train
        ([Node(8), Node(32, 4), Node(16, 4)], {}, (8, 4, 1)),  # the first has no GPU
        ([Node(32, 4), Node(32, 1)], {"gpus_per_trial": 2}, (2, 16, 2)),  # the second holds none
        ([Node(8), Node(8)], {"parallel": 3}, (3, 4, 0)),
    ],
)
def test_each_trial_gets_a_share_of_one_machine(nodes, asked, expected):
    slots = divide(nodes, **asked)
    assert (slots.num_slots, slots.cpus_per_trial, slots.gpus_per_trial) == expected
    assert slots.on(nodes) == slots.num_slots


@pytest.mark.parametrize(
    ("nodes", "asked", "message"),
    [
        ([Node(4, 1)], {"gpus_per_trial": 2}, "--gpus-per-trial 2, but there are 1 GPUs"),
        ([Node(4)], {"cpus_per_trial": 5}, "--cpus-per-trial 5, but there are 4 CPUs"),
        ([Node(4, 1), Node(4, 1)], {"gpus_per_trial": 2}, "--gpus-per-trial 2, but no machine has more than 1 GPUs"),
        ([Node(4, 2)], {"gpus_per_trial": 1.5}, "--gpus-per-trial 1.5: above one, only whole GPUs can be given"),
        ([Node(4)], {"cpus_per_trial": 1.5}, "--cpus-per-trial 1.5: above one, only whole cores can be given"),
        ([Node(4)], {"cpus_per_trial": 0}, "--cpus-per-trial 0 is not a valid share of a core; give more than 0"),
        (
            [Node(4)],
            {"cpus_per_trial": math.nan},
            "--cpus-per-trial nan is not a valid number; give one such as 1 or 0.5",
        ),
        ([Node(4)], {"gpus_per_trial": -1}, "--gpus-per-trial -1 is negative"),
        ([Node(4)], {"parallel": 0}, "--parallel 0: give at least 1"),
    ],
)
def test_a_share_that_no_machine_has_is_refused(nodes, asked, message):
    with pytest.raises(ValueError) as error:
        divide(nodes, **asked)
    assert str(error.value) == message


def test_machines_that_come_and_go_change_how_many_run_and_not_what_each_gets():
    slots = divide([Node(4), Node(4)])
    assert [slots.on(nodes) for nodes in ([Node(4)], [], [Node(4)] * 3, [Node(0.5)], [Node(64)])] == [4, 0, 12, 0, 8]
    assert divide([Node(4), Node(4)], parallel=6).on([Node(4)] * 3) == 6
    assert divide([Node(8, 2)]).on([Node(8, 2), Node(2, 8), Node(64)]) == 2  # four cores a trial, one GPU


def test_a_share_is_exclusive_unless_a_gpu_is_shared():
    assert [Slots(1, 1, gpus).is_exclusive for gpus in (0, 0.5, 1, 2)] == [True, False, True, True]
    assert divide([Node(2)]).num_threads == 1 and divide([Node(16, 2)]).num_threads == 8
    assert str(divide([Node(8, 2)])) == "2 trials at a time, 1 GPU each" and MAX_CPU_TRIALS == 8


GIB = 2**30


def slots_of(**asked) -> Slots:
    options = RunOptions(space=SMOKE, **asked)
    space, budget, _ = prepare_space(options)
    return slots_for(options, contextlib.ExitStack(), space, budget)


def test_a_gpu_is_shared_by_as_many_as_were_asked_for_or_as_its_memory_holds(monkeypatch):
    assert [trials_that_fit(24 * GIB, peak * GIB) for peak in (0.1, 1, 5, 11, 13, 80)] == [8, 8, 4, 2, 1, 1]
    monkeypatch.setattr(hardware, "num_gpus", lambda: 2)
    monkeypatch.setattr(hardware, "num_cores", lambda: 16)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda i: "NVIDIA A100")
    assert (slots_of(trials_per_gpu="3").num_slots, slots_of(trials_per_gpu="1").num_slots) == (6, 2)
    space, budget, _ = prepare_space(RunOptions(space=SMOKE))
    largest = largest_peak(space, budget, {"precision": "bf16"})
    assert largest > 0
    for holds in (1, 2, 5):
        memory = int(holds * (largest + hardware.CUDA_BYTES)) + 1
        monkeypatch.setattr(hardware, "smallest_gpu_bytes", lambda memory=memory: memory)
        slots = slots_of(trials_per_gpu="auto")
        assert (slots.num_slots, slots.gpus_per_trial, slots.is_exclusive) == (2 * holds, 1 / holds, holds == 1)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"trials_per_gpu": "0"}, "--trials-per-gpu 0: give a number of trials, or auto"),
        ({"trials_per_gpu": "-1"}, "--trials-per-gpu -1: give a number of trials, or auto"),
        ({"trials_per_gpu": "many"}, "--trials-per-gpu many: give a number of trials, or auto"),
        ({"trials_per_gpu": "auto"}, "--trials-per-gpu auto goes by the memory of the GPUs, and there are none here"),
        (
            {"trials_per_gpu": "2", "gpus_per_trial": 0.5},
            "--trials-per-gpu and --gpus-per-trial say the same in two ways; give one",
        ),
    ],
)
def test_no_number_of_trials_on_a_gpu_is_refused(monkeypatch, asked, message):
    monkeypatch.setattr(hardware, "smallest_gpu_bytes", lambda: None)
    with pytest.raises(ValueError) as error:
        slots_of(**asked)
    assert str(error.value) == message


A100, T4 = Node(32, 4, "A100"), Node(8, 1, "T4")


def test_gpus_of_different_kinds_are_not_mixed():
    with pytest.raises(ValueError) as error:
        divide([A100, A100, T4])
    assert str(error.value) == (
        "the GPUs are of different kinds, whose speeds cannot be compared: A100 on 2 machines, T4 on 1 machine; "
        "give --gpu-kind"
    )
    with pytest.raises(ValueError, match="--gpu-kind H100: there is no such GPU; there is A100 on 1 machine"):
        divide([A100], gpu_kind="H100")
    with pytest.raises(ValueError, match="no machine has 2 GPUs of the kind T4 for a trial"):
        divide([A100, T4], gpu_kind="T4", gpus_per_trial=2)
    with pytest.raises(ValueError, match="no machine has cores for a trial"):
        divide([Node(0, 1)], gpus_per_trial=0)
    slots = divide([A100, T4], gpu_kind="T4")
    assert (slots.num_slots, slots.cpus_per_trial) == (1, 8)
    assert slots.resources == {"cpu": 8, "gpu": 1, "accelerator_type:T4": 0.001}
    alone = divide([A100])
    assert alone.on([A100, T4, A100]) == 8  # one of another kind that joins later is not used
    assert divide([A100, T4], gpus_per_trial=0).gpu_kind == ""
    assert divide([Node(8, 2)]).resources == {"cpu": 4, "gpu": 1}


def test_gpus_of_different_kinds_in_this_machine_are_to_be_chosen_from(monkeypatch):
    names = ["NVIDIA A100", "NVIDIA T4"]
    monkeypatch.setattr(hardware, "num_gpus", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda i: names[i])
    with pytest.raises(ValueError, match="different kinds.*: NVIDIA A100, NVIDIA T4; choose some with CUDA_VISIBLE"):
        hardware.this_machine()
    names[1] = names[0]
    assert hardware.this_machine() == Node(hardware.num_cores(), 2)


@pytest.mark.parametrize(
    ("metrics", "limits", "matters"),
    [
        ((), "", False),
        (("loss", "num_params"), "", False),
        (("loss", "tokens_per_second"), "", True),
        (("tokens_per_second",), "", True),
        ((), "limits: {tokens_per_second: {min: 10}}", True),
        ((), "limits: {peak_vram_bytes: {max: 1 GiB}}", False),
    ],
)
def test_where_trials_share_a_gpu_a_speed_that_matters_is_measured_alone(
    tmp_path, monkeypatch, metrics, limits, matters
):
    monkeypatch.setattr(hardware, "this_machine", lambda: Node(8, 1))
    (tmp_path / "smoke.yaml").write_text(f"{SMOKE.read_text()}\n{limits}\n")
    for share, is_shared in (
        ({"trials_per_gpu": "2"}, True),
        ({"gpus_per_trial": 0.5}, True),
        ({}, False),
        ({"gpus_per_trial": 0}, False),
    ):
        options = RunOptions(space=tmp_path / "smoke.yaml", metrics=metrics, **share)
        space, budget, _ = prepare_space(options)
        slots = slots_for(options, contextlib.ExitStack(), space, budget)
        settings = StudySettings(space=space, budget=budget, corpus={"digest": "d", "about": "text", "paths": []})
        study = Study.create(InMemoryStorage(), "smoke", settings)
        folder = StudyFolder(tmp_path, "smoke", study_store(None, tmp_path))
        with folder.lock(settings.directions):
            proposal = study.propose()
            request = Requests(study, folder, slots, 100.0).request(proposal.number, proposal.values)
        assert (request.exclusive, request.measures_alone) == (not is_shared, is_shared and matters)


def test_without_turns_no_speeds_of_trials_that_share_a_gpu_are_compared(monkeypatch):
    monkeypatch.setattr(hardware, "this_machine", lambda: Node(8, 1))
    monkeypatch.setattr("search.worker.gpu_lock.fcntl", None)
    assert not slots_of(trials_per_gpu="2").is_exclusive
    assert slots_of(metrics=("tokens_per_second",)).is_exclusive
    with pytest.raises(
        ValueError, match="tokens_per_second cannot be compared between trials that share a GPU of this"
    ):
        slots_of(trials_per_gpu="2", metrics=("tokens_per_second",))


def test_a_speed_that_was_measured_on_a_shared_gpu_is_marked():
    spoken = []
    for exclusive in (True, False):
        measured = {"loss": 1.0, "exclusive": exclusive, "tokens_per_second": 1234.0}
        record = TrialRecord(0, {}, measurements={10: measured}, tokens_per_second=1234.0)
        spoken.append(tables._speed(record))
    assert spoken == ["1,234", "1,234~"]


def test_several_drivers_share_alike_and_none_of_the_slots_is_left():
    for num_slots in range(10):
        for num_drivers in range(1, 13):
            shares = [share_of(num_slots, place, num_drivers) for place in range(num_drivers)]
            assert (
                sum(shares) == num_slots and max(shares) - min(shares) <= 1 and shares == sorted(shares, reverse=True)
            )
