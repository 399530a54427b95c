"""From a Space to Optuna distributions and back: TPE that proposes only what may be launched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from search.drawing import random_values
from search.expression import ExpressionError
from search.parameter import Parameter, Values
from search.space import Space, extremes

NUM_STARTUP_TRIALS = 10  # ended trials before TPE has something to learn from (Optuna's own default)
MAX_MODEL_DRAWS = 32  # infeasible draws from TPE before one from the feasible part at random
MAX_RANDOM_DRAWS = 20_000


class NothingFeasible(RuntimeError):
    """No configuration that may be launched was found; the message says what stood against most of them."""


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """An Optuna distribution for each searched parameter; bounds that are expressions get their widest range.

    Optuna and its dashboard see the true value; a draw outside the bounds of the moment is rejected as infeasible.
    """
    return {name: _distribution(space, parameter) for name, parameter in space.searched.items()}


class FeasibleSampler(optuna.samplers.BaseSampler):
    """TPE over the whole space at once, drawn again until `reasons_against` has nothing against the configuration.

    Every trial has a generator of its own, derived from the seed and the trial's number, so that a study that was
    interrupted proposes what it would have proposed anyway. `forced` makes the next trial a given configuration.
    """

    def __init__(self, space: Space, reasons_against: Callable[[Values], list[str]], seed: int):
        self._space = space
        self._against = reasons_against
        self._seed = seed
        self._distributions = distributions(space)
        self.forced: Values | None = None
        self.rejections: Counter[str] = Counter()

    def infer_relative_search_space(self, study: optuna.Study, trial: Any) -> dict[str, BaseDistribution]:
        return {name: d for name, d in self._distributions.items() if not d.single()}

    def sample_relative(
        self, study: optuna.Study, trial: Any, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self.forced is not None:
            return {name: value for name, value in self.forced.items() if name in search_space}
        seeds = np.random.SeedSequence([self._seed, trial.number])
        if values := self._draw_from_model(study, trial, search_space, seeds):
            return values
        return self._draw_at_random(np.random.default_rng(seeds), search_space)

    def sample_independent(
        self, study: optuna.Study, trial: Any, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        parameter = self._space.parameters[param_name]
        if self.forced is not None and param_name in self.forced:
            return self.forced[param_name]
        return parameter.default_for(self._space.complete({}))

    def _draw_from_model(
        self, study: Any, trial: Any, search_space: dict, seeds: np.random.SeedSequence
    ) -> dict[str, Any]:
        tpe = optuna.samplers.TPESampler(
            seed=int(seeds.generate_state(1)[0]),
            n_startup_trials=NUM_STARTUP_TRIALS,
            multivariate=True,
            constant_liar=True,
        )
        for _ in range(MAX_MODEL_DRAWS):
            drawn = tpe.sample_relative(study, trial, search_space)
            if not drawn:
                return {}
            against = self._reasons_against(drawn)
            if not against:
                return drawn
            self.rejections.update(against)
        return {}

    def _draw_at_random(self, rng: np.random.Generator, search_space: dict) -> dict[str, Any]:
        against: list[str] = []
        for _ in range(MAX_RANDOM_DRAWS):
            try:
                values = random_values(self._space, rng)
            except ExpressionError as error:
                against = [str(error)]
            else:
                against = self._against(values)
                if not against:
                    return {name: value for name, value in values.items() if name in search_space}
            self.rejections.update(against)
        raise NothingFeasible(
            f"no configuration that may be launched in {MAX_RANDOM_DRAWS:,} draws; the last broke: {'; '.join(against)}"
        )

    def _reasons_against(self, drawn: dict[str, Any]) -> list[str]:
        try:
            return self._against(self._space.complete(drawn))
        except ExpressionError as error:
            return [str(error)]


def _distribution(space: Space, parameter: Parameter) -> BaseDistribution:
    if not parameter.is_range:
        return CategoricalDistribution(parameter.choices)
    low, high = extremes(space, parameter)
    high = parameter.on_grid(low, high)
    if parameter.type is int:
        return IntDistribution(int(low), int(high), log=parameter.log, step=int(parameter.step or 1))
    return FloatDistribution(low, high, log=parameter.log, step=parameter.step)
