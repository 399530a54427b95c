"""Trains a study's leaders again with other seeds, one at a time, and stores every run as soon as it has ended.

Runs are stored as attributes of the study, because a finished trial takes no new ones. So they are as safe as the
study's record, and no search can run on a study while it is confirmed.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import optuna
from rich.console import Console
from rich.status import Status
from rich.text import Text

from search.confirm.confirmation import Confirmation, Run, number_text
from search.report.overview import Overview
from search.report.texts import is_number, seconds_text, tokens_text
from search.space.configurations import Identity, identity
from search.storage.folder import StudyError, StudyFolder
from search.study.comparable import unmeasurable
from search.study.record import TrialRecord, fully_trained
from search.study.settings import StudySettings
from search.study.text import check_text
from search.worker.alone import train_alone
from search.worker.messages import DIVERGED, FINISHED, TrialReport, TrialRequest
from trainer.checks import counted, printable

CONFIRMED = "confirmed"  # study attribute `confirmed <trial> <seed>`: a run, without its trial and seed
LASTING = (FINISHED, DIVERGED)  # would end the same way again; others may not: memory may be free, a bug fixed


def confirm_study(folder: StudyFolder, *, top: int, num_seeds: int, console: Console) -> Confirmation:
    """Train the `top` best finished trials and the reference, each with the `num_seeds` seeds after the search's.

    The search's seed is left out: its result chose the leaders. Stored runs are not repeated, and an interrupted one
    resumes from its checkpoint. Ctrl-C returns the runs so far. Raises StudyError if the study does not exist, if none
    of its trials has finished, if another driver has it, or if its text has changed.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.load()  # before the lock, which would create the folder
    with folder.lock():
        stored = folder.load()
        overview, settings = Overview.stored(stored, is_run=False), StudySettings.of(stored)
        if wrong := unmeasurable(settings.space, settings.budget, list(map(Path, settings.corpus["paths"]))):
            raise StudyError("\n".join(wrong))
        chosen = leaders(overview, top)
        if not chosen:
            raise StudyError("no trial has finished its budget yet; see `tinysearch status`")
        seeds = range(settings.seed + 1, settings.seed + 1 + num_seeds)
        # Seed by seed, so that an interrupted confirmation has runs of every trial.
        pairs = [(record, seed) for seed in seeds for record in chosen]
        runs = {
            (record.number, seed): run
            for record, seed in pairs
            if (run := _stored_run(stored, record, seed, overview.rungs[-1]))
        }
        missing = [(record, seed) for record, seed in pairs if (record.number, seed) not in runs]
        if missing:
            check_text(settings)
            console.print(_opening(overview, chosen, missing, num_seeds), style="dim")
            confirming = _Confirming(folder, stored, settings, overview, console)
            try:
                for record, seed in missing:
                    progress = f"[{len(runs) + 1}/{len(pairs)}]"
                    runs[record.number, seed] = confirming.train(record, seed, progress)
            except KeyboardInterrupt:
                pass
    return Confirmation(overview, chosen, seeds, list(runs.values()))


def leaders(overview: Overview, top: int) -> list[TrialRecord]:
    """The `top` best finished trials, best first, and the reference if it finished.

    A configuration that an older version trained twice counts once: as the reference, or as the better copy.
    """
    furthest = {record.number for record in fully_trained(overview.records)}
    finished = [r for r in overview.ranked() if r.number in furthest and is_number(r.measured(overview.metric))]
    first: dict[Identity, TrialRecord] = {}
    for record in finished:
        if first.setdefault(identity(record.values), record) is not record and record is overview.reference:
            first[identity(record.values)] = record  # replaces its better copy
    return [record for rank, record in enumerate(first.values()) if rank < top or record is overview.reference]


class _Confirming:
    """Trains one run after another and stores each in the study."""

    def __init__(
        self,
        folder: StudyFolder,
        stored: optuna.Study,
        settings: StudySettings,
        overview: Overview,
        console: Console,
    ):
        self._folder, self._stored, self._settings = folder, stored, settings
        self._overview, self._console = overview, console

    def train(self, record: TrialRecord, seed: int, progress: str) -> Run:
        """Train one run to its end, with as many threads as the trial had. Raises KeyboardInterrupt on Ctrl-C."""
        config = self._settings.train_config(record.values, num_threads=record.environment.get("num_threads"))
        # In the study's own folder, wherever the trials' checkpoints are: it resumes on this machine.
        checkpoint = self._folder.checkpoints / f"confirm-{record.number}-seed-{seed}.pt"
        request = TrialRequest(
            train=dataclasses.replace(config, seed=seed).to_dict(),
            study_rungs=tuple(self._settings.rungs),
            location=str(checkpoint.parent),
            family=self._settings.space.family_source,
            checkpoint=checkpoint.name,
        )
        name = f"trial {record.number}{f' ({record.preset})' if record.preset else ''}, seed {seed}"
        started = time.monotonic()
        with Status(Text(printable(name)), console=self._console) as status:

            def on_report(report: TrialReport) -> None:
                done, end = tokens_text(report.tokens), tokens_text(self._settings.rungs[-1])
                status.update(Text(f"{printable(name)}: {done} of {end} tokens  {progress}"))

            report = train_alone(request, on_report)
        if report.environment_error is not None:
            raise StudyError(f"{report.environment_error}; then the same command resumes")
        run = run_of(record.number, seed, report)
        if run.outcome in LASTING:
            kept = {key: value for key, value in dataclasses.asdict(run).items() if key not in ("trial", "seed")}
            self._stored.set_user_attr(_key(record, seed), kept)
        checkpoint.unlink(missing_ok=True)
        value = run.measurement.get(self._overview.metric)
        self._console.print(
            f"{name}: {f'{self._overview.metric} {number_text(value)}' if is_number(value) else run.outcome}  "
            f"{progress[:-1]}, {seconds_text(time.monotonic() - started)}]",
        )
        return run


def run_of(number: int, seed: int, report: TrialReport) -> Run:
    """The run that a worker's last report describes."""
    if report.outcome is not None:
        return Run(trial=number, seed=seed, outcome=report.outcome, reason=report.reason)
    measurement = dict(report.measurement or {})
    environment = measurement.pop("environment", {})
    return Run(trial=number, seed=seed, outcome=FINISHED, measurement=measurement, environment=environment)


def _key(record: TrialRecord, seed: int) -> str:
    return f"{CONFIRMED} {record.number} {seed}"


def _stored_run(stored: optuna.Study, record: TrialRecord, seed: int, end: int) -> Run | None:
    """A stored run; None if it has fewer tokens because the study was extended since."""
    kept = stored.user_attrs.get(_key(record, seed))
    if kept is None:
        return None
    try:
        run = Run(trial=record.number, seed=seed, **kept)
        return None if run.measurement.get("tokens", end) < end else run
    except (TypeError, AttributeError):
        raise StudyError(
            f"the study {stored.study_name} is damaged: its attribute {_key(record, seed)!r} is not a run: {kept!r:.60}"
        ) from None


def _opening(
    overview: Overview, chosen: Sequence[TrialRecord], missing: Sequence[tuple[TrialRecord, int]], num_seeds: int
) -> str:
    total = len(chosen) * num_seeds
    kept = f", {total - len(missing)} done already" if len(missing) < total else ""
    seconds = sum(record.measured("train_seconds") or 0 for record, _ in missing)
    left = f"; about {seconds_text(seconds)} at the search's speed" if seconds else ""
    return (
        f"{overview.name}: {counted(len(chosen), 'trial')} with {counted(num_seeds, 'other seed')} each, "
        f"{counted(total, 'run')}{kept}{left}"
    )
