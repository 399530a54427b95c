"""The policies there are, by name. What a policy needs (Optuna, Ray, the controller) is imported when it first runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from benchmarks.search.policy import Policy

TINYSEARCH = "tinysearch"


@dataclass(frozen=True)
class Entrant:
    """A policy's class, how many times the budget it may spend, and what a guide gives it."""

    place: str  # module:class
    handicap: float = 1.0
    guide: float | None = None  # the place of the recommended configuration, 0 the table's best and 1 its worst

    @property
    def factory(self) -> Callable[..., Policy]:
        module, _, name = self.place.partition(":")
        return getattr(import_module(f"benchmarks.search.{module}"), name)


ENTRANTS = {
    "random": Entrant("peers:RandomSearch"),
    "random_x2": Entrant("peers:RandomSearch", handicap=2.0),
    "one_epoch_top_k": Entrant("peers:OneEpochTopK"),
    "random_asha": Entrant("peers:RandomAsha"),
    "tpe": Entrant("optuna_peers:OptunaTPE"),
    "tpe_hyperband": Entrant("optuna_peers:OptunaHyperband"),
    "ray_docs": Entrant("ray_peers:RayAsInItsDocs"),
    "ray_eta3": Entrant("ray_peers:RayEta3"),
    TINYSEARCH: Entrant("controller:Tinysearch"),
}

PARTS = {
    "expected_cost": Entrant("parts:ExpectedCost"),
    "without_expected_leader": Entrant("parts:WithoutExpectedLeader"),
    "without_fidelity": Entrant("parts:WithoutFidelity"),
    "without_model_of_new": Entrant("parts:WithoutModelOfNew"),
    "without_success": Entrant("parts:WithoutSuccess"),
    "right_guide": Entrant("controller:Tinysearch", guide=0.1),
    "wrong_guide": Entrant("controller:Tinysearch", guide=0.9),
}
"""The search controller without one of its parts each, and with a guide: not among all, but to be asked for by name."""
