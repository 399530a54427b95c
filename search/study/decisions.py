"""What the strategy has seen of a study's trials, and its choice of what to train next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from search.space.spec import MetricSpec
from search.strategy.choice import Choice, SeenTrial, State, Verdict
from search.strategy.curves import Curve
from search.strategy.pareto import favourable_scalarizations, random_scalarization
from search.strategy.samplers import Decider
from search.strategy.sampling import Candidates, NothingNew
from search.study.record import TrialRecord
from search.study.settings import Exhausted
from search.worker.messages import FAILED, FINISHED, PAUSED, RUNNING, STOPPED, WAITING, WASTED

_STATES = {
    FINISHED: State.FINISHED,
    FAILED: State.FAILED,
    **dict.fromkeys((PAUSED, STOPPED), State.PAUSED),
    **dict.fromkeys(WASTED, State.WASTED),
}


class Decisions:
    """Keeps the trials' learning curves, and the strategy's choice until something changes."""

    def __init__(
        self,
        strategy: Decider,
        candidates: Candidates,
        metrics: Sequence[MetricSpec],
        rungs: Sequence[int],
        *,
        seed: int,
        exhausted: Exhausted | None,
    ):
        self.exhausted = exhausted  # of new configurations, as of the last choice
        self.is_made = False  # until the study learns or starts something
        self._strategy, self._candidates = strategy, candidates
        self._metrics, self._rungs, self._seed = metrics, rungs, seed
        self._curves: dict[int, Curve] = {}
        self._vectors: dict[int, dict[int, tuple[float, ...]]] = {}  # with several metrics: the values of each curve
        self._choice: Choice = None

    @property
    def state(self) -> dict[str, Any]:
        """What the strategy has learned and cannot compute again."""
        return self._strategy.state

    def choose(self, *, can_start: bool) -> Choice:
        """What to train next; None if nothing is worth it. Raises NothingFeasible or SamplerError."""
        if not self.is_made:
            self._choice = self._decide(can_start)
            self.is_made = True
        return self._choice

    def learn(self, record: TrialRecord, *, may_continue: bool) -> None:
        """Pass a record's current state to the strategy. A trial that diverged or did not fit has failed at the last
        rung.

        `may_continue`: the trial finished before the study was extended, and may be trained further.
        """
        self.is_made = False
        curve = self._curves.get(record.number)
        if curve is None:
            curve = self._curves[record.number] = Curve(record.number, self._candidates.point(record.values))
        vectors = {self._rungs.index(tokens): record.signed(self._metrics, tokens) for tokens in record.measurements}
        if record.outcome in WASTED:
            vectors[len(self._rungs) - 1] = (math.nan,) * len(self._metrics)
        self._vectors[record.number] = vectors
        curve.values = {rung: values[0] for rung, values in vectors.items()}
        curve.is_running = record.outcome == RUNNING
        curve.is_paused = record.outcome == PAUSED or may_continue
        curve.is_waiting = record.outcome == WAITING
        self._strategy.learn(self._seen(record, may_continue))

    def forget(self, number: int) -> None:
        """Drop a trial that another trial continues."""
        self.is_made = False
        self._curves.pop(number, None)
        self._vectors.pop(number, None)
        self._strategy.forget(number)

    def judge(self, number: int) -> Verdict:
        """Whether a trial that has just reported at a rung trains on."""
        return self._strategy.judge(list(self._curves.values()), number)

    def why(self, number: int) -> str:
        """Why a trial does not train on; empty if the strategy has no words of its own."""
        return self._strategy.why(list(self._curves.values()), number)

    def _seen(self, record: TrialRecord, may_continue: bool) -> SeenTrial:
        """A record as a sampler sees it."""
        state = State.PAUSED if may_continue else _STATES.get(record.outcome, State.RUNNING)
        measured = {t: tuple(record.measured(m.name, t) for m in self._metrics) for t in record.measurements}
        whole = {t: tuple(map(float, v)) for t, v in measured.items() if None not in v}  # type: ignore[arg-type]  # none is None
        return SeenTrial(record.number, record.values, state, whole, record.sampler_attrs)

    def _decide(self, can_start: bool) -> Choice:
        """The strategy's choice; if nothing new may be launched, as if all trials had been started."""
        if can_start:
            try:
                choice = self._next(can_start=True)
            except NothingNew as found:
                self.exhausted = Exhausted(len(self._candidates.started), found.is_exact)
            else:
                self.exhausted = None
                return choice
        return self._next(can_start=False)

    def _next(self, *, can_start: bool) -> Choice:
        """With several metrics: by a random scalarization, and at the end by the first one that gives a choice."""
        curves = list(self._curves.values())
        if len(self._metrics) == 1:
            return self._strategy.next(curves, can_start=can_start)
        if can_start:
            return self._strategy.next(random_scalarization(curves, self._vectors, seed=self._seed), can_start=True)
        choices = (self._strategy.next(v, can_start=False) for v in favourable_scalarizations(curves, self._vectors))
        return next((choice for choice in choices if choice is not None), None)
