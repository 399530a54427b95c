"""The facts of the guides (guides/*.yaml here) compared with the spaces that encode them: nothing is lost or changed.

A fact that a space deliberately has otherwise is listed in its guide file, under `deviations`, with the reason.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pytest
import yaml

from search.space.advice import advise
from search.space.drawing import random_values
from search.space.expression import parse_expression
from search.space.loading import load_space
from search.space.narrowing import narrow
from search.space.parameter import Parameter, Value
from search.space.space import Space, extremes, not_in
from search.strategy.feasibility import Feasibility
from tests.support.paths import ROOT

GUIDES = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in (ROOT / "tests/space/guides").glob("*.yaml")
}
SPACES = {name: load_space(ROOT / "spaces" / f"{name}.yaml") for name in sorted(GUIDES)}
NUM_DRAWS = 300

Difference = tuple[str, str]  # its place, as deviations name it, and what it is


def differences(guide: dict[str, Any], space: Space) -> Iterator[Difference]:
    """Every fact of the guide that the space lacks or has otherwise."""
    for name, fact in guide["parameters"].items():
        yield from parameter_differences(space, name, fact)
    accepted = accepted_values(space)
    for fact in guide["rules"]:
        rule = parse_expression(fact["rule"])
        if any(rule.names <= values.keys() and not rule.evaluate(values) for values in accepted):
            yield f"rules.{rule}", f"section {fact['section']}: a configuration that may be launched breaks it"
        elif not rule.names <= space.parameters.keys():
            yield f"rules.{rule}", f"section {fact['section']}: reads what the space does not have"
    for fact in guide["advice"]:
        yield from advice_differences(space, fact)
    for fact in guide["goals"]:
        yield from goal_differences(space, fact)
    for name, fact in guide["configurations"].items():
        yield from configuration_differences(space, name, fact)


def parameter_differences(space: Space, name: str, fact: dict[str, Any]) -> Iterator[Difference]:
    place, section = f"parameters.{name}", f"section {fact['section']}"
    if fact.get("not_searched"):
        if not space.spec.not_searched.get(name):
            yield place, f"{section}: is not under not_searched"
        return
    parameter = space.parameters.get(name)
    if parameter is None:
        yield place, f"{section}: is missing"
        return
    documented_name = fact.get("of", name)
    if space.aliases.get(documented_name, documented_name) != name and documented_name not in parameter.spec.why:
        yield f"{place}.name", f"{section}: the guide's name {documented_name} leads nowhere"
    for value in fact.get("values", []):
        if not may_be(space, parameter, value):
            yield f"{place}.values.{value}", f"{section}: cannot be {value}"
    values = space.complete(fact.get("where", {}))
    if "default" in fact and not same(values[name], fact["default"]):
        yield f"{place}.default", f"{section}: {fact['default']} in the guide, {values[name]} here"
    stated, encoded = fact.get("effects", {}), parameter.spec.effect
    for effect in sorted(stated.keys() | encoded.keys()):
        if stated.get(effect) != encoded.get(effect):
            yield (
                f"{place}.effects.{effect}",
                f"{section}: {stated.get(effect)} in the guide, {encoded.get(effect)} here",
            )


def advice_differences(space: Space, fact: dict[str, Any]) -> Iterator[Difference]:
    place = f"advice.{'.'.join(f'{name}={value}' for name, value in fact['where'].items())}"
    found = advise(space, fact["where"])
    if "preset" in fact and fact["preset"] not in [advice.preset for advice in found]:
        yield f"{place}.{fact['preset']}", f"section {fact['section']}: {fact['preset']} is not recommended"
    for name, value in fact.get("suggest", {}).items():
        if not any(same(advice.suggest.get(name), value) for advice in found):
            yield f"{place}.{name}", f"section {fact['section']}: {value} is not suggested"


def goal_differences(space: Space, fact: dict[str, Any]) -> Iterator[Difference]:
    if budget := fact.get("budget"):  # what a goal cannot move, since it belongs to no configuration
        if budget not in space.spec.budgets:
            yield f"budgets.{budget}", f"section {fact['section']}, {fact['row']}: is missing"
        return
    place, section = f"goals.{fact['goal']}", f"section {fact['section']}, {fact['row']}"
    goal = space.spec.goals.get(fact["goal"])
    if goal is None:
        yield place, f"{section}: is missing"
        return
    for key, moved in (("raise", goal.raises), ("lower", goal.lowers)):
        for name in sorted(set(fact.get(key, [])) ^ set(moved)):
            yield f"{place}.{key}.{name}", f"{section}: only {'here' if name in moved else 'in the guide'}"
    if fact.get("set", {}) != goal.set:
        yield f"{place}.set", f"{section}: {fact.get('set')} in the guide, {goal.set} here"


def configuration_differences(space: Space, name: str, fact: dict[str, Any]) -> Iterator[Difference]:
    place, section = f"configurations.{name}", f"section {fact['section']}"
    preset = space.presets.get(fact.get("preset", name))
    if preset is None:
        yield place, f"{section}: is missing"
        return
    values = space.complete(preset.values)
    space.train_config(values, rungs=(1,))
    for key, value in fact["values"].items():
        if not same(values.get(key), value):
            yield f"{place}.{key}", f"{section}: {value} in the guide, {values.get(key)} here"


def may_be(space: Space, parameter: Parameter, value: Value) -> bool:
    """Whether the parameter has this value in some configuration."""
    if parameter.derived is not None:
        low, high = extremes(space, parameter)
        return low <= value <= high
    return not_in(space, parameter, value) is None


def same(one: Any, other: Any) -> bool:
    numbers = all(isinstance(value, (int, float)) for value in (one, other))
    return math.isclose(one, other, rel_tol=1e-6) if numbers else one == other


def accepted_values(space: Space) -> list[dict[str, Value]]:
    """Random configurations that no rule and no range forbids."""
    rng = np.random.default_rng(0)
    draws = [random_values(space, rng) for _ in range(NUM_DRAWS)]
    return [values for values in draws if not space.faults_of(values)]


@pytest.mark.parametrize("name", SPACES)
def test_every_fact_of_a_guide_is_in_its_space_or_a_listed_deviation(name: str):
    guide = GUIDES[name]
    found = dict(differences(guide, SPACES[name]))
    listed = guide["deviations"]
    unlisted = {place: what for place, what in found.items() if not any(fnmatchcase(place, p) for p in listed)}
    assert not unlisted, "\n".join(f"{place}: {what}" for place, what in unlisted.items())
    stale = [pattern for pattern in listed if not any(fnmatchcase(place, pattern) for place in found)]
    assert not stale, "no longer deviations"


@pytest.mark.parametrize("name", SPACES)
def test_every_parameter_goal_and_configuration_of_a_space_is_a_fact_of_its_guide(name: str):
    """What a guide does not say is marked as such, so that nobody takes our choice for its advice."""
    guide, space = GUIDES[name], SPACES[name]
    ours = {n: p.spec.why.lower() for n, p in space.parameters.items() if n not in guide["parameters"]}
    marks = ("not in the guide", "published code", "gives no number")
    assert [n for n, why in ours.items() if not any(mark in why for mark in marks)] == []
    assert space.spec.not_searched.keys() <= guide["parameters"].keys()
    assert space.presets.keys() <= guide["configurations"].keys()
    assert space.spec.goals.keys() <= {fact.get("goal") for fact in guide["goals"]}


@pytest.mark.parametrize("name", SPACES)
def test_what_no_rule_forbids_can_be_trained(name: str):
    accepted = accepted_values(SPACES[name])
    assert len(accepted) > NUM_DRAWS / 5
    for values in accepted:
        SPACES[name].train_config(values, rungs=(1,))


@pytest.mark.parametrize("name", SPACES)
def test_the_reference_of_every_guide_fits_the_quick_budget(name: str):
    quick = SPACES[name].budget("quick")
    space = narrow(SPACES[name], budget=quick)
    values = space.complete(space.reference.values)
    assert quick.trials >= 12 and quick.min_steps >= 20, "with fewer steps a trial says little"
    assert Feasibility.of(space, quick).reasons_against(values) == []


@pytest.mark.parametrize("name", SPACES)
def test_every_rule_names_the_section_of_the_guide_and_is_shown_with_it(name: str):
    space = SPACES[name]
    entries = space.spec.rules
    assert [entry.require for entry in entries if not entry.source] == [], "these rules name no section"
    for entry, rule in zip(entries, space.rules, strict=True):
        assert str(rule) == f"{entry.require} ({space.spec.cited(entry.source)}: {entry.why})"


@pytest.mark.parametrize("name", SPACES)
def test_every_part_of_a_space_says_where_it_comes_from(name: str):
    spec = SPACES[name].spec
    sourced = {
        **{f"parameters.{n}": (p.source, p.why) for n, p in spec.parameters.items()},
        **{f"rules.{r.require}": (r.source, r.why) for r in spec.rules},
        **{f"goals.{n}": (g.source, g.why) for n, g in spec.goals.items()},
        **{f"presets.{n}": (p.source, p.why) for n, p in spec.presets.items()},
        **{f"advice.{a.when}": (a.source, a.say) for a in spec.advice},
        **{f"claims.{c.id}": (c.source, c.why) for c in spec.claims},
    }
    missing = [
        place for place, (source, why) in sourced.items() if not source and "not in the guide" not in why.lower()
    ]
    assert missing == []


CHANGES = {
    "parameters.n_embd.default": ("parameters", "n_embd", "default", 384),
    "parameters.n_embd.values.99": ("parameters", "n_embd", "values", [99]),
    "parameters.n_embd.effects.loss": ("parameters", "n_embd", "effects", "loss", "up"),
    "parameters.LOG_EVERY": ("parameters", "LOG_EVERY", {"section": "x", "not_searched": True}),
    "parameters.n_experts": ("parameters", "n_experts", {"section": "x"}),
    "rules.n_head == 4": ("rules", 0, {"rule": "n_head == 4", "section": "x"}),
    "advice.vram_gib=8.high-performance": (
        "advice", 0, {"where": {"vram_gib": 8}, "preset": "high-performance", "section": "x"}
    ),
    "advice.n_embd=512.learning_rate": (
        "advice", 0, {"where": {"n_embd": 512}, "suggest": {"learning_rate": 1e-3}, "section": "x"}
    ),
    "goals.tiny": ("goals", 0, {"row": "x", "goal": "tiny", "section": "x"}),
    "goals.longer-context.lower.n_embd": (
        "goals", 0, {"row": "x", "goal": "longer-context", "raise": ["seq_len"], "lower": ["n_embd"], "section": "x"}
    ),
    "budgets.endless": ("goals", 0, {"row": "x", "budget": "endless", "section": "x"}),
    "configurations.huge": ("configurations", "huge", {"section": "x", "values": {}}),
    "configurations.default.seq_len": ("configurations", "default", "values", "seq_len", 513),
}  # fmt: skip


@pytest.mark.parametrize("place", CHANGES)
def test_a_fact_that_is_missing_or_differs_is_found_at_its_path(place: str):
    guide = copy.deepcopy(GUIDES["bdh"])
    *path, last, value = CHANGES[place]
    part = guide
    for key in path:
        part = part[key]
    part[last] = value
    before = dict(differences(GUIDES["bdh"], SPACES["bdh"]))
    assert set(dict(differences(guide, SPACES["bdh"]))) - set(before) >= {place}
