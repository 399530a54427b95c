"""From a command's options to a running search: everything is checked before anything is written, then Ray starts."""

from __future__ import annotations

import contextlib
import math
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console

from search.driver import hardware
from search.driver.amounts import check_amounts, check_trials, gpu_share, number_of_tokens, seconds_to_hang
from search.driver.deadline import seconds_until
from search.driver.pace import MAX_SECONDS, NoPace, measured_pace
from search.driver.planning import SHORTEST_MEASURED, Plan, plan, until_lines
from search.driver.requests import Requests, measures_alone
from search.report.display import Display
from search.report.overview import Overview, comparison_line, counts_line, side_lines
from search.space.grammar import BudgetSpec
from search.space.loading import load_space
from search.space.narrowing import limited, narrow
from search.space.parameter import shown
from search.space.space import SHRUNK, Space
from search.storage.archive import archive_at
from search.storage.folder import StudyError, StudyFolder
from search.strategy.feasibility import Assessment, assess, largest_peak, unestimated
from search.strategy.reference import referenced
from search.study.comparable import incomparable, unmeasurable
from search.study.settings import StudySettings
from search.study.study import Study
from search.study.text import StudyText, check_text, read_text
from search.worker import turns
from search.worker.checkpoints import Checkpoints, checkpoint_name, checkpoints_at, is_owner, place_of, take_place
from search.worker.messages import FINISHED
from search.worker.object_store import ObjectStore, ObjectStoreError
from trainer.checks import counted
from trainer.families.registry import family_of
from trainer.reading import size_text
from trainer.text.errors import shown as shown_path
from trainer.text.units import TextUnits


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `tinysearch run`, or `resume`, was asked to do."""

    space: Path | None  # None to go on with a study by its name, with the settings that it has
    name: str | None = None
    runs: Path = Path("runs")
    storage: str | None = None  # a database's URL; a journal file in the study's folder if left out
    storage_path: str | None = None  # a URL for checkpoints and the text; the study's folder if left out
    budget: str | None = None
    trials: str | None = None  # "40", or "+10" for ten more
    max_tokens: str | None = None  # "54M": in place of the budget's, or more for a study that there is
    until: str | None = None  # "8h" or "18:00": no trial goes on after that
    seed: int = 0
    goals: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()  # beside the space's and the budget's
    metrics: tuple[str, ...] = ()  # in place of the space's
    data: tuple[Path, ...] = ()
    token_dtype: str = "uint16"
    text_key: str = "text"  # the field of a record that has its text
    skip_bad: bool = False  # leave out records without text
    gpus_per_trial: float | None = None
    cpus_per_trial: float | None = None
    trials_per_gpu: str | None = None  # "4", or "auto": as many as the largest configuration lets
    gpu_kind: str | None = None  # of a cluster that has several
    parallel: int | None = None
    address: str | None = None
    hang_minutes: float = 30.0  # without a report, until a worker is ended

    @property
    def study_name(self) -> str:
        """The study's name: the space's, with the budget's where one was named."""
        if self.name is not None:
            return self.name
        assert self.space is not None
        return "-".join(filter(None, [self.space.stem, self.budget]))

    @property
    def reading(self) -> dict[str, Any]:
        """How the text is read, as fields of a training run; what earlier studies do not have only if it is asked."""
        asked = {"text_key": self.text_key} if self.text_key != "text" else {}
        return {"token_dtype": self.token_dtype, **asked, **({"skip_bad": True} if self.skip_bad else {})}

    @property
    def shares(self) -> dict[str, Any]:
        """What was asked for of the hardware, as search/driver/hardware.py takes it. Raises ValueError."""
        gpus = self.gpus_per_trial
        if self.trials_per_gpu is not None:
            if gpus is not None:
                raise ValueError("--trials-per-gpu and --gpus-per-trial say the same in two ways; give one")
            gpus = gpu_share(self.trials_per_gpu)
        return {
            "gpus_per_trial": gpus,
            "cpus_per_trial": self.cpus_per_trial,
            "parallel": self.parallel,
        }

    def check(self) -> None:
        """Raises ValueError for a number or a time that can mean nothing."""
        names = ("trials", "max_tokens", "until", "hang_minutes", "seed", "storage_path", "trials_per_gpu")
        check_amounts(**{name: getattr(self, name) for name in names}, **self.shares)


