"""Prepares a search: its space, its text and its share of the hardware, all of it checked."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from rich.console import Console

from search.driver import hardware
from search.driver.amounts import number_of_tokens
from search.driver.choosing import check_sampler, chosen, with_choice
from search.driver.options import RunOptions
from search.driver.requests import measures_alone
from search.space.loading import load_space
from search.space.narrowing import limited, narrow
from search.space.space import SHRUNK, Space
from search.space.spec import BudgetSpec
from search.strategy.feasibility import Assessment, assess, largest_peak, unestimated
from search.strategy.reference import referenced
from search.study.comparable import incomparable, unmeasurable
from search.study.settings import StudySettings
from search.study.study import Study
from search.study.text import StudyText, check_text, read_text
from search.worker import gpu_lock
from trainer.families.registry import family_of
from trainer.text.errors import shown as shown_path
from trainer.text.units import TextUnits


class AskedSpace(NamedTuple):
    """A space as the options narrow it, the budget, and what may be launched."""

    space: Space
    budget: BudgetSpec
    assessment: Assessment


@dataclass(frozen=True)
class Prepared:
    """What a search is made with, all of it checked."""

    settings: StudySettings
    assessment: Assessment
    slots: hardware.Slots


def prepare_space(options: RunOptions) -> AskedSpace:
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
    chosen(options, space, budget)  # so that a mistake there is said before anything takes time
    space, note = referenced(space, budget)
    known = [space.complete(preset.values) for preset in space.presets.values() if preset.name == SHRUNK]
    return AskedSpace(space, budget, replace(assess(space, budget, known=known), reference_note=note))


def prepare_by_space(
    options: RunOptions,
    asked: AskedSpace,
    stored: optuna.Study | None,
    stack: contextlib.ExitStack,
    console: Console,
) -> Prepared:
    """A search of a space, as `tinysearch run` asks for it. Raises StudyError if the study is there and differs.

    `stored` is the study of that name, if there is one.
    """
    space, budget, assessment = asked
    named: dict[str, Any] = {"budget_name": options.budget or "", "metrics": options.metrics}
    doubts = check_metrics(space, budget, options.data, is_begun=stored is not None, **named)
    _warn(console, doubts + unestimated(space, budget))
    slots = slots_for(options, stack, space, budget)
    settings = settings_for(options, space, budget, slots, read_for(options, space, console))
    settings = with_choice(settings, chosen(options, space, budget))
    if stored is not None:
        Study.check_same(stored, settings)
    return Prepared(settings, assessment, slots)


def prepare_by_name(
    options: RunOptions, before: StudySettings, stack: contextlib.ExitStack, console: Console
) -> Prepared:
    """A study that resumes with its own space and text, as `tinysearch resume` asks for it."""
    space, budget = before.space, before.budget
    check_sampler(before)
    paths = map(Path, before.corpus["paths"])
    doubts = check_metrics(space, budget, paths, is_begun=True, budget_name=before.budget_name)
    _warn(console, doubts + unestimated(space, budget))
    assessment = assess(space, budget)
    slots = slots_for(options, stack, space, budget)
    print_text(console, check_text(before, on_progress=progress_on(console)))
    return Prepared(before, assessment, slots)


def _warn(console: Console, doubts: Iterable[str]) -> None:
    for doubt in doubts:
        console.print(f"warning: {doubt}", style="yellow")


def check_metrics(
    space: Space, budget: BudgetSpec, paths: Iterable[Path], *, is_begun: bool, **asked: Any
) -> list[str]:
    """Raises ValueError if a metric or limit cannot be measured on this text, or does not compare between trials.

    If the study `is_begun`, metrics that do not compare are returned as warnings, because older versions did not check.
    `asked` tells search/study/comparable.py where a fault may be.
    """
    paths = list(paths)
    if wrong := unmeasurable(space, budget, paths, **asked):
        raise ValueError("\n".join(wrong))
    doubts = incomparable(space, budget, paths, **asked)
    if doubts and not is_begun:
        raise ValueError("\n".join(doubts))
    return doubts


def slots_for(options: RunOptions, stack: contextlib.ExitStack, space: Space, budget: BudgetSpec) -> hardware.Slots:
    """The resources of each trial, in the cluster at `--address`, to which this connects, or on this machine."""
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
    if measures_alone(slots, space, budget) and not gpu_lock.are_possible():
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


def settings_for(
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


def read_for(options: RunOptions, space: Space, console: Console | None) -> StudyText:
    """The text in every vocabulary that the space may ask for; without a console, nothing is printed."""
    paths = [str(path.absolute()) for path in options.data]
    if console is None:
        return read_text(space, paths, options.reading)
    text = ", ".join(map(shown_path, options.data)) or "the standard library of this Python"
    console.print(f"reading the text: {text}", style="dim", soft_wrap=True)
    read = read_text(space, paths, options.reading, on_progress=progress_on(console))
    print_text(console, read)
    return read


def progress_on(console: Console) -> Callable[[str], None]:
    return lambda line: console.print(line, style="dim", soft_wrap=True)


def print_text(console: Console, text: StudyText) -> None:
    for line in text.lines():
        console.print(line, style="dim", soft_wrap=True)
