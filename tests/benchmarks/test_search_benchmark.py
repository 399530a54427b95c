"""The search benchmark: what a table is, what the simulation charges, what the score means, and that all of it runs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import optuna
import pytest

from benchmarks.search import __main__ as command
from benchmarks.search.contest import Terms, _recommended, contest, play
from benchmarks.search.controller import Tinysearch
from benchmarks.search.entrants import ENTRANTS, PARTS
from benchmarks.search.optuna_peers import distributions
from benchmarks.search.peers import OneEpochTopK, RandomAsha, RandomSearch
from benchmarks.search.policy import Problem, Proposal, stopping_rungs
from benchmarks.search.ray_peers import RayOptunaAsha
from benchmarks.search.score import NUM_RESAMPLES, Reference, Scores
from benchmarks.search.simulation import GUESS, random_curves, simulate
from benchmarks.search.table import Axis, Rows, Table, TableError, labels, point, read_table, read_tables, values_at
from search.worker.messages import FINISHED

LEARNERS = ["tpe", "tpe_hyperband", "ray_docs", "ray_eta3", "tinysearch"]
LEVELS = [
    {"name": "layers", "type": "ordinal", "values": [1, 2, 4]},
    {"name": "norm", "type": "categorical", "values": ["a", "b"]},
]
HPS = [{"name": "lr", "type": "float", "values": None, "log": True}, {"name": "width", "type": "float"}]


def arrays(n: int = 60, num_rungs: int = 9, seed: int = 0, **meta) -> dict:
    """A table whose best configuration is the one nearest to (0.3, 0.7); curves fall towards their full value."""
    rng = np.random.default_rng(seed)
    points = rng.random((n, 2))
    full = 1 + np.hypot(points[:, 0] - 0.3, points[:, 1] - 0.7)
    rungs = np.arange(1, num_rungs + 1)
    values = full[:, None] + 2 / rungs + rng.normal(0, 0.02, (n, num_rungs)) - 2 / num_rungs
    costs = rng.uniform(0.5, 1.5, (n, 1)) * rungs
    about = {"name": "made:up", "restart": False, "best": 0.9, "median": 1.5, "full_cost": float(num_rungs), "hps": HPS}
    return {
        "U": points.astype(np.float32),
        "Y": values.astype(np.float32),
        "C": costs,
        "last": np.full(n, num_rungs - 1, dtype=np.int32),
        "meta": json.dumps({**about, **meta}),
    }


def written(folder: Path, name: str = "table.npz", **parts) -> Path:
    np.savez(folder / name, **parts)
    return folder / name


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return read_table(written(tmp_path, **arrays()))


def by_hand(costs: list[list[float]], values: list[list[float]], *, restart: bool = False) -> Table:
    """A table on one axis, its configurations evenly spaced, with one unit for a cost of 1."""
    lengths = np.array([len(row) for row in costs])
    width = max(lengths)
    padded = [[*row, *[math.nan] * (width - len(row))] for row in costs]
    full = [row[-1] for row in values]
    return Table(
        name="by:hand",
        axes=(Axis("x"),),
        points=np.linspace(0, 1, len(costs))[:, None],
        values=np.array([[*row, *[math.nan] * (width - len(row))] for row in values]),
        costs=np.array(padded),
        lengths=lengths,
        restart=restart,
        best=float(np.nanmin(full)),
        median=float(np.nanmax(full)),
    )


class Scripted:
    """Proposes what it is given, in order; continues at a rung if `continues` says so; remembers its reports."""

    def __init__(self, proposals: list[Proposal], rungs: tuple[int, ...] = (), continues=lambda key, rung: True):
        self.proposals, self.rungs, self.continues = list(proposals), rungs, continues
        self.reports: list[tuple] = []
        self.places: dict[int, list[float]] = {}
        self.best: tuple[float, int | None] = (math.inf, None)

    def propose(self) -> Proposal | None:
        return self.proposals.pop(0) if self.proposals else None

    def given(self, key: int, point: np.ndarray) -> None:
        self.places[key] = point.tolist()

    def report(self, key: int, rung: int, value: float) -> bool:
        self.reports.append((key, rung, value))
        return self.continues(key, rung)

    def finished(self, key: int, rung: int, value: float) -> None:
        self.reports.append((key, rung, value, "end"))
        self.best = min(self.best, (value, key))

    def incumbent(self) -> int | None:
        return self.best[1]


def new(*places: float) -> list[Proposal]:
    return [Proposal(key, np.array([x])) for key, x in enumerate(places)]


# What a run costs.


def test_two_workers_share_the_clock_and_the_cost_is_the_sum_over_both():
    table = by_hand([[1.0, 2.0], [2.0, 6.0]], [[5.0, 3.0], [4.0, 2.0]])
    run = simulate(table, Scripted(new(0, 1)), num_workers=2, budget=100)
    # At time 2 the first has ended and both have consumed 2; alone, the second continues to 6.
    # Its own regret is a guess's, so that the hand-over's changes only with the second.
    assert (run.costs, run.regrets) == ([8.0], [0.0])
    assert run.total == 8.0
    assert run.spent == {0: 2.0, 1: 6.0}
    assert (run.num_finished, run.handed) == (2, 1)


def test_a_hand_over_counts_from_the_cost_at_which_it_was_made():
    table = by_hand([[1.0, 2.0], [2.0, 6.0], [1.0, 3.0]], [[5.0, 3.0], [4.0, 2.0], [9.0, 4.0]])
    run = simulate(table, Scripted(new(0, 1 / 2)), num_workers=1, budget=100)
    assert [run.regret_at(cost) for cost in (0, 1.9, 2.0, 7.9, 8.0, 99)] == [GUESS, GUESS, 0.5, 0.5, 0.0, 0.0]


def test_what_is_running_when_the_budget_ends_is_charged_up_to_there():
    table = by_hand([[1.0, 2.0], [2.0, 6.0]], [[5.0, 3.0], [4.0, 2.0]])
    run = simulate(table, Scripted(new(0, 1)), num_workers=2, budget=5)
    assert run.total == 5.0
    assert run.spent == {0: 2.0, 1: 3.0}
    assert run.handed == 0


@pytest.mark.parametrize(("restart", "costs"), [(False, [3.0, 3.0]), (True, [3.0, 4.0])])
def test_a_stopped_trial_that_is_resumed_pays_what_is_left_or_under_restart_the_whole(restart: bool, costs: list):
    table = by_hand([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]], [[5.0, 4.0, 3.0], [4.0, 3.0, 2.0]], restart=restart)
    policy = Scripted([*new(0, 1), Proposal(1)], rungs=(1,), continues=lambda key, rung: key == 0)
    run = simulate(table, policy, num_workers=1, budget=100)
    first = 4.0 if restart else 3.0  # continuing pays for the whole run again
    assert run.spent == {0: first, 1: costs[1]}
    assert run.total == first + costs[1]
    assert run.unfinished == []
    assert [report[:2] for report in policy.reports] == [(0, 1), (0, 3), (1, 1), (1, 3)]


def test_a_trial_ends_at_its_own_last_rung():
    table = by_hand([[1.0, 2.0], [1.0, 2.0, 3.0, 4.0]], [[5.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    policy = Scripted(new(0, 1), rungs=(1, 3))
    simulate(table, policy, num_workers=1, budget=100)
    assert policy.reports == [(0, 1, 5.0), (0, 2, 4.0, "end"), (1, 1, 4.0), (1, 3, 2.0), (1, 4, 1.0, "end")]


def test_a_worker_without_a_proposal_costs_nothing_and_is_asked_again():
    table = by_hand([[1.0]] * 4, [[1.0], [2.0], [3.0], [4.0]])

    class Hesitant(Scripted):
        def propose(self):
            return super().propose() if len(self.reports) == 4 - len(self.proposals) else None

    run = simulate(table, Hesitant(new(0, 1 / 3, 2 / 3, 1)), num_workers=3, budget=100)
    assert (run.total, run.num_finished) == (4.0, 4)


def test_when_every_configuration_is_trained_the_rest_of_the_budget_does_nothing(table: Table):
    run = simulate(table, RandomSearch(Problem.of(table, 500), 0), num_workers=8, budget=500)
    assert run.num_finished == table.num_configurations
    assert run.total == pytest.approx(table.full_costs.sum())
    assert table.regrets[run.handed] == table.regrets.min() == run.regret_at(500)


def test_divergence_is_reported_as_nan_and_never_handed_over(tmp_path: Path):
    parts = arrays()
    parts["Y"][:30, 4:] = [np.nan, np.inf, 1e30, -np.inf, np.nan]
    table = read_table(written(tmp_path, **parts))
    assert np.isnan(table.full_values[:30]).all() and np.isfinite(table.full_values[30:]).all()
    assert (table.regrets[:30] == 1).all()
    for name in ("random", "random_asha", "one_epoch_top_k", "tpe"):
        run = simulate(table, ENTRANTS[name].factory(Problem.of(table, 30), 0), num_workers=8, budget=30)
        assert run.handed >= 30


def test_a_proposal_becomes_the_nearest_configuration_that_is_left(table: Table):
    rows, at = Rows(table, 0), np.array([0.3, 0.7])
    order = np.argsort(np.linalg.norm(table.points - at, axis=1), kind="stable")
    assert [rows.take_nearest(at) for _ in range(table.num_configurations)] == order.tolist()
    assert rows.num_left == 0


def test_a_policy_learns_which_configuration_a_new_trial_trains_and_only_a_new_one():
    table = by_hand([[1.0, 2.0]] * 3, [[5.0, 4.0], [4.0, 3.0], [3.0, 2.0]])
    policy = Scripted([*new(0.6, 0.6, 0.6), Proposal(0)], rungs=(1,), continues=lambda key, rung: key > 0)
    policy.propose, propose = lambda: log.append("propose") or propose(), policy.propose
    policy.given, given = lambda key, at: log.append(("given", key)) or given(key, at), policy.given
    log: list = []
    simulate(table, policy, num_workers=2, budget=100)
    assert policy.places == {0: [0.5], 1: [1.0], 2: [0.0]}
    assert log[:4] == ["propose", ("given", 0), "propose", ("given", 1)]
    assert [entry for entry in log if entry != "propose"] == [("given", key) for key in range(3)]


def test_of_equal_configurations_chance_decides():
    twins = by_hand([[1.0]] * 2, [[1.0], [2.0]])
    twins = dataclasses.replace(twins, points=np.zeros((2, 1)))
    assert {Rows(twins, seed).take_nearest(np.zeros(1)) for seed in range(20)} == {0, 1}


# What the policies do.


def test_the_stopping_rungs_are_those_below_the_end():
    assert stopping_rungs(51) == (1, 3, 9, 27)
    assert stopping_rungs(27) == (1, 3, 9)
    assert stopping_rungs(1) == ()


def test_random_asha_decides_as_rays_scheduler_does(table: Table):
    from types import SimpleNamespace

    from ray.tune.schedulers import ASHAScheduler

    ours = RandomAsha(Problem.of(table, 50), 0)
    rays = ASHAScheduler(metric="v", mode="min", grace_period=1, reduction_factor=3, max_t=table.num_rungs)
    rng = np.random.default_rng(0)
    decisions = []
    for key in range(300):
        trial = SimpleNamespace(trial_id=str(key))
        rays.on_trial_add(None, trial)
        for rung in ours.rungs:
            value = float(rng.normal())
            theirs = rays.on_trial_result(None, trial, {"v": value, "training_iteration": rung}) == "CONTINUE"
            decisions.append(ours.report(key, rung, value))
            assert decisions[-1] == theirs, (key, rung)
            if not theirs:
                break
    assert True in decisions and False in decisions


def test_one_epoch_then_top_k_trains_the_best_after_the_first_rung(table: Table):
    policy = OneEpochTopK(Problem.of(table, 20), 0)
    run = simulate(table, policy, num_workers=4, budget=20)
    finished = [row for row, cost in run.spent.items() if cost == pytest.approx(table.full_costs[row])]
    best = np.argsort(table.values[:, 0])[: len(finished)]
    assert len(run.spent) == table.num_configurations and set(finished) == set(best)


@pytest.mark.parametrize("name", ENTRANTS)
def test_every_policy_beats_a_guess_and_repeats_itself(name: str, table: Table):
    terms = Terms.of(4, 20.0)
    first, second = (dataclasses.replace(play(table, name, 0, terms), thinking_seconds=0) for _ in range(2))
    assert first == second
    assert first.regrets[-1] < 0.7
    assert first.num_trials >= first.num_finished + first.num_stopped
    assert dataclasses.replace(play(table, name, 1, terms), thinking_seconds=0, seed=0) != first


def test_ordinal_and_categorical_axes_reach_every_policy(tmp_path: Path):
    levels = list(itertools.islice(itertools.cycle(itertools.product([0, 0.5, 1], [0, 1])), 60))
    table = read_table(written(tmp_path, **arrays(hps=LEVELS) | {"U": np.array(levels)}))
    assert [(axis.num_levels, axis.is_ordered) for axis in table.axes] == [(3, True), (2, False)]
    assert point(table.axes, {"layers": 1, "norm": 1}).tolist() == [0.5, 1.0]
    assert values_at(table.axes, np.array([0.7, 0.6])) == {"layers": 1, "norm": 1}
    for name in ENTRANTS:
        assert play(table, name, 0, Terms.of(4, 10.0)).num_finished > 0


def optuna_study(policy) -> optuna.Study:
    """What a policy that searches with Optuna, whether directly or not, keeps its trials in."""
    if isinstance(policy, Tinysearch):
        return policy.study._study
    return policy._searcher._ot_study if isinstance(policy, RayOptunaAsha) else policy._study


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learning_policy_records_what_was_trained_in_place_of_what_it_proposed(name: str, tmp_path: Path):
    parts = arrays(hps=[HPS[0], *LEVELS])
    levels = itertools.islice(itertools.cycle(itertools.product([0, 0.5, 1], [0, 1])), 60)
    parts["U"] = np.column_stack([parts["U"][:, 0], list(levels)])
    table = read_table(written(tmp_path, **parts))
    policy = ENTRANTS[name].factory(Problem.of(table, 25), 0)
    proposed, trained = {}, {}

    def propose(original=policy.propose):
        proposal = original()
        if proposal is not None and proposal.point is not None:
            assert len(optuna_study(policy).trials) == proposal.key + 1, (
                "another was drawn before this one was reported"
            )
            proposed[proposal.key] = values_at(table.axes, proposal.point)
        return proposal

    def given(key, at, original=policy.given):
        original(key, at)
        trained[key] = values_at(table.axes, at)
        assert optuna_study(policy).trials[key].params == trained[key]

    policy.propose, policy.given = propose, given
    simulate(table, policy, num_workers=4, budget=25)
    study = optuna_study(policy)
    assert len(trained) > 20 and all(trained[key] != proposed[key] for key in trained)
    assert {key: study.trials[key].params for key in trained} == trained
    assert all(type(value) is type(trained[0][hp]) for key in trained for hp, value in study.trials[key].params.items())
    assert any(study.trials[key].state.is_finished() for key in trained)
    if name == "tinysearch":
        assert {key: record.values for key, record in policy.study.records.items()} == trained
        assert {key: study.trials[key].user_attrs["values"] for key in trained} == trained
    if isinstance(policy, RayOptunaAsha):
        assert {key: policy._searcher.suggest(str(key)) for key in trained} == trained


@pytest.mark.parametrize("name", LEARNERS)
def test_the_next_proposal_is_that_of_a_study_that_had_proposed_what_was_trained(name: str, table: Table):
    """All train far from where they were proposed; twelve have ended, and two are running."""
    policy = ENTRANTS[name].factory(Problem.of(table, 20), 0)
    places = np.random.default_rng(1).random((14, 2)) / 4
    for key, at in enumerate(places):
        assert policy.propose().key == key
        policy.given(key, at)
        if key < 12:
            policy.finished(key, table.num_rungs, float(at.sum()))
    actual = optuna_study(policy)
    same = optuna.create_study(study_name=actual.study_name, pruner=actual.pruner)  # brackets hang on the name
    for key, values in enumerate([values_at(table.axes, at) for at in places] + [t.params for t in actual.trials[14:]]):
        same.enqueue_trial(values)
        trial = same.ask(distributions(table.axes))
        if key < 12:
            same.tell(trial, float(places[key].sum()))
    actual.sampler, same.sampler = (optuna.samplers.TPESampler(seed=2) for _ in range(2))
    drawn, expected = (study.ask(distributions(table.axes)) for study in (actual, same))
    assert drawn.number == expected.number >= 14
    assert drawn.params == expected.params


def test_the_controller_gets_the_end_of_a_short_training_as_a_finished_one(tmp_path: Path):
    parts = arrays()
    parts["last"][:] = 4  # five of nine rungs
    table = read_table(written(tmp_path, **parts))
    policy = Tinysearch(Problem.of(table, 20), 0)
    run = simulate(table, policy, num_workers=4, budget=20)
    finished = [r for r in policy.study.records.values() if r.outcome == FINISHED]
    assert len(finished) == run.num_finished > 0
    assert all(set(r.measurements) == {9} for r in finished)


def test_the_controller_hands_over_the_trial_that_leads(table: Table):
    policy = Tinysearch(Problem.of(table, 20), 0)
    keys = [policy.propose().key for _ in range(5)]
    assert policy.incumbent() is None
    for key, value, best in ((0, 2.0, 0), (1, 1.0, 1), (2, math.nan, 1)):
        policy.report(keys[key], 1, value)
        assert policy.incumbent() == keys[best]
    policy.finished(keys[3], table.num_rungs, 3.0)
    assert policy.incumbent() == keys[1]
    policy.finished(keys[4], table.num_rungs, 0.5)
    assert policy.incumbent() == keys[4]


def test_the_best_finished_trial_is_counted_beside_what_is_handed_over(table: Table):
    terms = Terms.of(8, 10.0)  # little more than one training for each worker
    for result in contest([table], ["random"], range(6), terms):
        assert result.regrets == result.finished_regrets
    results = contest([table], ["tinysearch"], range(6), terms)
    for result in results:
        assert list(result.finished_regrets) == sorted(result.finished_regrets, reverse=True)
    assert any(result.regrets != result.finished_regrets for result in results)


@pytest.mark.benchmark
@pytest.mark.parametrize("name", PARTS)
def test_a_controller_without_one_of_its_parts_searches_differently(tmp_path: Path, name: str):
    made = arrays(n=100, num_rungs=27)
    made["Y"][made["U"][:, 0] > 0.7, 2:] = math.nan
    table = read_table(written(tmp_path, **made))
    # Over several seeds: in one search the part may happen to change nothing.
    own, without = (contest([table], [policy], range(3), Terms.of(4, 10.0)) for policy in ("tinysearch", name))
    figures = [[(r.num_trials, r.num_stopped, r.below_median_share) for r in results] for results in (own, without)]
    assert figures[0] != figures[1]


def test_a_guide_recommends_a_configuration_of_its_quality(table: Table):
    order = np.sort(table.full_values)
    for place in (0.1, 0.9):
        points = np.array([_recommended(table, place, seed) for seed in range(20)])
        rows = [int(np.flatnonzero((table.points == point).all(1))[0]) for point in points]
        ranks = np.searchsorted(order, table.full_values[rows]) / (len(order) - 1)
        assert abs(ranks - place).max() < 0.08 and len(set(rows)) > 1


# What the score means.


def test_random_curves_are_what_the_simulation_finds(table: Table):
    grid = np.linspace(0, 70, 200)  # the table is used up at about 60
    fast = random_curves(table, num_workers=8, budget=65, grid=grid, seeds=range(5))
    for seed, curve in enumerate(fast):
        run = simulate(table, RandomSearch(Problem.of(table, 65), seed), num_workers=8, budget=65, seed=seed)
        assert curve.tolist() == [run.regret_at(cost) for cost in grid]


def test_random_search_is_worth_about_itself_and_twice_the_budget_about_two(tmp_path: Path):
    for i in range(3):
        written(tmp_path, f"{i}.npz", **arrays(n=400, seed=i, name=f"made:{i}"))
    tables, policies, terms = read_tables(tmp_path), ["random", "random_x2"], Terms.of(4, 20.0)
    scores = Scores(tables, policies, contest(tables, policies, range(60), terms), terms)
    assert scores.headline("random") == pytest.approx(1, rel=0.25)
    assert scores.headline("random_x2") == pytest.approx(2, rel=0.25)
    assert (scores.interval("random")[0] <= scores.headline("random")).all()
    low, high = scores.interval("random_x2", over="random")
    assert (low > 1).all() and (high < 4).all()


def test_equivalent_random_search_is_where_random_search_first_has_the_value():
    grid = np.arange(1.0, 11.0)
    reference = Reference(grid, np.array([[1, 1, 1, 0.8, 0.8, 0.6, 0.4, 0.4, 0.2, 0.2]]))

    def equivalent(value: float, budget: float) -> float:
        return float(reference.equivalents(reference.curves, np.array([value]), budget)[0])

    assert equivalent(0.5, 2.0) == 7 / 2
    assert equivalent(0.7, 8.0) == 6 / 8
    assert equivalent(1.0, 2.0) == 1  # random search has nothing yet either
    assert equivalent(1.0, 8.0) == 4 / 8
    assert equivalent(0.8, 4.5) == 1
    assert equivalent(0.1, 2.0) == 10  # never found: the limit


def test_families_share_where_they_come_from_and_what_was_searched(tmp_path: Path):
    other = [{"name": "rank", "type": "float"}, HPS[0]]
    for name, hps in [("t:a", HPS), ("t:b", HPS), ("m:scratch-x", HPS), ("m:lora-x", other), ("m:lora-y", other)]:
        written(tmp_path, f"{name[0]}{name[2:]}.npz", **arrays(n=5, name=name, hps=hps))
    tables = read_tables(tmp_path)
    found = labels(tables)
    assert {t.name: found[t.family] for t in tables} == {
        "t:a": "t",
        "t:b": "t",
        "m:scratch-x": "m:scratch",
        "m:lora-x": "m:lora",
        "m:lora-y": "m:lora",
    }


def test_equal_policies_share_their_places(table: Table):
    results = contest([table], ["random", "tpe"], range(2), Terms.of(4, 8.0))
    same = [dataclasses.replace(r, policy=name) for r in results[:2] for name in ("tpe", "random_asha")]
    scores = Scores([table], ["random", "tpe", "random_asha"], results[:2] + same, Terms.of(4, 8.0))
    assert {tuple(rank) for rank in scores.ranks.values()} == {(2.0, 2.0)}
    assert len(scores._resampled["random"]) == NUM_RESAMPLES


def test_the_number_of_processes_changes_nothing(table: Table):
    policies, terms = ["random", "random_asha", "one_epoch_top_k", "tinysearch"], Terms.of(4, 10.0)
    one, two = (contest([table], policies, range(2), terms, num_processes=n) for n in (1, 2))
    assert [dataclasses.replace(r, thinking_seconds=0) for r in one] == [
        dataclasses.replace(r, thinking_seconds=0) for r in two
    ]


# The command.


def run_command(*arguments: object) -> None:
    command.main([str(argument) for argument in arguments])


def test_the_command_prints_one_json_object(tmp_path: Path, capsys, monkeypatch):
    assert command.STUDY_SIZES == (200, 2000)
    monkeypatch.setattr(command, "STUDY_SIZES", (12, 20))
    for i in range(2):
        written(tmp_path, f"{i}.npz", **arrays(n=30, seed=i, name=f"made{i}:up"))
    options = ("--json", "--seeds", 2, "--workers", 4, "--policies", "random,tinysearch", "--processes", 1)
    run_command(tmp_path, *options)
    printed = json.loads(capsys.readouterr().out)
    policies, readings = {"random", "tinysearch"}, {"5", "10", "20", "50"}
    assert printed["policies"].keys() == policies and printed["families"].keys() == {"made0", "made1"}
    for name in policies:
        assert (
            readings | {f"{kind}_{r}" for kind in ("rank", "interval") for r in readings}
            <= printed["policies"][name].keys()
        )
        assert {"false_stops", "below_median_cost_share"} <= printed["policies"][name].keys()
        assert printed["families"]["made0"][name].keys() == readings
    assert printed["propose_ms"].keys() == {"12", "20"} and all(ms > 0 for ms in printed["propose_ms"].values())
    assert printed["advantage"].keys() == {"random"}
    assert (printed["workers"], printed["seeds"], printed["budget"]) == (4, 2, 50)


def test_the_command_prints_tables_for_people_and_its_progress_apart(tmp_path: Path, capsys):
    for i in range(2):
        written(tmp_path, f"{i}.npz", **arrays(n=30, seed=i, name=f"made{i}:up"))
    run_command(tmp_path, "--seeds", 1, "--policies", "random,random_asha", "--tables", "1*", "--budget", 7)
    printed = capsys.readouterr()
    assert "random_asha" in printed.out and "made1" in printed.out and "made0" not in printed.out
    assert "2/2 runs" in printed.err


def _without(name: str):
    return lambda parts: parts.pop(name)


def _set(name: str, value):
    def change(parts: dict) -> None:
        parts[name] = value(parts[name]) if callable(value) else value

    return change


def _at(name: str, place, value):
    def change(parts: dict) -> None:
        parts[name][place] = value

    return change


def _meta(**changes):
    return _set("meta", lambda text: json.dumps({**json.loads(text), **changes}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_without("C"), "has no C"),
        (_set("meta", "{"), "meta: is not JSON"),
        (_set("meta", "{}"), "meta: has no name, restart, best, median, full_cost, hps"),
        (_meta(hps=HPS[:1]), "meta.hps: names 1 hyperparameters, but U has 2 columns"),
        (_meta(hps=[HPS[0], HPS[0]]), "meta.hps: gives a name twice"),
        (_meta(median=0.1), "meta.median: is not above meta.best"),
        (_meta(full_cost=0), "meta.full_cost: is not positive"),
        (_meta(best="low"), "meta.best: is 'low', not a number"),
        (_meta(restart="no"), "meta.restart: is neither true nor false"),
        (_set("U", lambda U: U[:-1]), "U: has 59 rows, but Y has 60"),
        (_set("U", lambda U: U[:, 0]), "U: is no matrix of numbers: (60,)"),
        (_at("U", (7, 1), 1.5), "U: row 7: width is not in 0 to 1"),
        (_at("U", (7, 0), np.nan), "U: row 7: lr is not in 0 to 1"),
        (_set("C", lambda C: C[:, :-1]), "C: is (60, 8), but Y is (60, 9)"),
        (_at("C", (3, 4), 0.1), "C: row 3, rung 5: is not positive, or falls"),
        (_at("C", (3, 8), np.nan), "C: row 3, rung 9: is not positive, or falls"),
        (_at("last", 5, 9), "last: row 5: 9 is no rung from 0 to 8"),
        (_set("last", np.zeros(3)), "last: is not 60 whole numbers"),
    ],
)
def test_a_malformed_table_is_one_located_error(damage, words: str, tmp_path: Path, capsys):
    parts = arrays()
    damage(parts)
    file = written(tmp_path, **parts)
    with pytest.raises(SystemExit) as end:
        run_command(tmp_path, "--seeds", 1, "--policies", "random")
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(f"{file}: {words}") and printed.err.count("\n") == 1


def test_what_is_no_table_at_all_is_an_error_too(tmp_path: Path, capsys):
    for content in (b"", b"PK\x03\x04 not a zip", b"text"):
        (tmp_path / "table.npz").write_bytes(content)
        with pytest.raises(TableError, match="table.npz: cannot be read as .npz"):
            read_table(tmp_path / "table.npz")
    with pytest.raises(TableError, match="no table nothing"):
        read_tables(tmp_path, "nothing*")
    with pytest.raises(SystemExit) as end:
        run_command(tmp_path, "--policies", "randon")
    assert end.value.code == 2 and "unknown policy 'randon'" in capsys.readouterr().err


def test_two_tables_of_one_name_are_an_error(tmp_path: Path):
    for name in ("a.npz", "b.npz"):
        written(tmp_path, name, **arrays(n=5))
    with pytest.raises(TableError, match=r"b.npz: meta.name: 'made:up' is the name of .*a.npz as well"):
        read_tables(tmp_path)