def prepare_space(options: RunOptions) -> tuple[Space, BudgetSpec, Assessment]:
    """The space as asked for, its budget, and what may be launched. Raises SpaceError or ValueError."""
    assert options.space is not None
    space = load_space(options.space)
    budget = space.budget(options.budget)
    if (max_tokens := number_of_tokens(options.max_tokens)) is not None:
        if max_tokens < budget.min_tokens:
            raise ValueError(f"--max-tokens {options.max_tokens}: the first rung is at {budget.min_tokens:,} already")
        budget = budget.model_copy(update={"max_tokens": max_tokens})
    budget = limited(space, budget, options.limits)
    space = narrow(space, budget=budget, goals=options.goals, assignments=options.assignments, metrics=options.metrics)
    space, told = referenced(space, budget)
    known = [space.complete(preset.values) for preset in space.presets.values() if preset.name == SHRUNK]
    return space, budget, replace(assess(space, budget, known=known), reference=told)


def run_search(options: RunOptions, console: Console) -> tuple[Overview, bool]:
    """Start or continue the study and run it to its end, or until the time is up.

    Returns its overview, and whether it was interrupted. Raises SpaceError, StudyError, ValueError (also the
    trainer's CorpusError and ConfigError) for what the user can mend, StudyFailed where every trial fails.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a person watches the table, not Optuna's log
    runs = options.runs.absolute()
    folder = StudyFolder(runs, options.study_name, archive_at(options.storage, runs))
    options.check()
    max_seconds = math.inf if options.until is None else seconds_until(options.until, datetime.now())
    ends = time.monotonic() + max_seconds
    hang_seconds = seconds_to_hang(options.hang_minutes)
    prepared = None if options.space is None else prepare_space(options)
    folder.check_writable()
    existing = folder.load() if prepared is None else folder.find()

    with contextlib.ExitStack() as stack:
        before = None if existing is None else StudySettings.of(existing)
        if prepared is not None:
            asked = {"budget_name": options.budget or "", "metrics": options.metrics}
            doubts = check_metrics(*prepared[:2], options.data, is_begun=before is not None, **asked)
        else:
            assert before is not None
            paths = map(Path, before.corpus["paths"])
            doubts = check_metrics(before.space, before.budget, paths, is_begun=True, budget_name=before.budget_name)
        doubts += unestimated(*(prepared[:2] if prepared is not None else (before.space, before.budget)))
        for warning in doubts:
            console.print(f"warning: {warning}", style="yellow")
        if prepared is not None:
            space, budget, assessment = prepared
            slots = _slots(options, stack, space, budget)
            settings = _settings(options, space, budget, slots, _read(options, space, console))
            if existing is not None:
                Study.check_same(existing, settings)
        else:
            assert before is not None
            settings, assessment = before, assess(before.space, before.budget)
            slots = _slots(options, stack, before.space, before.budget)
            _print_text(console, check_text(before, on_progress=_progress(console)))
        so_far = None
        num_trials: float | None = number_of_trials(options.trials, None)
        if existing is not None and before is not None:
            so_far = Overview.stored(existing, is_run=False)
            num_trials = number_of_trials(options.trials, so_far)
            settings = _going_on(before, settings, options)
            is_longer = settings is not before or (num_trials or 0) > so_far.num_trials or options.until
            is_exhausted = so_far.exhausted is not None and settings is before
            if so_far.is_complete and (is_exhausted or not is_longer):
                return so_far, False
        if options.until and options.trials is None:
            num_trials = math.inf  # as many as there is time for
            if not options.address and not (so_far is not None and so_far.records):
                _say_what_fits(settings, slots, ends, console)
        store = _place_at(settings, folder.name)
        stack.enter_context(folder.lock(settings.directions))
        if not options.address:
            from search.driver import cluster  # with Ray, which takes seconds

            stack.enter_context(cluster.local_ray(hardware.num_cores(), hardware.num_gpus()))
        # All that can be refused has been: from here on the study is written.
        existing = folder.find()  # another driver may have made it, or added to it, before this one had the lock
        if existing is None:
            (folder.path / "space.yaml").write_text(settings.space.document.text, encoding="utf-8")
            if (source := settings.space.family_source) is not None and source.text is not None:
                (folder.path / Path(source.location).name).write_text(source.text, encoding="utf-8")
            study = Study.create(folder.open_storage(), folder.name, settings, trials=num_trials)
        else:
            Study.check_same(existing, settings)
            study = Study(existing, settings, trials=num_trials)
        if store is not None:
            take_place(store, folder.name, study.stored.user_attrs["storage_id"])
        if existing is None and assessment.reference:
            console.print(assessment.reference, style="yellow")
        for preset, why in study.skipped_presets.items():
            console.print(f"{settings.space.whose} {preset!r} is left out: {why}", style="dim")
        for preset, other in study.same_presets.items():
            if preset not in study.skipped_presets:
                console.print(same_line(preset, other, settings.space.whose), style="dim")
        few = few_line(study.count_launchable(), study.num_trials)
        how_many = counted(study.num_trials, "trial") if math.isfinite(study.num_trials) else f"until {options.until},"
        console.print(
            f"{folder.name}: {how_many} up to {counted(study.rungs[-1], 'token')}; {slots}; "
            f"{assessment.share:.0%} of the space may be launched"
        )
        if (units := settings.units) is not None:
            console.print(equal_text_line(units, study.rungs[-1]), style="dim")
        if settings.budget.set:
            console.print(fixed_line(settings.budget), style="dim")
        if few:
            console.print(few, style="yellow")
        requests = Requests(study, folder, slots, hang_seconds)
        place = place_of(folder.checkpoints, folder.name, settings.storage_path)
        max_seconds = max(1.0, ends - time.monotonic())
        with Display(lambda: Overview.of(study), console=console, max_seconds=max_seconds) as display:
            from search.driver import tune

            was_interrupted = tune.run_trials(
                study,
                slots,
                requests.request,
                _Pruning(display, checkpoints_at(place, patience_seconds=0)),
                is_shared=options.address is not None,
                max_seconds=max_seconds,
            )
        if math.isinf(study.num_trials) and not was_interrupted:
            study.close_to_new_trials()
        if study.rejections:
            seen = [reason for reason in assessment.reasons if reason in study.rejections]  # the worst first
            reason = seen[0] if seen else study.rejections.most_common(1)[0][0]
            total = counted(study.rejections.total(), "configuration was", "configurations were")
            console.print(
                f"{total} rejected before launch, {study.rejections[reason]:,} for {reason}",
                style="dim",
            )
        return Overview.of(study), was_interrupted


def check_metrics(
    space: Space, budget: BudgetSpec, paths: Iterable[Path], *, is_begun: bool, **asked: Any
) -> list[str]:
    """Raises ValueError where a metric or limit cannot be measured on this text, or does not compare.

    A study that `is_begun` goes on with what does not compare, since nobody looked then: that is returned as warnings.
    `asked` says what search/study/comparable.py wants to know of where a fault lies.
    """
    paths = list(paths)
    if wrong := unmeasurable(space, budget, paths, **asked):
        raise ValueError("\n".join(wrong))
    doubts = incomparable(space, budget, paths, **asked)
    if doubts and not is_begun:
        raise ValueError("\n".join(doubts))
    return doubts


def plan_search(options: RunOptions, seconds: float, console: Console) -> Plan:
    """A search of the options' space that makes sense in so many seconds, its speed measured on this machine.

    Without a budget's name it is the space's own one, or, where its first rung is too far, the first named one that
    fits. Raises SpaceError, or ValueError (also the trainer's) for what the user can mend.
    """
    assert options.space is not None
    names = [options.budget] if options.budget else [None, *load_space(options.space).spec.budgets]
    plans: list[Plan] = []
    for name in names:
        named = replace(options, budget=name)
        space, budget, _ = prepare_space(named)
        with contextlib.ExitStack() as stack:
            slots = _slots(named, stack, space, budget)
        settings = _settings(named, space, budget, slots, _read(named, space, None if plans else console))
        plans.append(plan(settings, measured_pace(settings, slots), seconds))
        if plans[-1].proposal is not None:
            return replace(plans[-1], too_long=plans[0].smallest if len(plans) > 1 else None)
    return min(plans, key=lambda found: found.smallest.seconds if found.smallest else math.inf)


def _say_what_fits(settings: StudySettings, slots: hardware.Slots, ends: float, console: Console) -> None:
    """Measure for seconds, and say what a search that ends at a time will do; of a short one nothing is measured."""
    if (left := ends - time.monotonic()) < SHORTEST_MEASURED:
        return
    try:
        pace = measured_pace(settings, slots, max_seconds=min(MAX_SECONDS, left / 6))
    except NoPace as error:
        console.print(str(error), style="dim")
        return
    for line in until_lines(settings, pace, ends - time.monotonic()):
        console.print(line)


def _going_on(before: StudySettings, asked: StudySettings, options: RunOptions) -> StudySettings:
    """The settings of a study that there is: what it has, extended where more tokens are asked for. Raises ValueError.

    The trials of a study that was extended once go on to its new end, also where the space still names the old one.
    """
    end = before.budget.max_tokens
    max_tokens = number_of_tokens(options.max_tokens) or asked.budget.max_tokens
    if max_tokens > end:
        return before.extended(max_tokens)
    if max_tokens < end and (options.max_tokens or max_tokens not in before.earlier_ends):
        raise StudyError(f"max_tokens {max_tokens:,}, but the study trains to {end:,} already; give it another --name")
    return before


def _slots(options: RunOptions, stack: contextlib.ExitStack, space: Space, budget: BudgetSpec) -> hardware.Slots:
    """What each trial gets: of the cluster that `--address` names, which is connected to here, or of this machine."""
    if options.address:
        from search.driver import cluster

        nodes = stack.enter_context(cluster.ray_cluster(options.address))
    else:
        nodes = [hardware.this_machine()]
    shares = options.shares
    if options.trials_per_gpu == "auto":
        if options.address:
            raise ValueError("--trials-per-gpu auto: the memory of a cluster's GPUs is not known here; give a number")
        if (memory := hardware.smallest_gpu_bytes()) is None:
            raise ValueError("--trials-per-gpu auto goes by the memory of the GPUs, and there are none here")
        run = {} if "precision" in space.parameters else {"precision": hardware.precision(1)}
        shares["gpus_per_trial"] = 1 / hardware.trials_that_fit(memory, largest_peak(space, budget, run))
    slots = hardware.divide(nodes, **shares, gpu_kind=options.gpu_kind)
    if measures_alone(slots, space, budget) and not turns.are_possible():
        raise ValueError(
            "tokens_per_second cannot be compared between trials that share a GPU of this system; give each one"
        )
    if not slots.gpus_per_trial and family_of(space.family).cost is None:
        if any(metric.name == "peak_vram_bytes" for metric in space.spec.objectives):
            raise ValueError(
                f"peak_vram_bytes cannot be a metric here: there is no GPU, and the family {space.spec.family} has no "
                "formula by which to estimate it"
            )
    return slots


def _settings(
    options: RunOptions, space: Space, budget: BudgetSpec, slots: hardware.Slots, text: StudyText
) -> StudySettings:
    run: dict[str, Any] = {**options.reading, "eval_tokens": budget.eval_tokens}
    if "precision" not in space.parameters:
        run["precision"] = hardware.precision(slots.gpus_per_trial)
    corpus = text.to_settings()
    if units := TextUnits.of(corpus):
        run["eval_bytes"] = units.bytes_in(budget.eval_tokens)
    return StudySettings(
        space=space,
        budget=budget,
        budget_name=options.budget or "",
        seed=options.seed,
        goals=options.goals,
        assignments=options.assignments,
        run=run,
        corpus=corpus,
        storage_path=(options.storage_path or "").rstrip("/"),
        storage_id=uuid.uuid4().hex,
    )


def _read(options: RunOptions, space: Space, console: Console | None) -> StudyText:
    """The text in every vocabulary that the space may ask for; without a console, nothing is said of it."""
    paths = [str(path.absolute()) for path in options.data]
    if console is None:
        return read_text(space, paths, options.reading)
    text = ", ".join(map(shown_path, options.data)) or "the standard library of this Python"
    console.print(f"reading the text: {text}", style="dim", soft_wrap=True)
    read = read_text(space, paths, options.reading, on_progress=_progress(console))
    _print_text(console, read)
    return read


def _progress(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, style="dim", soft_wrap=True)


def _print_text(console: Console, text: StudyText) -> None:
    for line in text.lines():
        console.print(line, style="dim", soft_wrap=True)


def equal_text_line(units: TextUnits, tokens: int) -> str:
    """That trials of different vocabularies get the same text."""
    text = size_text(units.bytes_in(tokens))
    return (
        f"tokens are counted in the vocabulary of {units.reference:,}: {tokens:,} hold {text} of text, and trials with "
        "other vocabularies are given as much text"
    )


def fixed_line(budget: BudgetSpec) -> str:
    """What the budget sets, in a sentence."""
    fixed = ", ".join(f"{name} {shown(value)}" for name, value in budget.set.items())
    return f"in this budget every configuration, presets too, has {fixed}"


def same_line(preset: str, other: str, whose: str) -> str:
    """That two presets are one configuration here, in a sentence."""
    return f"{whose} {preset!r} is the same configuration as {other!r} here: it is trained once, as {other!r}"


def few_line(num_launchable: int | None, num_trials: float) -> str:
    """That fewer configurations can be trained than were asked for; empty where there are enough."""
    if num_launchable is None or num_launchable >= num_trials:
        return ""
    if num_launchable == 1:
        return "only one configuration may be launched, and none is trained twice: one trial is all there will be"
    number = f"{num_launchable:,}"
    return f"only {number} configurations may be launched, and none is trained twice: {number} trials at most"


def number_of_trials(asked: str | None, so_far: Overview | None) -> int | None:
    """How many trials in total: `N`, or `+N` beyond those there are; None if nothing was asked. Raises ValueError."""
    if asked is None or (number := check_trials(asked)) is None:
        return None
    existing = len(so_far.records) if so_far else 0
    total = number + existing if asked.strip().startswith("+") else number
    if total < existing:
        raise ValueError(f"--trials {asked}, but the study has {existing} already; give more, or +N for N more")
    return total


def summary(overview: Overview) -> list[str]:
    """The closing sentences of a search."""
    return [counts_line(overview.counts, overview.num_trials), comparison_line(overview), *side_lines(overview)]


def _place_at(settings: StudySettings, name: str) -> ObjectStore | None:
    """Where a study keeps checkpoints and text, if that is a URL, and it may. Raises ObjectStoreError."""
    if not settings.storage_path:
        return None
    store = ObjectStore(settings.storage_path, patience_seconds=0)
    if not is_owner(store, name, settings.storage_id):
        store.check_writable(name)
    return store


class _Pruning:
    """Passes events on, and deletes the checkpoint of a trial that nothing will continue."""

    def __init__(self, display: Display, checkpoints: Checkpoints):
        self._display, self._checkpoints = display, checkpoints

    def on_event(self, kind: str, record: Any) -> None:
        if kind == "ended":
            unneeded = record.continues if record.outcome == FINISHED else record.number
            if unneeded is not None:
                with contextlib.suppress(ObjectStoreError):  # `tinysearch clean` finds it
                    self._checkpoints.delete(checkpoint_name(unneeded))
        self._display.on_event(kind, record)

    def on_slots(self, num_slots: int) -> None:
        self._display.on_slots(num_slots)
