"""Samplers and early stopping by name: which there are, which go together, and how a strategy is made of two.

Everything that can be wrong with a choice is found before a search starts. Optuna's samplers, and what they need, are
imported when they are used.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler

from search.space.configurations import grid_values
from search.space.expression import ExpressionError
from search.space.foreign_search import our_name
from search.space.space import Space, extremes, rungs_of
from search.space.spec import CURVES, SAMPLERS, STOPPERS, BudgetSpec, Named
from search.strategy.choice import Choice, Sampler, SeenTrial, Stopper, Verdict
from search.strategy.combination import Combination, CurvesStopper
from search.strategy.curves import Curve
from search.strategy.draws import MAX_POINTS, Grid, Random
from search.strategy.options import Fault, option_faults
from search.strategy.optuna_sampler import OptunaSampler, place_of
from search.strategy.own_sampler import is_own, load_class
from search.strategy.pickles import check_optimizers
from search.strategy.sampling import Candidates, distributions
from search.strategy.stoppers import Cutting, Median, Never, Promoting
from search.strategy.strategy import Strategy
from trainer.checks import unknown_name

OPTUNAS = {
    "tpe": "TPESampler",
    "gp": "GPSampler",
    "cmaes": "CmaEsSampler",
    "qmc": "QMCSampler",
    "nsga2": "NSGAIISampler",
    "nsga3": "NSGAIIISampler",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "gp": {"warn_independent_sampling": False},
    "cmaes": {"warn_independent_sampling": False},
    "qmc": {"warn_independent_sampling": False, "warn_asynchronous_seeding": False, "scramble": True},
}
"""Where Optuna's own defaults would print a warning for each trial, or give every seed the same points."""

NEEDS = {"gp": "scipy", "qmc": "scipy", "cmaes": "cmaes"}
OF_FINISHED = ("cmaes", "nsga2", "nsga3")
"""Samplers that wait until a generation of trials has finished, and learn from nothing else."""

GRID_POINTS = 5
TAKE_NONE = "take stopping: none"


class Decider(Protocol):
    """What the study asks: `Strategy`, or a combination of two parts."""

    @property
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any]) -> None: ...
    def learn(self, trial: SeenTrial) -> None: ...
    def forget(self, number: int) -> None: ...
    def judge(self, curves: Sequence[Curve], number: int) -> Verdict: ...
    def why(self, curves: Sequence[Curve], number: int) -> str: ...
    def next(self, curves: Sequence[Curve], *, can_start: bool) -> Choice: ...


@dataclass(frozen=True)
class Choosing:
    """What a strategy is made for."""

    space: Space
    candidates: Candidates
    rungs: tuple[int, ...]
    eta: float  # of the budget
    seed: int


def strategy_of(sampler: Named, stopping: Named, made_for: Choosing) -> Decider:
    """The strategy for this pair, which has no faults. Raises ValueError if the user's own class has one by now."""
    candidates, seed = made_for.candidates, made_for.seed
    curves = functools.cache(lambda: Strategy(candidates.num_dims, made_for.rungs, candidates, seed=seed))
    if sampler.name == stopping.name == CURVES.name:
        return curves()
    proposes: Sampler = curves() if sampler.name == CURVES.name else _sampler(sampler, made_for)
    stops: Stopper = CurvesStopper(curves()) if stopping.name == CURVES.name else _stopper(stopping, made_for)
    return Combination(proposes, stops)


def search_faults(sampler: Named, stopping: Named, space: Space, budget: BudgetSpec) -> list[Fault]:
    """Everything that is wrong with a choice for a space with these metrics and this budget. Runs a user's class."""
    found = [*_sampler_faults(sampler), *_stopper_faults(stopping, rungs_of(budget))]
    if not found:
        found = [*_pair_faults(sampler, stopping, space)]
    if not found and sampler.name == "grid":
        found = [*_grid_faults(sampler, space)]
    return found


def _pair_faults(sampler: Named, stopping: Named, space: Space) -> Iterator[Fault]:
    """What does not go together; see the table in spaces/README.md."""
    metrics = [metric.name for metric in space.spec.objectives]
    if len(metrics) > 1:
        named = " and ".join(metrics)
        if sampler.name == "cmaes":
            yield ("sampler",), f"cmaes takes one metric, not {named}; take tpe, gp, nsga2 or curves"
        if stopping.name not in (CURVES.name, "none"):
            words = f"{stopping.name} ranks trials by one metric, not by {named}; take stopping: curves or none"
            yield ("stopping",), words
            return
    takes_pruned = sampler.name == "cmaes" and sampler.options.get("consider_pruned_trials") is True
    if sampler.name in OF_FINISHED and stopping.name != "none" and not takes_pruned:
        also = ", or sampler: {name: cmaes, consider_pruned_trials: true}" if sampler.name == "cmaes" else ""
        yield (
            ("stopping",),
            f"{sampler.name} learns from finished trials alone, and with {stopping.name} few finish; {TAKE_NONE}{also}",
        )


