"""Checks that need the whole space: whether the guide's defaults, goals and presets fit its own ranges and rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from search.space.document import Faults, Path_, given
from search.space.expression import Expression, ExpressionError, parse_expression
from search.space.narrowing import narrow
from search.space.parameter import Parameter, Value, Values, checked_value, given_value, kind_name, shown, typed
from search.space.space import Preset, Rule, Space, extremes, not_in
from search.space.spec import BudgetSpec
from search.space.synonyms import unknown_parameter
from trainer.checks import ConfigError, unknown_name
from trainer.config import parameter_types
from trainer.estimate import built_params, estimate, num_params
from trainer.families.registry import family_of


def check_defaults(space: Space, faults: Faults) -> None:
    """The defaults are the guide's own configuration: they must be in the ranges, satisfy the rules, and build."""
    values = _defaults(space, faults)
    if values is None:
        return
    for name, wrong in space.outside(values).items():
        faults.add(wrong, "parameters", name, "default")
    for rule in space.broken_rules(values):
        faults.add(f"the defaults break it: {_broken(rule, values)}", *rule.path)
    if not faults.within():
        _check_trainable(space, values, faults, "parameters")
    for name, parameter in space.searched.items():
        if parameter.type is str and name in values and not faults.within():
            for i, choice in enumerate(parameter.choices):
                _check_choice(space, {**values, name: choice}, faults, "parameters", name, "values", i)


def check_build(space: Space, faults: Faults) -> None:
    """The model of the user's own family builds with the defaults, and has as many parameters as its formula says."""
    if space.family_source is None:
        return
    config = space.train_config(space.complete({}), rungs=(1,))
    try:
        built, said = built_params(family_of(space.family), config.model), num_params(config)
        estimate(config)
    except ConfigError as error:
        faults.add(str(error), "family")
        return
    if built != said:
        faults.add(f"cost.num_params says {said:,} for the defaults, but the model has {built:,} parameters", "family")


def _defaults(space: Space, faults: Faults) -> Values | None:
    """The configuration of the defaults; None, with a fault at the parameter, if one has no value."""
    values: dict[str, Value] = {}
    for name, parameter in space.parameters.items():
        key = "when"
        try:
            if parameter.is_active(values):
                key = "derive" if parameter.derived is not None else "default"
                derived = parameter.derived
                values[name] = parameter.computed(derived, values) if derived else parameter.default_for(values)
        except ExpressionError as error:
            faults.add(f"has no value with the defaults: {error}", "parameters", name, key)
            return None
    return values


def check_ranges(space: Space, faults: Faults) -> None:
    """Bounds that are expressions must be bounded themselves: Optuna gets one fixed range for each parameter."""
    for name, parameter in space.parameters.items():
        for key, part in (("min", parameter.low), ("max", parameter.high)):
            if isinstance(part, Expression) and not faults.within("parameters", name):
                try:
                    extremes(space, parameter)
                except ExpressionError as error:
                    remedy = "; write max(1, ...)" if parameter.log else ""
                    faults.add(f"in some configurations {error}{remedy}", "parameters", name, key)


def check_budgets(space: Space, faults: Faults) -> None:
    """A budget sets only parameters of the space, to valid values."""
    budgets: dict[Path_, BudgetSpec] = {("budget",): space.spec.budget}
    budgets |= {("budgets", name): budget for name, budget in space.spec.budgets.items()}
    for path, budget in budgets.items():
        for name, value in budget.set.items():
            at, parameter = (*path, "set", name), space.parameters.get(name)
            if parameter is None:
                faults.add(unknown_parameter(name, space.parameters), *at)
            elif (checked := checked_value(value, parameter.type)) is None:
                faults.add(f"expected {kind_name(parameter.type)}, got {given(value)}", *at)
            elif parameter.is_searched and (wrong := not_in(space, parameter, checked)):
                faults.add(wrong, *at)


def check_goals(space: Space, faults: Faults) -> None:
    """Each goal moves only searched parameters, and leaves some values of them."""
    for name, goal in space.spec.goals.items():
        for key, names in (("raise", goal.raises), ("lower", goal.lowers), ("set", list(goal.set))):
            for i, moved in enumerate(names):
                path = ("goals", name, key, moved if key == "set" else i)
                parameter = space.parameters[moved]
                if not parameter.is_searched:
                    faults.add(f"{moved} is not searched, so a goal cannot move it", *path)
                elif key != "set" and parameter.type not in (int, float):
                    faults.add(f"{moved} is {kind_name(parameter.type)}, not a number; use set", *path)
                elif key == "set":
                    _check_target(space, parameter, goal.set[moved], faults, path)
        if not faults.within("goals", name):
            try:
                narrow(space, goals=[name])
            except ValueError as error:
                faults.add(str(error).removeprefix(f"goal {name}: "), "goals", name)


def _check_target(
    space: Space, parameter: Parameter, target: Value, faults: Faults, path: tuple[str | int, ...]
) -> None:
    if isinstance(target, str) and parameter.type is not str:
        try:
            names = parse_expression(target).names
        except ExpressionError as error:
            faults.add(str(error), *path)
            return
        for name in sorted(names - space.parameters.keys()):
            faults.add(f"{target}: {unknown_parameter(name, space.parameters)}", *path)
    elif checked_value(target, parameter.type) is None:
        faults.add(f"expected {kind_name(parameter.type)}, got {given(target)}", *path)


