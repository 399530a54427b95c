"""Samplers by name: their options, the study in memory that they see, and what they may propose."""

from __future__ import annotations

import sys
import types
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.trial import TrialState

from search.space.configurations import Listing, grid_values, identity
from search.space.loading import parse_space
from search.space.parameter import Parameter
from search.space.spec import SAMPLERS, STOPPERS, Named
from search.strategy.choice import SeenTrial, Start, State
from search.strategy.draws import Grid
from search.strategy.feasibility import Feasibility
from search.strategy.mirror import Mirror
from search.strategy.optuna_sampler import MAX_ASKS, OptunaSampler, SamplerError, seed_of
from search.strategy.own_sampler import digest_at, load_class, located
from search.strategy.pickles import check_optimizers
from search.strategy.samplers import OPTUNAS, Choosing, search_faults, strategy_of
from search.strategy.sampling import Candidates, NothingNew, distributions
from tests.strategy.test_sampling import SPACE
from tests.support.thorough import some_of

TWO = SPACE.replace("budget:", "metrics: [loss, tokens_per_second]\nbudget:")
RUNGS = (1000, 3000, 9000)
ONE_CLASS = "import optuna\n\nclass Mine(optuna.samplers.RandomSampler):\n    pass\n"


def faults(sampler: str, stopping: str = "none", space: str = SPACE, options: dict | None = None, **more) -> list[str]:
    parsed = parse_space(space)
    found = search_faults(Named(sampler, options or {}), Named(stopping, more), parsed, parsed.budget())
    return [f"{'.'.join(path)}: {message}" for path, message in found]


# Options and pairs.


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "optunahub"])
def test_every_sampler_goes_with_none(sampler: str):
    assert faults(sampler) == []


@pytest.mark.parametrize("stopping", STOPPERS)
@pytest.mark.parametrize("sampler", ["curves", "tpe", "gp", "random", "qmc", "grid"])
def test_every_stopping_goes_with_samplers_that_need_no_generations(sampler: str, stopping: str):
    assert faults(sampler, stopping) == []


@pytest.mark.parametrize(
    ("sampler", "options", "words"),
    [
        ("tpe", {"n_startup_trial": 8}, "sampler.n_startup_trial: unknown option of tpe 'n_startup_trial'. Known:"),
        ("tpe", {"n_startup_trial": 8}, "Did you mean 'n_startup_trials'?"),
        ("tpe", {"n_startup_trials": "many"}, "sampler.n_startup_trials: expected a whole number, got 'many'"),
        ("tpe", {"multivariate": 1}, "sampler.multivariate: expected true or false, got 1"),
        ("tpe", {"seed": 3}, "sampler.seed: the seed is the study's: give --seed N"),
        ("tpe", {"gamma": 3}, "sampler.gamma: tpe takes it from Python code alone"),
        ("tpe", {"group": True, "multivariate": False}, "sampler: the options are refused: ``group`` option can only"),
        ("nsga2", {"population_size": 1}, "sampler: the options are refused: `population_size` must be greater"),
        ("random", {"points": 3}, "sampler.points: random takes no options"),
        ("curves", {"points": 3}, "sampler.points: curves takes no options"),
        ("grid", {"points": 0}, "sampler.points: 0 is not from 1 to 10,000"),
        ("grid", {"points": 400}, "sampler: the grid has up to 144,000 points, more than 10,000; give fewer points"),
        ("tpee", {}, "sampler: unknown sampler 'tpee'. Known:"),
        ("TPESampler", {}, "sampler: 'TPESampler' is called tpe here."),
        ("optunahub", {"package": "samplers/x"}, "sampler: optunahub needs ref, such as"),
        ("optunahub", {}, "sampler: the package optunahub is not installed; pip install optunahub"),
        ("./nothing.py:Mine", {}, "nothing.py: no such file"),
    ],
)
def test_a_wrong_option_is_one_message_with_the_remedy(sampler: str, options: dict, words: str):
    assert any(words in found for found in faults(sampler, options=options)), faults(sampler, options=options)