def _unknown(part: str, kind: str, name: str, known: Sequence[str]) -> str:
    ours = our_name(part, name)
    return f"{name!r:.60} is called {ours} here." if ours else unknown_name(kind, name[:60], known)


# Samplers.


def _sampler_faults(sampler: Named) -> Iterator[Fault]:
    name, options, part = sampler.name, sampler.options, "sampler"
    if name == "optunahub":
        yield from _hub_faults(options)
    elif is_own(name):
        try:
            call = load_class(name)
        except ValueError as error:
            yield (part,), str(error)
            return
        faults = [*option_faults(part, name, options, call)]
        yield from faults or _trial_run(part, lambda: _make_own(call, options, 0))
    elif name not in SAMPLERS:
        yield (part,), _unknown(part, "sampler", name, SAMPLERS) + " Your own is ./file.py:Class or module:Class."
    elif name in OPTUNAS:
        if (needs := NEEDS.get(name)) and importlib.util.find_spec(needs) is None:
            yield (part,), f"{name} needs the package {needs}; pip install {needs}"
            return
        faults = [*option_faults(part, name, options, _class(name))]
        yield from faults or _trial_run(part, lambda: _make(name, options, 0))
    else:
        takes: dict[str, Callable[..., Any]] = {"grid": _grid_options, "random": _no_options, "curves": _no_options}
        yield from option_faults(part, name, options, takes[name])
        if name == "grid" and not 1 <= (points := options.get("points", GRID_POINTS)) <= MAX_POINTS:
            yield (part, "points"), f"{points} is not from 1 to {MAX_POINTS:,}"


def _trial_run(part: str, make: Callable[[], BaseSampler]) -> Iterator[Fault]:
    """A fault if the options are refused by the sampler itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make()
    except Exception as error:
        why = " ".join(str(error).split()) if isinstance(error, ValueError) else place_of(error)
        yield (part,), f"the options are refused: {why}"


def _grid_options(points: int = GRID_POINTS) -> None:
    """The signature of `grid`."""


def _no_options() -> None:
    """The signature of what has none."""


def _hub_options(package: str, ref: str, sampler: str = "") -> None:
    """The signature of `optunahub`, which passes other options on."""


def _hub_faults(options: Mapping[str, Any]) -> Iterator[Fault]:
    """Nothing is downloaded here: a package of the hub is code from the network, and only a search runs it."""
    own = {name: value for name, value in options.items() if name in ("package", "ref", "sampler")}
    yield from option_faults("sampler", "optunahub", own, _hub_options)
    for name, example in (("package", "samplers/auto_sampler"), ("ref", "a commit or a tag of the registry")):
        if name not in options:
            yield ("sampler",), f"optunahub needs {name}, such as {example}"
    if importlib.util.find_spec("optunahub") is None:
        yield ("sampler",), "the package optunahub is not installed; pip install optunahub, or take another sampler"


def _grid_faults(sampler: Named, space: Space) -> Iterator[Fault]:
    """A grid that is too large to be listed."""
    points, total = sampler.options.get("points", GRID_POINTS), 1
    for parameter in space.searched.values():
        try:
            ends = extremes(space, parameter) if parameter.is_range else (0.0, 0.0)
            total *= len(grid_values(parameter, *ends, points=points) if parameter.is_range else parameter.choices)
        except ExpressionError:
            continue
    if total > MAX_POINTS:
        fewer = "give fewer points, " if points > 2 else ""
        yield (
            ("sampler",),
            f"the grid has up to {total:,} points, more than {MAX_POINTS:,}; {fewer}fix parameters with --set, or take "
            "sampler: random or qmc",
        )


def _sampler(sampler: Named, made_for: Choosing) -> Sampler:
    space, candidates, seed, name = made_for.space, made_for.candidates, made_for.seed, sampler.name
    if name == "random":
        return Random(candidates, seed)
    if name == "grid":
        return Grid(candidates, space, seed, sampler.options.get("points", GRID_POINTS))
    known: Mapping[str, BaseDistribution] = distributions(space)
    directions = [metric.goal for metric in space.spec.objectives]
    make: Callable[[int], BaseSampler] = functools.partial(_make, name, sampler.options)
    if name == "qmc":  # one sequence of points for the study
        make = functools.partial(lambda _, made: made(seed), made=make)
    elif name == "optunahub":
        make = functools.partial(_make_from_hub, sampler.options)
    elif is_own(name):
        make = functools.partial(_make_own, load_class(name), sampler.options)
    is_optunas = name in OPTUNAS
    own = {"check": check_optimizers} if name == "cmaes" else {}
    shown = name if is_optunas or name == "optunahub" else name.rpartition(":")[2]
    return OptunaSampler(shown, make, candidates, known, directions, seed=seed, is_kept=not is_optunas, **own)


def _class(name: str) -> type[BaseSampler]:
    found: type[BaseSampler] = getattr(importlib.import_module("optuna.samplers"), OPTUNAS[name])
    return found


def _make(name: str, options: Mapping[str, Any], seed: int) -> BaseSampler:
    return _class(name)(**{**DEFAULTS.get(name, {}), **options, "seed": seed})


def _make_own(call: type[BaseSampler], options: Mapping[str, Any], seed: int) -> BaseSampler:
    """An instance of the user's class; it gets a seed if it takes one."""
    takes_seed = "seed" in inspect.signature(call).parameters
    return call(**options, **({"seed": seed} if takes_seed else {}))


