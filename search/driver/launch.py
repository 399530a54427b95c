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
from search.driver.preparing import Prepared, prepare_by_name, prepare_by_space, prepare_space
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
from search.strategy.feasibility import Assessment
from search.study.settings import StudySettings
from search.study.study import Study
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
    folder = _folder_of(options)
    options.check()
    ends = _end_of(options)
    asked = None if options.space is None else prepare_space(options)
    folder.check_writable()
    stored = folder.load() if asked is None else folder.find()
    before = None if stored is None else StudySettings.of(stored)

    with contextlib.ExitStack() as stack:  # keeps Ray and the study's lock until the search has ended
        if asked is not None:
            prepared = prepare_by_space(options, asked, stored, stack, console)
        else:
            assert before is not None  # what is resumed is there
            prepared = prepare_by_name(options, before, stack, console)
        so_far = None if stored is None else Overview.stored(stored, is_run=False)
        num_trials = _num_trials_asked(options, so_far)
        settings = prepared.settings if before is None else _settings_to_resume_with(before, prepared.settings, options)
        if so_far is not None and _is_done(so_far, num_trials, options, is_extended=settings is not before):
            return so_far, False
        if _should_say_what_fits(options, so_far):
            say_what_fits(settings, prepared.slots, ends, console)
        store = _store_at(settings, folder.name)
        stack.enter_context(folder.lock(settings.directions))
        _start_ray(options, stack)
        # All that can be refused has been: from here on the study is written.
        study, is_new = _open_study(folder, settings, num_trials, store)
        _announce(study, prepared, options, console, is_new=is_new)
        was_interrupted = _run_trials(study, folder, prepared.slots, options, ends, console)
        _tell_rejections(study, prepared.assessment, console)
        return Overview.of(study), was_interrupted


def _folder_of(options: RunOptions) -> StudyFolder:
    runs = options.runs.absolute()
    return StudyFolder(runs, options.study_name, study_store(options.storage, runs))


def _end_of(options: RunOptions) -> float:
    """When the time is up, by the monotonic clock; infinite without `--until`."""
    if options.until is None:
        return math.inf
    return time.monotonic() + seconds_until(options.until, datetime.now())


def _num_trials_asked(options: RunOptions, so_far: Overview | None) -> float | None:
    """How many trials in total; None if nothing was asked, and infinite if only a time was. Raises ValueError."""
    if options.until is not None and options.trials is None:
        return math.inf  # as many as there is time for
    return number_of_trials(options.trials, so_far)


def number_of_trials(asked: str | None, so_far: Overview | None) -> int | None:
    """How many trials in total: `N`, or `+N` beyond those there are; None if nothing was asked. Raises ValueError."""
    if asked is None or (number := check_trials(asked)) is None:
        return None
    existing = len(so_far.records) if so_far else 0
    total = number + existing if asked.strip().startswith("+") else number
    if total < existing:
        raise ValueError(f"--trials {asked}, but the study has {existing} already; give more, or +N for N more")
    return total


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


def _is_done(so_far: Overview, num_trials: float | None, options: RunOptions, *, is_extended: bool) -> bool:
    """Whether a study is complete, and no more was asked for or nothing else can be started."""
    if not so_far.is_complete or is_extended:
        return False
    asks_for_more = (num_trials or 0) > so_far.num_trials or options.until is not None
    return so_far.exhausted is not None or not asks_for_more


def _should_say_what_fits(options: RunOptions, so_far: Overview | None) -> bool:
    """Whether only a time was given, the trials run on this machine, and the study has none yet."""
    has_only_a_time = options.until is not None and options.trials is None
    has_trials = so_far is not None and bool(so_far.records)
    return has_only_a_time and not options.address and not has_trials


def _store_at(settings: StudySettings, name: str) -> ObjectStore | None:
    """Where a study keeps checkpoints and text, if that is a URL, and it may. Raises ObjectStoreError."""
    if not settings.storage_path:
        return None
    store = ObjectStore(settings.storage_path, patience_seconds=0)
    if not is_owner(store, name, settings.storage_id):
        store.check_writable(name)
    return store


def _start_ray(options: RunOptions, stack: contextlib.ExitStack) -> None:
    """Start Ray on this machine, unless the search runs on a cluster, to which it is connected already."""
    if not options.address:
        from search.driver import cluster  # with Ray, which takes seconds

        stack.enter_context(cluster.local_ray(hardware.num_cores(), hardware.num_gpus()))


def _open_study(
    folder: StudyFolder, settings: StudySettings, num_trials: float | None, store: ObjectStore | None
) -> tuple[Study, bool]:
    """The study, and whether it is new; what it keeps at a URL is marked as its own. Only with the lock."""
    stored = folder.find()  # another driver may have made it, or added to it, before this one had the lock
    if stored is None:
        (folder.path / "space.yaml").write_text(settings.space.document.text, encoding="utf-8")
        if (source := settings.space.family_source) is not None and source.text is not None:
            (folder.path / Path(source.location).name).write_text(source.text, encoding="utf-8")
        study = Study.create(folder.open_storage(), folder.name, settings, trials=num_trials)
    else:
        Study.check_same(stored, settings)
        study = Study(stored, settings, trials=num_trials)
    if store is not None:
        claim_location(store, folder.name, study.stored.user_attrs["storage_id"])
    return study, stored is None


def _announce(study: Study, prepared: Prepared, options: RunOptions, console: Console, *, is_new: bool) -> None:
    """Say which presets are trained, how many trials there will be, and what holds for all of them."""
    space, assessment = study.space, prepared.assessment
    if is_new and assessment.reference_note:
        console.print(assessment.reference_note, style="yellow")
    for preset, why in study.skipped_presets.items():
        console.print(f"{space.whose} {preset!r} is left out: {why}", style="dim")
    for preset, other in study.same_presets.items():
        if preset not in study.skipped_presets:
            console.print(same_line(preset, other, space.whose), style="dim")
    few = few_line(study.count_launchable(), study.num_trials)
    how_many = counted(study.num_trials, "trial") if math.isfinite(study.num_trials) else f"until {options.until},"
    console.print(
        f"{study.name}: {how_many} up to {counted(study.rungs[-1], 'token')}; {prepared.slots}; "
        f"{assessment.share:.0%} of the space may be launched"
    )
    if (units := study.settings.units) is not None:
        console.print(equal_text_line(units, study.rungs[-1]), style="dim")
    if study.settings.budget.set:
        console.print(fixed_line(study.settings.budget), style="dim")
    if few:
        console.print(few, style="yellow")


def _run_trials(
    study: Study, folder: StudyFolder, slots: hardware.Slots, options: RunOptions, ends: float, console: Console
) -> bool:
    """Run trials until none is left or the time is up; True if a person interrupted it."""
    requests = Requests(study, folder, slots, seconds_to_hang(options.hang_minutes))
    location = location_of(folder.checkpoints, folder.name, study.settings.storage_path)
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
    return was_interrupted


def _tell_rejections(study: Study, assessment: Assessment, console: Console) -> None:
    """Say how many configurations were rejected before launch, and for which reason most of all."""
    if study.rejections:
        seen = [reason for reason in assessment.reasons if reason in study.rejections]  # the worst first
        reason = seen[0] if seen else study.rejections.most_common(1)[0][0]
        total = counted(study.rejections.total(), "configuration was", "configurations were")
        console.print(f"{total} rejected before launch, {study.rejections[reason]:,} for {reason}", style="dim")


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
