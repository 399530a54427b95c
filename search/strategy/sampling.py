"""Converts between a Space and points of the unit cube, Optuna distributions, and candidates for new trials."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from search.space.configurations import Identity, Listing, identity
from search.space.drawing import random_values
from search.space.expression import ExpressionError
from search.space.parameter import Parameter, Value, Values, typed
from search.space.space import Space, extremes

MAX_RANDOM_DRAWS = 20_000
MAX_KNOWN_DRAWS = 32  # launchable, but started before, until the space is listed
MAX_DRAWS_UNLISTED = 2000  # likewise, of any kind
POOL_SIZE = 256  # configurations drawn once, to look everywhere
NUM_NEAR = 20  # configurations near each leader
STEP_SIZES = (0.05, 0.12, 0.25)  # of a change, in units of an axis
CHANGE_SHARE = 0.6  # of the axes, at each change
UNKNOWN = 0.5  # position on its axis of a parameter that is not active


class NothingFeasible(RuntimeError):
    """No launchable configuration was found; the message says what most of them break."""


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """An Optuna distribution for each searched parameter; bounds that are expressions get their widest range.

    Optuna and its dashboard see the true values.
    """
    return {name: _distribution(space, parameter) for name, parameter in space.searched.items()}


class NothingNew(RuntimeError):
    """Every launchable configuration has been started.

    `is_exact`: the space was listed. Otherwise it is too large, and MAX_RANDOM_DRAWS gave nothing new.
    """

    def __init__(self, *, is_exact: bool):
        super().__init__("every configuration that may be launched has been started")
        self.is_exact = is_exact


class Candidates:
    """Configurations that might be trained next, none of them started before.

    Those that may not be launched are counted, by reason.
    """

    def __init__(self, space: Space, reasons_against: Callable[[Values], list[str]], seed: int):
        self._space = space
        self.reasons_against = self._against = reasons_against
        self.version = 0  # of the limits; other configurations may be launched after a change
        self._seed = seed
        self._axes = [axis for parameter in space.searched.values() for axis in _axes_of(space, parameter)]
        ranges = {p.name: p for p in space.searched.values() if p.is_range}
        self._ends = {n: tuple(_scale(p, end) for end in extremes(space, p)) for n, p in ranges.items()}  # of the axes
        self._bounds = {n: p.bounds({}) for n, p in ranges.items() if not p.reads}  # if they depend on nothing
        self._pool: list[dict[str, Value]] | None = None
        self._pool_points = np.zeros((0, self.num_dims))
        self.rejections: Counter[str] = Counter()
        self.started: set[Identity] = set()
        self.nothing_new: NothingNew | None = None  # once that is known
        self._listing: Listing | None = None

    @property
    def num_dims(self) -> int:
        return len(self._axes)

    def point(self, values: Values) -> np.ndarray:
        """A configuration in the unit cube, (num_dims,): log axes applied; the values of a list are levels."""
        return np.array([axis.position(values) for axis in self._axes], dtype=float)

    def start(self, values: Values) -> None:
        """This configuration is no longer new."""
        self.started.add(identity(values))

    def limits_changed(self) -> None:
        """The limits have changed, so other configurations may be launched."""
        self.nothing_new = self._listing = None
        self.version += 1

    def random(self, rng: np.random.Generator) -> dict[str, Value]:
        """A random new configuration that may be launched. Raises NothingFeasible or NothingNew.

        If draws give only configurations started before, or none, few may be left. Then the space is listed, if it is
        small enough. If it is not, and very many draws give nothing new, none is assumed to be left.
        """
        if self.nothing_new is not None:
            raise self.nothing_new
        against: list[str] = []
        num_known = 0
        for i in range(MAX_RANDOM_DRAWS):
            if (num_known >= MAX_KNOWN_DRAWS or i >= MAX_DRAWS_UNLISTED) and self._listed().is_whole:
                break
            try:
                values = random_values(self._space, rng)
            except ExpressionError as error:
                against = [str(error)]
            else:
                against = self._against(values)
                if not against and self._is_new(values):
                    return values
            self.rejections.update(against)
            num_known += not against
        if left := self._left():
            return left[rng.integers(len(left))]
        if not self.started:
            where = "of the space" if self._listed().is_whole else f"in {MAX_RANDOM_DRAWS:,} draws"
            raise NothingFeasible(
                f"no configuration {where} may be launched; the last that was drawn broke: {'; '.join(against)}"
            )
        self.nothing_new = NothingNew(is_exact=self._listed().is_whole)
        raise self.nothing_new

    def left(self, rng: np.random.Generator) -> list[dict[str, Value]]:
        """All new launchable configurations, or POOL_SIZE of them, if the space can be listed; else none."""
        left = self._left() if self._listed().is_whole else []
        return [left[i] for i in rng.permutation(len(left))[:POOL_SIZE]]

    def spread(self, leaders: np.ndarray, rng: np.random.Generator) -> tuple[list[dict[str, Value]], np.ndarray]:
        """Configurations from everywhere, then some near `leaders` (k, num_dims), with their points (n, num_dims).

        They may break a rule or a limit: ask `may_launch`.
        """
        if self._pool is None:
            self._fill_pool()
        assert self._pool is not None
        near = []
        for leader in leaders:
            for _ in range(NUM_NEAR):
                step = rng.choice(STEP_SIZES) * rng.normal(size=self.num_dims)
                changed = rng.random(self.num_dims) < CHANGE_SHARE
                if (values := self._at(np.clip(leader + step * changed, 0, 1))) is not None:
                    near.append(values)
        return [*self._pool, *near], np.vstack([self._pool_points, self._points(near)])

    def nearest(self, proposed: Values) -> dict[str, Value] | None:
        """What a sampler proposed, as a configuration: each parameter moved to the nearest value that it can have.

        Optuna's samplers know neither bounds that depend on other parameters nor conditions. None if an expression has
        no value there.
        """

        def value_for(parameter: Parameter, values: Values) -> Value:
            name = parameter.name
            if not parameter.is_range:
                value = proposed.get(name, parameter.choices[0])
                return value if value in parameter.choices else parameter.choices[0]
            value = proposed[name] if name in proposed else extremes(self._space, parameter)[0]
            return self._within(parameter, float(value), values)

        try:
            return self._space.filled(value_for)
        except ExpressionError:
            return None

    def around(self, values: Values, size: float, rng: np.random.Generator) -> dict[str, Value] | None:
        """A configuration near `values`, with a random step of this size (in units of an axis); None if there is none
        there.
        """
        step = size * rng.normal(size=self.num_dims)
        return self._at(np.clip(self.point(values) + step, 0, 1))

    def may_launch(self, values: Values) -> bool:
        """Whether a configuration is new and may be launched; reasons against it are counted in `rejections`."""
        against = self._against(values)
        if against or not self._is_new(values):
            self.rejections.update(against)
            kept = [i for i, pooled in enumerate(self._pool or ()) if pooled is not values]
            if self._pool is not None and len(kept) < len(self._pool):  # do not check it again
                self._pool, self._pool_points = [self._pool[i] for i in kept], self._pool_points[kept]
            return False
        return True

    def _is_new(self, values: Values) -> bool:
        return identity(values) not in self.started

    def _listed(self) -> Listing:
        """The launchable configurations, listed once for the current corrected limits."""
        if self._listing is None:
            self._listing = Listing.of(self._space, self._against)
        return self._listing

    def _left(self) -> list[dict[str, Value]]:
        return [dict(values) for values in self._listed().configurations if self._is_new(values)]

    def _fill_pool(self) -> None:
        rng = np.random.default_rng([self._seed, POOL_SIZE])
        self._pool = []
        for _ in range(POOL_SIZE):
            try:
                self._pool.append(random_values(self._space, rng))
            except ExpressionError as error:
                self.rejections.update([str(error)])
        self._pool_points = self._points(self._pool)

    def _points(self, found: list[dict[str, Value]]) -> np.ndarray:
        """The points of configurations, (n, num_dims), even if nothing is searched."""
        return np.array([self.point(values) for values in found], dtype=float).reshape(len(found), self.num_dims)

    def _at(self, point: np.ndarray) -> dict[str, Value] | None:
        """The configuration at a point, each parameter within bounds that the others set; None if there is none."""
        where: dict[str, list[float]] = {}
        for axis, position in zip(self._axes, point, strict=True):
            where.setdefault(axis.parameter.name, []).append(float(position))

        def value_at(parameter: Parameter, values: Values) -> Value:
            if parameter.name not in where:  # one value alone
                if parameter.is_range:
                    return self._within(parameter, extremes(self._space, parameter)[0], values)
                return parameter.choices[0]
            return self._value_at(parameter, where[parameter.name], values)

        try:
            return self._space.filled(value_at)
        except ExpressionError:
            return None

    def _value_at(self, parameter: Parameter, where: list[float], values: Values) -> Value:
        if not parameter.is_range:
            if not _is_ordered(parameter):
                return parameter.choices[int(np.argmax(where))]
            return _levels(parameter)[round(where[0] * (len(parameter.choices) - 1))]
        start, end = self._ends[parameter.name]
        value = start + where[0] * (end - start)
        return self._within(parameter, math.exp(value) if parameter.log else value, values)

    def _within(self, parameter: Parameter, value: float, values: Values) -> Value:
        """The nearest value to `value` that a range has, given the parameters before it."""
        low, high = self._bounds.get(parameter.name) or parameter.bounds(values)
        if parameter.step and high >= low:
            value = parameter.nth(low, round((value - low) / parameter.step))
            high = parameter.on_grid(low, high)
        if parameter.type is int:
            value = round(value)
        return typed(max(low, min(high, value)), parameter.type)


class _Axis:
    """One dimension of the cube: a number's position in its range, its level, or whether it equals one word."""

    def __init__(self, parameter: Parameter, low: float, high: float, word: Value | None = None):
        self.parameter = parameter
        self._low, self._width, self._word = low, max(high - low, 1e-12), word

    def position(self, values: Values) -> float:
        name = self.parameter.name
        if name not in values:
            return UNKNOWN if self._word is None else 0.0
        if self._word is not None:
            return float(values[name] == self._word)
        return (_scale(self.parameter, values[name]) - self._low) / self._width