@pytest.mark.parametrize(
    ("stopping", "options", "words"),
    [
        ("asha", {"kinds": "stop"}, "stopping.kinds: unknown option of asha 'kinds'. Known: brackets, eta, kind. Did"),
        ("asha", {"kind": "prune"}, "stopping.kind: unknown kind 'prune'. Known: promote, stop."),
        ("asha", {"eta": 1}, "stopping.eta: 1 is not above 1"),
        ("asha", {"brackets": 4}, "stopping.brackets: 4 is not from 1 to 3, the number of rungs"),
        ("asha", {"rungs": 4}, "stopping.rungs: unknown option of asha 'rungs'"),
        ("hyperband", {"brackets": 2}, "stopping.brackets: unknown option of hyperband"),
        ("median", {"n_startup_trials": -1}, "stopping.n_startup_trials: -1 is below 0"),
        ("none", {"eta": 3}, "stopping.eta: none takes no options"),
        ("curves", {"eta": 3}, "stopping.eta: curves takes no options"),
        ("ashaa", {}, "stopping: unknown kind of early stopping 'ashaa'."),
        ("ASHAScheduler", {}, "stopping: 'ASHAScheduler' is called asha here."),
    ],
)
def test_a_wrong_option_of_stopping_is_one_message_with_the_remedy(stopping: str, options: dict, words: str):
    [found] = faults("tpe", stopping, **options)
    assert words in found


@pytest.mark.parametrize(
    ("sampler", "stopping", "space", "words"),
    [
        ("cmaes", "none", TWO, "sampler: cmaes takes one metric, not loss and tokens_per_second; take tpe, gp, nsga2"),
        ("tpe", "asha", TWO, "stopping: asha ranks trials by one metric, not by loss and tokens_per_second; take stop"),
        ("tpe", "median", TWO, "take stopping: curves or none"),
        ("cmaes", "asha", SPACE, "cmaes learns from finished trials alone, and with asha few finish; take stopping: n"),
        ("nsga2", "curves", TWO, "nsga2 learns from finished trials alone, and with curves few finish; take stopping"),
    ],
)
def test_a_pair_that_makes_no_sense_is_refused_with_what_to_take(sampler, stopping, space, words):
    [found] = faults(sampler, stopping, space)
    assert words in found


def test_cmaes_goes_with_stopping_if_it_takes_what_was_stopped():
    assert faults("cmaes", "asha", options={"consider_pruned_trials": True}) == []


@pytest.mark.parametrize("stopping", ["none", "curves"])
@pytest.mark.parametrize("sampler", ["curves", "tpe", "gp", "random", "qmc", "grid"])
def test_several_metrics_go_with_curves_and_none(sampler: str, stopping: str):
    assert faults(sampler, stopping, TWO) == []


def test_the_tables_in_the_guide_name_every_sampler_and_every_stopping():
    guide = (Path(__file__).parents[2] / "spaces" / "README.md").read_text(encoding="utf-8")
    section = guide.partition("## Samplers and early stopping")[2].partition("\n## ")[0]
    for name in (*SAMPLERS, *STOPPERS):
        assert f"`{name}`" in section, name


# The mirror.


def mirrored(*trials: SeenTrial, directions: tuple[str, ...] = ("minimize",)) -> Mirror:
    mirror = Mirror(directions, {"x": FloatDistribution(0, 1), "y": IntDistribution(0, 9)})
    for trial in trials:
        mirror.put(trial)
    return mirror


