"""What identifies a study: stored with it, and compared when it is opened again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
from pydantic import ValidationError

from search.space.loading import parse_space
from search.space.narrowing import narrow
from search.space.parameter import checked_value, shown
from search.space.space import Preset, Space, rungs_of
from search.space.spec import CURVES, BudgetSpec, Named
from search.storage.folder import FORMAT_VERSION, Direction, StudyError
from trainer.config import TrainConfig
from trainer.families.own import FamilyError
from trainer.families.registry import reopen
from trainer.text.units import TextUnits

TRIALS = "trials"  # the study attribute with the number of trials that was asked for last
SETTLED = "settled"  # the last rung up to which an extended study has decided on every trial
EXHAUSTED = "exhausted"  # says that no configuration is left to start, see `Exhausted`

ATTRIBUTES: dict[str, tuple[type, str]] = {
    "space": (str, "the text of a space"),
    "space_source": (str, "the name of a file"),
    "goals": (list, "a list"),
    "assignments": (list, "a list"),
    "metrics": (list, "a list"),
    "budget": (dict, "a mapping"),
    "budget_name": (str, "text"),
    "seed": (int, "a whole number"),
    "run": (dict, "a mapping"),
    "corpus": (dict, "a mapping"),
    "earlier_ends": (list, "a list"),
    "reference": (dict, "a mapping"),
    "family": (dict, "a mapping"),
    "search": (dict, "a mapping"),
}
"""The attributes of a study, as `to_attrs` names them. OPTIONAL ones are empty if they are missing."""
OPTIONAL = ("metrics", "earlier_ends", "reference", "family", "search")


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """Everything that a trial's result depends on besides its values: the narrowed space, the budget, the seed, the
    text.

    Also the location of the checkpoints.
    """

    space: Space
    budget: BudgetSpec
    budget_name: str = ""
    seed: int = 0
    goals: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()
    run: dict[str, Any] = field(default_factory=dict)  # fields of TrainConfig, the same for every trial
    corpus: dict[str, Any] = field(default_factory=dict)  # the text: paths, digest, about
    earlier_ends: tuple[int, ...] = ()  # the last rungs before the study was extended to more tokens
    sampler: Named = CURVES  # who proposes configurations
    stopping: Named = CURVES  # who stops trials early
    sampler_digest: str = ""  # of the file of the user's own sampler
    storage_path: str = ""  # the URL below which its checkpoints and its text are; empty for its own folder
    storage_id: str = ""  # identifies the study's objects at that URL

    @property
    def rungs(self) -> tuple[int, ...]:
        """The token counts at which trials are compared: the budget's, and former last rungs of an extended study."""
        return tuple(sorted({*rungs_of(self.budget), *self.earlier_ends}))

    @property
    def units(self) -> TextUnits | None:
        """Gives trials with different vocabularies the same text; None if there is one vocabulary."""
        return TextUnits.of(self.corpus)

    def train_config(self, values: dict[str, Any], *, num_threads: int | None = None) -> TrainConfig:
        """The trainer's configuration for these values. Raises ConfigError."""
        return self.space.train_config(
            values,
            rungs=self.own_rungs(values),
            data=tuple(self.corpus["paths"]),
            seed=self.seed,
            num_threads=num_threads,
            **self.run,
        )

    def own_rungs(self, values: Mapping[str, Any]) -> tuple[int, ...]:
        """The rungs in a trial's own tokens, which hold as much text as the study's."""
        return self.rungs if self.units is None else self.units.own_rungs(self.rungs, values["vocab_size"])

    def extended(self, max_tokens: int) -> StudySettings:
        """The same study with a later last rung; its current last rung remains a rung."""
        assert max_tokens > self.budget.max_tokens, (max_tokens, self.budget.max_tokens)
        budget = self.budget.model_copy(update={"max_tokens": max_tokens})
        return replace(self, budget=budget, earlier_ends=(*self.earlier_ends, self.budget.max_tokens))

    @property
    def directions(self) -> list[Direction]:
        """Of the metrics, as Optuna takes them."""
        return [metric.goal for metric in self.space.spec.objectives]

    def to_attrs(self) -> dict[str, Any]:
        return {
            "space": self.space.document.text,
            "space_source": self.space.document.source,
            "goals": list(self.goals),
            "assignments": list(self.assignments),
            "metrics": [metric.name for metric in self.space.spec.objectives],
            "reference": _reference_of(self.space),
            "family": _kept_family(self.space),
            "budget_name": self.budget_name,
            **self.extent(),
            "seed": self.seed,
            "run": self.run,
            "search": self._kept_search(),
            "corpus": self.corpus,
            "storage_path": self.storage_path,
            "storage_id": self.storage_id,
            "format_version": FORMAT_VERSION,  # written last: a study that has it is complete
        }

    def _kept_search(self) -> dict[str, Any]:
        """What a study stores about its sampler and its stopping; nothing if a model of curves decides on both."""
        if self.sampler == self.stopping == CURVES:
            return {}
        parts = {"sampler": self.sampler, "stopping": self.stopping}
        kept: dict[str, Any] = {name: {"name": p.name, "options": dict(p.options)} for name, p in parts.items()}
        return {**kept, **({"digest": self.sampler_digest} if self.sampler_digest else {})}

    def extent(self) -> dict[str, Any]:
        """The attributes that change when the study is extended, in the order in which to write them."""
        return {"earlier_ends": list(self.earlier_ends), "budget": self.budget.model_dump()}

    @classmethod
    def of(cls, study: optuna.Study) -> StudySettings:
        """The settings that a study was created with. Raises StudyError, naming the attribute, if they are damaged."""
        attrs = study.user_attrs
        for name, (kind, expected) in ATTRIBUTES.items():
            if not isinstance(attrs.get(name, kind() if name in OPTIONAL else None), kind):
                raise _damaged(study, name, f"is {attrs.get(name)!r:.60}, not {expected}")
        for name in ("goals", "assignments", "metrics"):
            if not all(isinstance(item, str) for item in attrs.get(name, ())):
                raise _damaged(study, name, "is not a list of words")
        if not isinstance(paths := attrs["corpus"].get("paths"), list) or not all(isinstance(p, str) for p in paths):
            raise _damaged(study, "corpus", "has no list of paths")
        try:
            TextUnits.of(attrs["corpus"])
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise _damaged(study, "corpus", f"has invalid bytes per token: {error}") from None
        if not all(type(end) is int and end > 0 for end in attrs.get("earlier_ends", ())):
            raise _damaged(study, "earlier_ends", "is not a list of token counts")
        if attrs["seed"] < 0:
            raise _damaged(study, "seed", f"is {attrs['seed']}, below 0")
        goals, assignments = tuple(attrs["goals"]), tuple(attrs["assignments"])
        family = _family_of(study)
        search = _search_of(study)
        name = "space"
        try:
            space = parse_space(attrs["space"], attrs["space_source"], family)
            name = "budget"
            budget = BudgetSpec.model_validate(attrs["budget"])
            _check_set(space, budget)
            name = "goals, assignments or metrics"
            narrowed = narrow(
                space, budget=budget, goals=goals, assignments=assignments, metrics=attrs.get("metrics", ())
            )
            name = "reference"
            narrowed = _led(narrowed, attrs.get("reference", {}))
        except ValidationError as error:
            first = error.errors()[0]
            raise _damaged(study, name, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
        except ValueError as error:
            raise _damaged(study, name, f"is wrong: {error}") from None
        return cls(
            space=narrowed,
            budget=budget,
            budget_name=attrs["budget_name"],
            seed=attrs["seed"],
            goals=goals,
            assignments=assignments,
            run=attrs["run"],
            corpus=attrs["corpus"],
            earlier_ends=tuple(attrs.get("earlier_ends", ())),
            **search,
            storage_path=storage_path_of(study),
            storage_id=str(attrs.get("storage_id", "")),
        )

    def differences(self, other: StudySettings) -> list[str]:
        """What `other` would change, in words. The number of trials and the last rung do not count: both may grow."""
        found = _differences_of_spaces(self.space, other.space)
        families = [_kept_family(settings.space).get("digest", "none") for settings in (self, other)]
        if families[0] != families[1] and self.space.spec.family == other.space.spec.family:
            found.append(f"the text of the family {self.space.spec.family}: digest {' before, '.join(families)} now")
        for name in ("goals", "assignments", "seed", "run"):
            if getattr(self, name) != getattr(other, name):
                found.append(f"{name}: {getattr(self, name)!r} before, {getattr(other, name)!r} now")
        for name in ("sampler", "stopping"):
            if (now := getattr(other, name)) != (before_ := getattr(self, name)):
                found.append(f"{name}: {before_} before, {now} now")
        if self.sampler == other.sampler and self.sampler_digest != other.sampler_digest:
            digests = f"{self.sampler_digest} before, {other.sampler_digest} now"
            found.append(f"the text of the sampler {self.sampler.name}: digest {digests}")
        metrics = [", ".join(m.name for m in s.space.spec.objectives) for s in (self, other)]
        if metrics[0] != metrics[1]:
            found.append(f"metrics: {metrics[0]} before, {metrics[1]} now")
        may_grow = {"trials", "max_tokens"}
        before, now = self.budget.model_dump(exclude=may_grow), other.budget.model_dump(exclude=may_grow)
        found += [
            f"budget {key}: {_in_words(before[key])} before, {_in_words(now[key])} now"
            for key in before
            if before[key] != now[key]
        ]
        if self.storage_path != other.storage_path:
            places = self.storage_path or "none", other.storage_path or "none"
            found.append(f"storage path: {places[0]} before, {places[1]} now")
        if self.corpus.get("digest") != other.corpus.get("digest"):
            found.append(text_changed(self.corpus, other.corpus))
        return found


def text_changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The message if a study's text is not the one that it began with."""
    if before.get("format") != now.get("format"):
        return (
            "an earlier version of tinysearch began this study and split its text in another way, so new trials could "
            "not be compared with those it has; give the search another --name"
        )
    return (
        f"the text has changed since the search: {before['about']} then, {now['about']} now; "
        "its trials can only resume with the same text"
    )


def _in_words(value: Any) -> str:
    """A budget's value in words; limits as `--limit` takes them."""
    if not isinstance(value, dict):
        return repr(value)
    ends = {
        n: [e if e is None else shown(e) for e in (v["min"], v["max"])] for n, v in value.items() if isinstance(v, dict)
    }
    limits = [f"{n}={high}" if low is None else f"{n}={low}..{high or ''}" for n, (low, high) in ends.items()]
    return ", ".join(limits or [f"{name}={shown(other)}" for name, other in value.items()]) or "none"


def _differences_of_spaces(before: Space, now: Space) -> list[str]:
    """The keys of a space file that differ, except its budgets and metrics."""
    apart = {"budget", "budgets", "metric", "metrics", "search"}
    ours, theirs = (space.spec.model_dump(exclude=apart) for space in (before, now))
    found = []
    for key in ours:
        if ours[key] == theirs[key]:
            continue
        if isinstance(ours[key], dict) and isinstance(theirs[key], dict):
            names = sorted({*ours[key], *theirs[key]})
            changed = ", ".join(name for name in names if ours[key].get(name) != theirs[key].get(name))
            found.append(f"the space's {key} have changed ({changed})")
        else:
            found.append(f"the space's {key} has changed")
    return found


def num_trials_of(study: optuna.Study, settings: StudySettings) -> int:
    """How many trials a stored study should have: the last number asked for, or its budget's. Raises StudyError."""
    number = study.user_attrs.get(TRIALS, settings.budget.trials)
    if type(number) is not int or number < 1:
        raise _damaged(study, TRIALS, f"is {number!r:.60}, not a number from 1")
    return number


def storage_path_of(study: optuna.Study) -> str:
    """The URL below which a stored study has its checkpoints; empty if they are in its folder. Raises StudyError."""
    url = study.user_attrs.get("storage_path", "")
    if not isinstance(url, str) or url and "://" not in url:
        raise _damaged(study, "storage_path", f"is {url!r:.60}, not a URL")
    return url


@dataclass(frozen=True)
class Exhausted:
    """No launchable configuration is left to start, after `configurations` were started.

    `is_exact`: the whole space was listed. Otherwise many random draws gave nothing new.
    """

    configurations: int
    is_exact: bool

    def to_attr(self, max_tokens: int) -> dict[str, Any]:
        return {"configurations": self.configurations, "exact": self.is_exact, "max_tokens": max_tokens}


def exhausted_of(study: optuna.Study, settings: StudySettings) -> Exhausted | None:
    """Whether a stored study has nothing left to start; None if it has been extended since. Raises StudyError."""
    found = study.user_attrs.get(EXHAUSTED)
    if found is None:
        return None
    expected = {"configurations": int, "exact": bool, "max_tokens": int}
    if not isinstance(found, dict) or {key: type(value) for key, value in found.items()} != expected:
        raise _damaged(study, EXHAUSTED, f"is {found!r:.60}, not what was found")
    is_of_now = found["max_tokens"] == settings.budget.max_tokens  # with more tokens, more may be launched
    return Exhausted(found["configurations"], found["exact"]) if is_of_now else None


def _reference_of(space: Space) -> dict[str, Any]:
    """The reference preset, if it is not the first one that the space names."""
    first = next(iter(space.spec.presets), None)
    if space.reference is None or space.reference.name == first:
        return {}
    is_own = space.reference.name not in space.spec.presets
    return {"preset": space.reference.name, **({"values": space.reference.values} if is_own else {})}


def _kept_family(space: Space) -> dict[str, str]:
    """What a study stores about a family that is not the trainer's."""
    source = space.family_source
    return {} if source is None else {"location": source.location, "digest": source.digest}


def _family_of(study: optuna.Study) -> str:
    """The family of a stored study if it is not the trainer's, else empty. Runs its code if it has not changed.

    Raises StudyError if it has changed or is gone.
    """
    kept = study.user_attrs.get("family") or {}
    if not kept:
        return ""
    if kept.keys() != {"location", "digest"} or not all(isinstance(value, str) for value in kept.values()):
        raise _damaged(study, "family", f"is {kept!r:.60}, not a location and a digest")
    try:
        return reopen(**kept)
    except FamilyError as error:
        raise StudyError(
            f"the family of the study {study.study_name!r} is not what it was: {error}; bring back what it was (the "
            "folder of the study has a copy of a file), or give a new search another --name"
        ) from None


def _search_of(study: optuna.Study) -> dict[str, Any]:
    """The sampler and the stopping of a stored study, as fields of StudySettings. Studies of before had no choice."""
    kept = study.user_attrs.get("search") or {}
    found: dict[str, Any] = {}
    for part in ("sampler", "stopping"):
        entry = kept.get(part, {"name": CURVES.name, "options": {}})
        is_whole = isinstance(entry, dict) and entry.keys() == {"name", "options"}
        if not is_whole or not isinstance(entry["name"], str) or not isinstance(entry["options"], dict):
            raise _damaged(study, "search", f"has {entry!r:.60} as its {part}, not a name and options")
        found[part] = Named(entry["name"], entry["options"])
    found["sampler_digest"] = str(kept.get("digest", ""))
    return found


def _led(space: Space, reference: dict[str, Any]) -> Space:
    """The space with that preset as its reference. Raises ValueError if it is not a valid configuration."""
    if not reference:
        return space
    name, values = reference.get("preset"), reference.get("values")
    if name in space.presets and values is None:
        return space.led_by(space.presets[name])
    if not isinstance(name, str) or not isinstance(values, dict) or not values.keys() <= space.parameters.keys():
        raise ValueError(f"{reference!r:.60} is not a configuration")
    if wrong := [key for key, value in values.items() if checked_value(value, space.parameters[key].type) is None]:
        raise ValueError(f"it sets {wrong[0]} to {values[wrong[0]]!r}")
    space = space.led_by(Preset(name=name, values=values))
    space.complete(values)
    return space


def _check_set(space: Space, budget: BudgetSpec) -> None:
    """Raises ValueError if a budget sets something that is not a parameter, or a value of the wrong type."""
    for name, value in budget.set.items():
        if name not in space.parameters or checked_value(value, space.parameters[name].type) is None:
            raise ValueError(f"it sets {name} to {value!r}")


def _damaged(study: optuna.Study, attribute: str, why: str) -> StudyError:
    return StudyError(f"the study {study.study_name} is damaged: its attribute {attribute!r} {why}")


def settled_of(study: optuna.Study, settings: StudySettings) -> int:
    """The last rung up to which a study has decided on every trial; 0 if it is still open. Raises StudyError."""
    if not settings.earlier_ends:
        return settings.budget.max_tokens
    settled = study.user_attrs.get(SETTLED, 0)
    if type(settled) is not int:
        raise _damaged(study, SETTLED, f"is {settled!r:.60}, not a token count")
    return settled