def _make_from_hub(options: Mapping[str, Any], seed: int) -> BaseSampler:
    hub = importlib.import_module("optunahub")
    module = hub.load_module(package=options["package"], ref=options["ref"])
    found = {n: v for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, BaseSampler)}
    name = options.get("sampler") or next((n for n, v in found.items() if v.__module__ == module.__name__), "")
    if name not in found:
        raise ValueError(f"{options['package']} has {', '.join(found) or 'no sampler'}; name one as sampler: CLASS")
    rest = {n: v for n, v in options.items() if n not in ("package", "ref", "sampler")}
    return _make_own(found[name], rest, seed)


# Early stopping. The signatures are the options; `rungs` and `budget_eta` come from the study.


def _asha(
    rungs: tuple[int, ...],
    budget_eta: float,
    kind: str = "promote",
    eta: float | None = None,
    brackets: int = 1,
) -> Stopper:
    share = budget_eta if eta is None else eta
    return Promoting(rungs, share, brackets) if kind == "promote" else Cutting(rungs, share, brackets)


def _hyperband(rungs: tuple[int, ...], budget_eta: float, kind: str = "promote", eta: float | None = None) -> Stopper:
    return _asha(rungs, budget_eta, kind, eta, len(rungs))


def _median(rungs: tuple[int, ...], budget_eta: float, n_startup_trials: int = 5, warmup_tokens: int = 0) -> Stopper:
    return Median(rungs, n_startup_trials, warmup_tokens)


def _none(rungs: tuple[int, ...], budget_eta: float) -> Stopper:
    return Never()


_MAKERS: dict[str, Callable[..., Stopper]] = {"asha": _asha, "hyperband": _hyperband, "median": _median, "none": _none}
_OF_STUDY = ("rungs", "budget_eta")


def _stopper(stopping: Named, made_for: Choosing) -> Stopper:
    return _MAKERS[stopping.name](made_for.rungs, made_for.eta, **stopping.options)


def _stopper_faults(stopping: Named, rungs: tuple[int, ...]) -> Iterator[Fault]:
    name, options, part = stopping.name, stopping.options, "stopping"
    if name == CURVES.name:
        yield from option_faults(part, name, options, _no_options)
        return
    if name not in _MAKERS:
        yield (part,), _unknown(part, "kind of early stopping", name, STOPPERS)
        return
    faults = [*option_faults(part, name, options, _MAKERS[name], apart=_OF_STUDY)]
    yield from faults
    if faults:
        return
    if "kind" in options and options["kind"] not in ("promote", "stop"):
        yield (part, "kind"), unknown_name("kind", str(options["kind"])[:60], ("promote", "stop"))
    if (eta := options.get("eta")) is not None and not 1 < eta <= 100:
        yield (part, "eta"), f"{eta:g} is not above 1 and at most 100"
    if not 1 <= (brackets := options.get("brackets", 1)) <= len(rungs):
        yield (part, "brackets"), f"{brackets} is not from 1 to {len(rungs)}, the number of rungs"
    for option in ("n_startup_trials", "warmup_tokens"):
        if options.get(option, 0) < 0:
            yield (part, option), f"{options[option]} is below 0"
