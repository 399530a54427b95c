"""From a command's options to a running search: everything is checked before anything is written, then Ray starts."""

from __future__ import annotations

import contextlib
import math
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console

from search.driver import hardware
from search.driver.amounts import check_trials, number_of_tokens, seconds_to_hang
from search.driver.deadline import seconds_until
from search.driver.options import RunOptions
from search.driver.planning import say_what_fits
from search.driver.preparing import (
    check_metrics,
    prepare_space,
    print_text,
    progress_on,
    read_for,
    settings_for,
    slots_for,
)
from search.driver.requests import Requests
from search.report.display import Display
from search.report.overview import Overview
from search.report.sentences import (
    equal_text_line,
    few_line,
    fixed_line,
    same_line,
)
from search.storage.folder import StudyError, StudyFolder
from search.storage.study_store import study_store
from search.strategy.feasibility import assess, unestimated
from search.study.settings import StudySettings
from search.study.study import Study
from search.study.text import check_text
from search.worker.checkpoints import (
    Checkpoints,
    checkpoint_name,
    checkpoints_at,
    claim_location,
    is_owner,
    location_of,
)
from search.worker.messages import FINISHED, Event
from search.worker.object_store import ObjectStore, ObjectStoreError
from trainer.checks import counted


def run_search(options: RunOptions, console: Console) -> tuple[Overview, bool]:
    """Start or continue the study and run it to its end, or until the time is up.

    Returns its overview, and whether it was interrupted. Raises SpaceError, StudyError, ValueError (also the
    trainer's CorpusError and ConfigError) for what the user can mend, StudyFailed where every trial fails.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a person watches the table, not Optuna's log
    runs = options.runs.absolute()
    folder = StudyFolder(runs, options.study_name, study_store(options.storage, runs))
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
            asked: dict[str, Any] = {"budget_name": options.budget or "", "metrics": options.metrics}
            doubts = check_metrics(*prepared[:2], options.data, is_begun=before is not None, **asked)
            doubts += unestimated(*prepared[:2])
        else:
            assert before is not None
            paths = map(Path, before.corpus["paths"])
            doubts = check_metrics(before.space, before.budget, paths, is_begun=True, budget_name=before.budget_name)
            doubts += unestimated(before.space, before.budget)
        for warning in doubts:
            console.print(f"warning: {warning}", style="yellow")
        if prepared is not None:
            space, budget, assessment = prepared
            slots = slots_for(options, stack, space, budget)
            settings = settings_for(options, space, budget, slots, read_for(options, space, console))
            if existing is not None:
                Study.check_same(existing, settings)
        else:
            assert before is not None
            settings, assessment = before, assess(before.space, before.budget)
            slots = slots_for(options, stack, before.space, before.budget)
            print_text(console, check_text(before, on_progress=progress_on(console)))
        so_far = None
        num_trials: float | None = number_of_trials(options.trials, None)
        if existing is not None and before is not None:
            so_far = Overview.stored(existing, is_run=False)
            num_trials = number_of_trials(options.trials, so_far)
            settings = _settings_to_resume_with(before, settings, options)
            is_longer = settings is not before or (num_trials or 0) > so_far.num_trials or options.until
            is_exhausted = so_far.exhausted is not None and settings is before
            if so_far.is_complete and (is_exhausted or not is_longer):
                return so_far, False
        if options.until and options.trials is None:
            num_trials = math.inf  # as many as there is time for
            if not options.address and not (so_far is not None and so_far.records):
                say_what_fits(settings, slots, ends, console)
        store = _store_at(settings, folder.name)
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
            claim_location(store, folder.name, study.stored.user_attrs["storage_id"])
        if existing is None and assessment.reference_note:
            console.print(assessment.reference_note, style="yellow")
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
        location = location_of(folder.checkpoints, folder.name, settings.storage_path)
        max_seconds = max(1.0, ends - time.monotonic())
        with Display(lambda: Overview.of(study), console=console, max_seconds=max_seconds) as display:
            from search.driver import tune

            was_interrupted = tune.run_trials(
                study,
                slots,
                requests.request,
                _CheckpointCleanup(display, checkpoints_at(location, patience_seconds=0)),
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


def _settings_to_resume_with(before: StudySettings, asked: StudySettings, options: RunOptions) -> StudySettings:
    """The settings of an existing study, extended if more tokens are asked for. Raises ValueError.

    The trials of a study that was extended train to its new end, even if the space file still names the old one.
    """
    end = before.budget.max_tokens
    max_tokens = number_of_tokens(options.max_tokens) or asked.budget.max_tokens
    if max_tokens > end:
        return before.extended(max_tokens)
    if max_tokens < end and (options.max_tokens or max_tokens not in before.earlier_ends):
        raise StudyError(f"max_tokens {max_tokens:,}, but the study trains to {end:,} already; give it another --name")
    return before


def number_of_trials(asked: str | None, so_far: Overview | None) -> int | None:
    """How many trials in total: `N`, or `+N` beyond those there are; None if nothing was asked. Raises ValueError."""
    if asked is None or (number := check_trials(asked)) is None:
        return None
    existing = len(so_far.records) if so_far else 0
    total = number + existing if asked.strip().startswith("+") else number
    if total < existing:
        raise ValueError(f"--trials {asked}, but the study has {existing} already; give more, or +N for N more")
    return total


def _store_at(settings: StudySettings, name: str) -> ObjectStore | None:
    """Where a study keeps checkpoints and text, if that is a URL, and it may. Raises ObjectStoreError."""
    if not settings.storage_path:
        return None
    store = ObjectStore(settings.storage_path, patience_seconds=0)
    if not is_owner(store, name, settings.storage_id):
        store.check_writable(name)
    return store


class _CheckpointCleanup:
    """Passes events on, and deletes the checkpoint of a trial that nothing will resume or continue."""

    def __init__(self, display: Display, checkpoints: Checkpoints):
        self._display, self._checkpoints = display, checkpoints

    def on_event(self, kind: Event, record: Any) -> None:
        if kind is Event.ENDED:
            unneeded = record.continues if record.outcome == FINISHED else record.number
            if unneeded is not None:
                with contextlib.suppress(ObjectStoreError):  # `tinysearch clean` finds it
                    self._checkpoints.delete(checkpoint_name(unneeded))
        self._display.on_event(kind, record)

    def on_slots(self, num_slots: int) -> None:
        self._display.on_slots(num_slots)