def test_the_mirror_shows_each_state_as_samplers_need_it():
    rungs = {1000: (0.5,), 3000: (0.4,)}
    states = [State.FINISHED, State.PAUSED, State.RUNNING, State.WASTED, State.FAILED]
    mirror = mirrored(*(SeenTrial(i, {"x": i / 10, "y": i, "z": 3}, state, rungs) for i, state in enumerate(states)))
    shown = mirror.study(optuna.samplers.RandomSampler()).get_trials()
    assert [t.state.name for t in shown] == ["COMPLETE", "PRUNED", "RUNNING", "PRUNED", "FAIL"]
    assert [t.values for t in shown] == [[0.4], None, None, None, None]
    values = {1000: 0.5, 3000: 0.4}
    assert [t.intermediate_values for t in shown] == [values, values, values, {}, values]
    assert shown[2].params == {"x": 0.2, "y": 2}


def test_with_several_metrics_the_mirror_has_no_intermediate_values():
    states = enumerate([State.FINISHED, State.PAUSED])
    trials = [SeenTrial(i, {"x": 0.5, "y": 1}, state, {1000: (1.0, 2.0)}) for i, state in states]
    mirror = mirrored(*trials, directions=("minimize", "maximize"))
    done, paused = mirror.study(optuna.samplers.RandomSampler()).get_trials()
    assert done.values == [1.0, 2.0] and not done.intermediate_values and not paused.intermediate_values


def test_what_a_sampler_writes_stays_on_the_mirror_and_a_dropped_trial_leaves_nothing():
    mirror = mirrored(SeenTrial(0, {"x": 0.5, "y": 1}, State.RUNNING, {}, {"a": [1]}))
    mirror.set_trial_system_attr(0, "b", (1, 2))
    mirror.put(SeenTrial(0, {"x": 0.5, "y": 1}, State.FINISHED, {1000: (0.1,)}))
    assert mirror.get_trial(0).system_attrs == {"a": [1], "b": [1, 2]}
    with pytest.raises(TypeError):
        mirror.set_trial_system_attr(0, "c", object())
    mirror.drop(0)
    assert mirror.next_number == 0