def _axes_of(space: Space, parameter: Parameter) -> list[_Axis]:
    if parameter.is_range:
        low, high = (_scale(parameter, end) for end in extremes(space, parameter))
        return [_Axis(parameter, low, high)] if high > low else []
    if _is_ordered(parameter):
        return [_Axis(parameter, 0, len(parameter.choices) - 1)]
    return [_Axis(parameter, 0, 1, word=choice) for choice in parameter.choices]


def _is_ordered(parameter: Parameter) -> bool:
    return all(isinstance(choice, (int, float)) for choice in parameter.choices)


def _levels(parameter: Parameter) -> list[Any]:
    return sorted(parameter.choices)


def _scale(parameter: Parameter, value: Any) -> float:
    """A value along its axis: the logarithm on a log axis, the level for a list."""
    if not parameter.is_range:
        return float(_levels(parameter).index(value))
    return math.log(value) if parameter.log else float(value)


def _distribution(space: Space, parameter: Parameter) -> BaseDistribution:
    if not parameter.is_range:
        return CategoricalDistribution(parameter.choices)
    low, high = extremes(space, parameter)
    high = parameter.on_grid(low, high)
    if parameter.type is int:
        return IntDistribution(int(low), int(high), log=parameter.log, step=int(parameter.step or 1))
    return FloatDistribution(low, high, log=parameter.log, step=parameter.step)