def checked_presets(space: Space, faults: Faults) -> Iterable[tuple[str, Preset]]:
    """The presets. Each, completed with defaults, must be a configuration of the space that can be trained."""
    for name, entry in space.spec.presets.items():
        written: dict[str, str] = {}  # the parameter's name, and the name that the preset uses for it
        for key, value in entry.values.items():
            parameter = space.aliases.get(key, key)
            if parameter not in space.parameters:
                faults.add(unknown_parameter(key, space.parameters), "presets", name, key)
            elif checked_value(value, space.parameters[parameter].type) is None:
                kind = kind_name(space.parameters[parameter].type)
                faults.add(f"expected {kind}, got {given(value)}", "presets", name, key)
            elif written.setdefault(parameter, key) != key:
                faults.add(f"{key} and {written[parameter]} are one parameter; give one", "presets", name, key)
        if faults.within("presets", name):
            continue
        chosen = {parameter: entry.values[key] for parameter, key in written.items()}
        try:
            values = space.complete(chosen)
        except ExpressionError as error:
            faults.add(f"has no value: {error}", "presets", name)
            continue
        _check_preset(space, name, chosen, values, written, faults)
        if not faults.within("presets", name):
            typed_values = {key: typed(value, space.parameters[key].type) for key, value in chosen.items()}
            yield name, Preset(name=name, values=typed_values, why=entry.why, source=entry.source)


def _check_preset(
    space: Space, name: str, chosen: Values, values: Values, written: Mapping[str, str], faults: Faults
) -> None:
    for key, value in chosen.items():
        parameter, at = space.parameters[key], ("presets", name, written[key])
        if key not in values:
            faults.add(f"does not belong here: {parameter.when} does not hold", *at)
        elif parameter.derived is not None and value != values[key]:
            faults.add(f"{given_value(value)}, but {parameter.derived} gives {given_value(values[key])}", *at)
    for key, wrong in space.outside(values).items():
        # a default that does not fit the preset's other values has no line of its own
        if key in chosen:
            faults.add(wrong, "presets", name, written[key])
        else:
            faults.add(f"{key}: {wrong}", "presets", name)
    for rule in space.broken_rules(values):
        faults.add(f"breaks the rule {_broken(rule, values)}", "presets", name)
    if not faults.within("presets", name):
        _check_trainable(space, values, faults, "presets", name)


def check_claims(space: Space, faults: Faults) -> None:
    """Each claim has a number, and configurations that can be trained; they may be outside the ranges."""
    ids: set[str] = set()
    for i, claim in enumerate(space.spec.claims):
        if claim.id in ids:
            faults.add(f"{claim.id} is an earlier claim's id", "claims", i, "id")
        ids.add(claim.id)
        if (claim.value is None) == (claim.min is None and claim.max is None):
            faults.add("needs value, or min or max", "claims", i)
        if claim.preset and claim.preset not in space.spec.presets:
            faults.add(unknown_name("preset", claim.preset[:60], space.spec.presets), "claims", i, "preset")
            continue
        for key, changes in (("set", claim.set), ("against", claim.against)):
            if changes or key == "set":
                _check_claimed(space, claim.preset, changes, faults, "claims", i, *([key] if changes else []))


def _check_claimed(space: Space, preset: str, changes: Values, faults: Faults, *path: str | int) -> None:
    """A claim's configuration; `changes` may also set fields of the run that are not in the space (precision)."""
    if preset and preset not in space.presets:
        return  # its own faults are reported already
    known = {**dict.fromkeys(parameter_types(space.family), ""), **space.aliases}
    if unknown := [name for name in changes if name not in known]:
        faults.add(unknown_parameter(unknown[0], known), *path, unknown[0])
        return
    given_by_preset = space.spec.presets[preset].values if preset else {}
    chosen = {space.aliases.get(name, name): value for name, value in {**given_by_preset, **changes}.items()}
    try:
        values = space.complete({name: value for name, value in chosen.items() if name in space.parameters})
        space.train_config({**values, **chosen}, rungs=(1,))
    except (ConfigError, ExpressionError) as error:
        faults.add(f"cannot be trained: {error}", *path)


def _check_trainable(space: Space, values: Values, faults: Faults, *path: str) -> None:
    try:
        space.train_config(values, rungs=(1,))
    except ConfigError as error:
        subject = "the defaults cannot" if path == ("parameters",) else "cannot"
        faults.add(f"{subject} be trained: {error}", *path)


def _check_choice(space: Space, values: Values, faults: Faults, *path: str | int) -> None:
    """Some text fields accept only words that the trainer knows; no rule would find a wrong one."""
    try:
        space.train_config(values, rungs=(1,))
    except ConfigError as error:
        faults.add(str(error), *path)


def _broken(rule: Rule, values: Values) -> str:
    return f"{rule}; here {', '.join(f'{name} is {shown(values[name])}' for name in sorted(rule.require.names))}"