@pytest.mark.parametrize("name", OPTUNAS)
def test_every_sampler_of_optuna_can_be_asked_on_the_mirror(name: str):
    """A gap in the numbers, as a trial leaves that another one continues, disturbs none of them."""
    trials = [
        SeenTrial(i, {"x": i / 20, "y": i % 10}, State.FINISHED, {9000: ((i / 20 - 0.3) ** 2,)}) for i in range(1, 15)
    ]
    mirror = mirrored(*trials, SeenTrial(20, {"x": 0.5, "y": 1}, State.RUNNING, {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = getattr(optuna.samplers, OPTUNAS[name])(seed=1)
    trial = mirror.study(sampler).ask({"x": FloatDistribution(0, 1), "y": IntDistribution(0, 9)})
    assert trial.number == 21 and trial.params.keys() == {"x", "y"}
    assert [t.number for t in mirror.get_all_trials(0, states=(TrialState.RUNNING,))] == [20, 21]


# Asking.


class Told(optuna.samplers.RandomSampler):
    """Notes which trials it is told about, and whether it is asked to write."""

    told: list[int]

    def __init__(self, seed: int = 0):
        super().__init__(seed)
        self.told = []

    def after_trial(self, study, trial, state, values):
        self.told.append(trial.number)
        study.stop()


def sampler_of(make, candidates: Candidates, space, **options) -> OptunaSampler:
    return OptunaSampler("mine", make, candidates, distributions(space), ["minimize"], seed=3, **options)


def candidates_of(text: str = SPACE) -> tuple[Candidates, object]:
    space = parse_space(text)
    return Candidates(space, Feasibility.of(space, space.budget()).reasons_against, 0), space


def test_a_sampler_is_told_once_about_each_trial_that_has_ended():
    candidates, space = candidates_of()
    made: list[Told] = []
    ours = sampler_of(lambda seed: made.append(Told(seed)) or made[-1], candidates, space, is_kept=True)
    values = space.complete({})
    for state in (State.RUNNING, State.PAUSED, State.FINISHED):
        ours.learn(SeenTrial(0, values, state, {9000: (1.0,)}))
        ours.propose([])
    assert [one.told for one in made] == [[0]]


def test_a_proposal_is_moved_and_its_origin_says_so():
    class Corner(optuna.samplers.BaseSampler):
        def infer_relative_search_space(self, study, trial):
            return {}

        def sample_relative(self, study, trial, search_space):
            return {}

        def sample_independent(self, study, trial, name, distribution):
            return {"attn_layer_idx": 5, "n_layers": 2, "d_model": 64}.get(name, getattr(distribution, "low", 8))

    candidates, space = candidates_of()
    ours = sampler_of(lambda seed: Corner(), candidates, space)
    start = ours.propose([])
    assert start.values["attn_layer_idx"] == 1 and start.origin.asks == 1 and "moved" in start.origin.moved
    candidates.start(start.values)
    again = ours.propose([])  # the same corner, which has been started: a neighbour takes its place
    assert again.origin.asks == MAX_ASKS and "neighbour" in again.origin.moved
    assert candidates.may_launch(again.values)


def test_an_error_inside_a_sampler_is_one_line_with_its_place():
    class Broken(optuna.samplers.RandomSampler):
        def sample_independent(self, study, trial, name, distribution):
            raise ZeroDivisionError("by\nzero")

    candidates, space = candidates_of()
    line = Broken.sample_independent.__code__.co_firstlineno + 1
    with pytest.raises(SamplerError, match=rf"mine failed at .*test_samplers.py:{line}: ZeroDivisionError: by zero$"):
        sampler_of(Broken, candidates, space).propose([])


def test_a_choice_that_is_not_carried_out_leaves_no_trace():
    candidates, space = candidates_of()
    made_for = Choosing(space, candidates, RUNGS, 3, 0)
    decides = strategy_of(Named("qmc"), Named("none"), made_for)
    decides.learn(SeenTrial(0, space.complete({}), State.FINISHED, {9000: (1.0,)}))
    first = decides.next([], can_start=True)
    assert decides.next([], can_start=True) == first


def test_seeds_differ_by_trial_and_attempt():
    seeds = {seed_of(s, n, a) for s in range(3) for n in range(20) for a in range(MAX_ASKS)}
    assert len(seeds) == 3 * 20 * MAX_ASKS and max(seeds) < 2**31


# One's own class.


def test_a_class_of_ones_own_is_loaded_from_a_file_or_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine.py").write_text(ONE_CLASS)
    name = located("./mine.py:Mine", tmp_path)
    assert issubclass(load_class(name), optuna.samplers.BaseSampler)
    assert faults(name) == [] and len(digest_at(name)) == 16
    assert load_class("optuna.samplers:TPESampler") is optuna.samplers.TPESampler
    assert located("optuna.samplers:TPESampler", tmp_path) == "optuna.samplers:TPESampler"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no class Mine; write class MySampler(optuna.samplers.BaseSampler)"),
        (ONE_CLASS.replace("Mine", "Other"), "has no class Mine; it has Other"),
        ("class Mine: pass", "Mine is not derived from optuna.samplers.BaseSampler"),
        ("\nraise KeyError('x')", "mine.py:2: KeyError: 'x'"),
        ("a b", "mine.py:1: invalid syntax"),
        (
            ONE_CLASS.replace("pass", "def __init__(self):\n        raise OSError('no')"),
            "mine.py:5: OSError: no",
        ),
    ],
)
def test_a_class_that_cannot_be_used_is_one_message_that_says_where(tmp_path: Path, text: str, words: str):
    (tmp_path / "mine.py").write_text(text)
    [found] = faults(located("mine.py:Mine", tmp_path))
    assert words in found


def test_options_of_ones_own_class_are_its_parameters(tmp_path: Path):
    text = ONE_CLASS.replace("pass", "def __init__(self, boldness: float, seed: int):\n        super().__init__(seed)")
    (tmp_path / "mine.py").write_text(text)
    name = located("mine.py:Mine", tmp_path)
    assert faults(name, options={"boldness": 0.5}) == []
    [found] = faults(name, options={"bolness": 0.5})
    assert "sampler.bolness: unknown option" in found and "Did you mean 'boldness'?" in found
    assert "boldness" in faults(name)[0]  # it is missing


def test_a_sampler_of_the_hub_is_loaded_at_its_pinned_ref(monkeypatch: pytest.MonkeyPatch):
    package, asked = types.ModuleType("auto"), []
    package.Auto = type("Auto", (optuna.samplers.RandomSampler,), {"__module__": "auto"})
    hub = types.ModuleType("optunahub")
    hub.__spec__ = types.SimpleNamespace()
    hub.load_module = lambda package, ref: asked.append((package, ref)) or sys.modules["auto"]
    monkeypatch.setitem(sys.modules, "optunahub", hub)
    monkeypatch.setitem(sys.modules, "auto", package)
    options = {"package": "samplers/auto", "ref": "abc"}
    assert faults("optunahub", options=options) == []
    candidates, space = candidates_of()
    decides = strategy_of(Named("optunahub", options), Named("none"), Choosing(space, candidates, RUNGS, 3, 0))
    assert isinstance(decides.next([], can_start=True), Start)
    assert asked == [("samplers/auto", "abc")]


# What CMA-ES stores.


def test_an_optimizer_in_a_study_that_names_foreign_code_is_refused():
    import pickle

    import cmaes

    made = cmaes.CMA(mean=np.zeros(2), sigma=1.0, bounds=np.array([[0.0, 1.0]] * 2))
    made.tell([(made.ask(), float(i)) for i in range(made.population_size)])
    text = pickle.dumps(made).hex()
    check_optimizers({"cma:optimizer:0": text[:100], "cma:optimizer:1": text[100:], "cma:generation": 3})
    with pytest.raises(ValueError, match="'cma:optimizer' cannot be read: it names builtins.print"):
        check_optimizers({"cma:optimizer:0": b"cbuiltins\nprint\n(S'x'\ntR.".hex()})
    for damaged in (text[:99], "zz", 5):
        with pytest.raises(ValueError):
            check_optimizers({"cma:optimizer:0": damaged})


# Grids.


@pytest.mark.parametrize(
    ("parameter", "points", "expected"),
    [
        (Parameter(name="a", type=int, low=2, high=6), 5, [2, 3, 4, 5, 6]),
        (Parameter(name="a", type=int, low=1, high=100), 3, [1, 50, 100]),
        (Parameter(name="a", type=float, low=0.0, high=1.0), 5, [0.0, 0.25, 0.5, 0.75, 1.0]),
        (Parameter(name="a", type=float, low=1e-4, high=1e-2, log=True), 3, [1e-4, 1e-3, 1e-2]),
        (Parameter(name="a", type=float, low=0.0, high=1.0, step=0.1), 3, [0.0, 0.5, 1.0]),
        (Parameter(name="a", type=float, low=0.0, high=1.0), 1, [0.5]),
        (Parameter(name="a", type=int, low=3, high=2), 5, []),
        (Parameter(name="a", type=float, low=2.0, high=2.0), 5, [2.0]),
    ],
)
def test_a_range_in_a_grid(parameter: Parameter, points: int, expected: list[float]):
    assert np.allclose(grid_values(parameter, *parameter.bounds({}), points=points), expected)


def test_a_grid_visits_each_launchable_point_once_and_none_that_was_started():
    candidates, space = candidates_of()
    grid = Grid(candidates, space, 0, 3)
    expected = Listing.of(space, candidates.reasons_against, points=3).configurations
    candidates.start(expected[0])
    found = []
    with pytest.raises(NothingNew):
        while True:
            found.append(grid.propose([]).values)
            candidates.start(found[-1])
    assert Counter(map(identity, found)) == Counter(map(identity, expected[1:]))
    assert {values["learning_rate"] for values in found} == {1e-4, 0.00316228, 0.1}


# Everything that may be launched, and nothing twice.


@st.composite
def spaces(draw: st.DrawFn) -> str:
    """A space with rules, conditions, dependent bounds and a limit; often with few configurations."""
    high = draw(st.integers(2, 4))
    rate = draw(st.sampled_from(["{min: 1e-4, max: 1e-1, log: true, default: 1e-3}", "{value: 1e-3}"]))
    step = draw(st.sampled_from(["{values: [8, 16], default: 16}", "{min: 8, max: 32, step: 8, default: 8}"]))
    when = draw(st.sampled_from(["", ", when: d_model > 16"]))
    rule = draw(st.sampled_from(["d_model % n_heads == 0", "n_layers + n_heads < 7", "d_model // n_heads >= 8"]))
    limit = draw(st.sampled_from(["", "limits: {num_params: {max: 30K}}\n"]))
    return (
        "family: hybrid\nbudget: {trials: 12, min_tokens: 1000, max_tokens: 9000, eta: 3}\n" + limit + "parameters:\n"
        "  d_model: {values: [16, 24, 32], default: 16}\n  n_heads: {values: [1, 2, 3], default: 1}\n"
        f"  n_layers: {{min: 1, max: {high}, default: 1}}\n  batch_size: {step}\n  learning_rate: {rate}\n"
        "  attn_layer_idx: {min: 0, max: n_layers - 1, default: 0}\n"
        f"  grad_clip_norm: {{min: 0.5, max: 2, step: 0.5, default: 1{when}}}\n"
        f"rules: [{{require: {rule}}}]\n"
    )


OFTEN = ["tpe", "cmaes", "qmc", "nsga2", "grid"]


@pytest.mark.parametrize("sampler", some_of([*OFTEN, "gp", "random", "nsga3"], always=OFTEN))
@settings(max_examples=20, deadline=None)
@given(text=spaces(), seed=st.integers(0, 1000))
def test_a_sampler_proposes_only_what_may_be_launched_and_nothing_twice(sampler: str, text: str, seed: int):
    space = parse_space(text)
    feasibility = Feasibility.of(space, space.budget())
    candidates = Candidates(space, feasibility.reasons_against, seed)
    options = {"points": 2} if sampler == "grid" else {}
    if sampler == "grid" and search_faults(Named(sampler, options), Named("none"), space, space.budget()):
        return
    decides = strategy_of(Named(sampler, options), Named("none"), Choosing(space, candidates, RUNGS, 3, seed))
    rng, seen = np.random.default_rng(seed), set()
    for number in range(14):
        try:
            choice = decides.next([], can_start=True)
        except NothingNew:
            listing = Listing.of(space, feasibility.reasons_against, **({"points": 2} if sampler == "grid" else {}))
            assert listing.is_whole and {*map(identity, listing.configurations)} <= seen
            return
        assert isinstance(choice, Start) and feasibility.reasons_against(choice.values) == []
        assert identity(choice.values) not in seen
        seen.add(identity(choice.values))
        candidates.start(choice.values)
        state = State(rng.choice([State.FINISHED, *State]))
        measured = {} if state is State.RUNNING else {9000: (float(rng.normal()),)}
        decides.learn(SeenTrial(number, choice.values, state, measured, choice.origin.attrs))


def test_when_all_configurations_have_been_started_that_is_said():
    text = SPACE.replace("{min: 1e-4, max: 1e-1, log: true, default: 1e-3}", "{value: 1e-3}")
    space = parse_space(text.replace("max: 6", "max: 3"))
    candidates = Candidates(space, Feasibility.of(space, space.budget()).reasons_against, 0)
    decides = strategy_of(Named("tpe"), Named("none"), Choosing(space, candidates, RUNGS, 3, 0))
    number = 0
    with pytest.raises(NothingNew):
        for number in range(1000):
            values = decides.next([], can_start=True).values
            candidates.start(values)
            decides.learn(SeenTrial(number, values, State.FINISHED, {9000: (1.0,)}))
    assert number == len(Listing.of(space, candidates.reasons_against).configurations)
