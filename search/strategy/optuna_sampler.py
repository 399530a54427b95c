"""Asks a sampler of Optuna's, or one of the user's own, for configurations that may be launched.

What it proposes is moved to the nearest valid values. If that may not be launched, or was started before, it is asked
again; then the neighbours of its last proposal are tried, and at last random configurations. Rejected proposals stay in
the mirror as running trials until one is found, because samplers look away from what is running.

A sampler of Optuna's is made anew for each question, with a seed that follows from the study's and the trial's number.
So it has no memory but the mirror, and a study that is opened again proposes what it would have proposed.
"""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from search.space.parameter import Values
from search.strategy.choice import Origin, SeenTrial, Start, Stateless
from search.strategy.curves import Curve
from search.strategy.mirror import Mirror
from search.strategy.sampling import Candidates

MAX_ASKS = 8
STEP_SIZES = (0.02, 0.05, 0.1, 0.2, 0.4)  # of neighbours, in units of an axis
NUM_NEIGHBOURS = 16  # for each step size
OF_STUDY = "tinysearch:sampler"  # the key in `Origin.attrs` of what the sampler wrote about the study
TRANSIENT = ("tpe:relative_params", "gp:relative_params")  # parameters that are being asked; the mirror has them

MOVED = "moved to the nearest values that it may have"
NEIGHBOUR = "a neighbour of what was proposed, which may not be launched or was started before"
DRAWN = "drawn at random: nothing near what was proposed may be launched"


class SamplerError(RuntimeError):
    """The sampler failed; the message says where. Nothing of the study is lost."""


class OptunaSampler(Stateless):
    """A sampler as `search.strategy.choice.Sampler`."""

    def __init__(
        self,
        name: str,
        make: Callable[[int], BaseSampler],
        candidates: Candidates,
        distributions: Mapping[str, BaseDistribution],
        directions: Sequence[str],
        *,
        seed: int,
        is_kept: bool = False,
        check: Callable[[Mapping[str, Any]], None] = lambda attrs: None,
    ):
        """`make` takes a seed. `is_kept`: the sampler is made once, because it may have a memory of its own.

        `check` raises ValueError for attributes of a stored trial that the sampler must not read.
        """
        self._name, self._make, self._candidates, self._check = name, make, candidates, check
        self._distributions = {n: d for n, d in distributions.items() if not d.single()}
        self._mirror = Mirror(directions, self._distributions)
        self._seed, self._is_kept = seed, is_kept
        self._sampler: BaseSampler | None = None
        self._ended: dict[int, FrozenTrial | None] = {}  # trials that have ended; None once the sampler knows

    def learn(self, trial: SeenTrial) -> None:
        """Mirror a trial. Raises ValueError if it is stored with attributes that are damaged."""
        self._check(trial.attrs)
        attrs = dict(trial.attrs)
        of_study = attrs.pop(OF_STUDY, {})
        if not isinstance(of_study, dict):
            raise ValueError(f"its attribute {OF_STUDY!r} is {of_study!r:.60}, not a mapping")
        if trial.number not in self._mirror:
            self._mirror.study_attrs.update(of_study)
        self._mirror.put(SeenTrial(trial.number, trial.values, trial.state, trial.measured, attrs))
        frozen = self._mirror.get_trial(trial.number)
        if frozen.state.is_finished():
            self._ended.setdefault(trial.number, frozen)

    def forget(self, number: int) -> None:
        self._mirror.drop(number)
        self._ended[number] = None

    def propose(self, curves: Sequence[Curve]) -> Start:
        if self._candidates.nothing_new is not None:
            raise self._candidates.nothing_new
        number, before = self._mirror.next_number, self._mirror.study_attrs
        self._mirror.study_attrs = dict(before)
        try:
            return self._proposed(number, before)
        finally:  # the choice may be dropped: what the sampler wrote counts once a trial has been started with it
            self._mirror.study_attrs = before
            for asked in range(number, self._mirror.next_number):
                self._mirror.drop(asked)

    def _proposed(self, number: int, before: Mapping[str, Any]) -> Start:
        """As `propose`, for the trial with this number; leaves rejected proposals and the study's attributes."""
        proposed: dict[str, Any] | None = None
        attrs: dict[str, Any] = {}
        for attempt in range(MAX_ASKS):
            asked = self._ask(number, attempt)
            if (values := self._candidates.nearest(asked.params)) is None:
                continue
            proposed = values
            attrs = self._attrs_of(asked, before)
            if self._candidates.may_launch(values):
                is_moved = any(values[name] != value for name, value in asked.params.items() if name in values)
                return Start(values, Origin(self._name, attempt + 1, MOVED if is_moved else "", attrs))
        rng = np.random.default_rng([self._seed, number, MAX_ASKS])
        if proposed is not None and (values := self._neighbour(proposed, rng)) is not None:
            return Start(values, Origin(self._name, MAX_ASKS, NEIGHBOUR, attrs))
        return Start(self._candidates.random(rng), Origin(self._name, MAX_ASKS, DRAWN))

    def _attrs_of(self, asked: FrozenTrial, before: Mapping[str, Any]) -> dict[str, Any]:
        """What the sampler wrote about a trial, and about the study."""
        attrs = {key: value for key, value in asked.system_attrs.items() if not key.startswith(TRANSIENT)}
        now = self._mirror.study_attrs
        changed = {key: value for key, value in now.items() if key not in before or before[key] != value}
        return {**attrs, **({OF_STUDY: changed} if changed else {})}

    def _ask(self, number: int, attempt: int) -> FrozenTrial:
        """What the sampler proposes, as a trial of the mirror. Raises SamplerError."""
        with self._answering():
            if self._sampler is None or not self._is_kept:
                self._sampler = self._make(seed_of(self._seed, number, attempt))
            study = self._mirror.study(self._sampler)
            for ended, trial in self._ended.items():
                if trial is not None:
                    self._ended[ended] = None
                    with contextlib.suppress(RuntimeError):  # study.stop() is for Optuna's own loop
                        self._sampler.after_trial(study, trial, trial.state, trial.values)
            asked = study.ask(fixed_distributions=dict(self._distributions))
            return self._mirror.get_trial(asked.number)

    def _neighbour(self, values: Values, rng: np.random.Generator) -> dict[str, Any] | None:
        """The first launchable configuration around `values`, with growing steps; None if there is none."""
        for size in STEP_SIZES:
            for _ in range(NUM_NEIGHBOURS):
                found = self._candidates.around(values, size, rng)
                if found is not None and self._candidates.may_launch(found):
                    return found
        return None

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Turns whatever a sampler raises into one line that names its place."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of options that Optuna calls experimental or will rename
            try:
                yield
            except Exception as error:
                raise SamplerError(f"the sampler {self._name} failed at {place_of(error)}") from error


def place_of(error: BaseException) -> str:
    """`file:line: ValueError: why`, for the innermost line that is not Optuna's; else the innermost line."""
    frames = traceback.extract_tb(error.__traceback__)
    library = str(optuna.__path__[0])
    theirs = [f for f in frames if not f.filename.startswith(library) and f.filename != __file__]
    theirs = [f for f in theirs if "site-packages" not in f.filename] or frames
    why = " ".join(str(error).split())[:300]
    return f"{theirs[-1].filename}:{theirs[-1].lineno}: {type(error).__name__}: {why}"


def seed_of(seed: int, number: int, attempt: int) -> int:
    """The seed of a sampler for a question, below 2**31."""
    return int(np.random.SeedSequence([seed, number, attempt]).generate_state(1)[0] >> 1)
