"""From a command's options to a running search: everything is checked before anything is written, then Ray starts."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console

from search import hardware
from search.display import Display
from search.feasibility import Assessment, assess
from search.grammar import BudgetSpec
from search.loading import load_space
from search.narrowing import narrow
from search.parameter import shown
from search.record import TrialRecord
from search.report import Overview, comparison_line, counts_line, finite, is_number, leading_line, wasted_line
from search.settings import StudySettings
from search.space import Space, extremes, rungs_of
from search.storage import StudyFolder
from search.study import Study
from search.trial import trial_request
from trainer.config import TrainConfig
from trainer.data import open_corpus


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What `tinysearch run` was asked to do."""

    space: Path
    name: str | None = None
    runs: Path = Path("runs")
    budget: str | None = None
    trials: str | None = None  # "40", or "+10" for ten more
    seed: int = 0
    goals: tuple[str, ...] = ()
    assignments: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()  # in place of the space's
    data: tuple[Path, ...] = ()
    token_dtype: str = "uint16"
    gpus_per_trial: float | None = None
    parallel: int | None = None
    address: str | None = None

    @property
    def study_name(self) -> str:
        """The study's name: the space's, with the budget's where one was named."""
        return self.name if self.name is not None else "-".join(filter(None, [self.space.stem, self.budget]))


def prepare_space(options: RunOptions) -> tuple[Space, BudgetSpec, Assessment]:
    """The space as asked for, its budget, and what may be launched. Raises SpaceError or ValueError."""
    space = load_space(options.space)
    budget = space.budget(options.budget)
    space = narrow(space, budget=budget, goals=options.goals, assignments=options.assignments, metrics=options.metrics)
    return space, budget, assess(space, budget)


def run_search(options: RunOptions, console: Console) -> Overview:
    """Start or continue the study and run it to its end.

    Returns its overview; one that is not complete was interrupted. Raises SpaceError, StudyError, ValueError (also the
    trainer's CorpusError and ConfigError) for what the user can mend, StudyFailed where every trial fails.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # a person watches the table, not Optuna's log
    folder = StudyFolder(options.runs.absolute(), options.study_name)
    number_of_trials(options.trials, None)
    hardware.check_shares(gpus_per_trial=options.gpus_per_trial, parallel=options.parallel)
    space, budget, assessment = prepare_space(options)
    folder.check_writable()
    existing = folder.load() if folder.exists else None

    with contextlib.ExitStack() as stack:
        slots = _slots(options, stack)
        settings = _settings(options, space, budget, slots, console)
        if existing is not None:
            Study.check_same(existing, settings)
        so_far = Overview.stored(existing, is_run=False) if existing is not None else None
        num_trials = number_of_trials(options.trials, so_far)
        if so_far is not None and so_far.is_complete and num_trials in (None, so_far.num_trials):
            return so_far
        stack.enter_context(folder.lock())
        if not options.address:
            stack.enter_context(tune().local_ray(hardware.num_cores(), hardware.num_gpus()))
        # All that can be refused has been: from here on the study is written.
        if existing is None:
            (folder.path / "space.yaml").write_text(space.document.text, encoding="utf-8")
            study = Study.create(folder.open_storage(), folder.name, settings, trials=num_trials)
        else:
            study = Study(folder.load(), settings, trials=num_trials)
        for preset, why in study.skipped_presets.items():
            console.print(f"the guide's {preset!r} is left out: {why}", style="dim")
        console.print(
            f"{folder.name}: {study.num_trials} trials up to {study.rungs[-1]:,} tokens; {slots}; "
            f"{assessment.share:.0%} of the space may be launched"
        )
        if budget.set:
            console.print(fixed_line(budget), style="dim")
        requests = _Requests(study, folder, slots)
        with Display(lambda: Overview.of(study), console=console) as display:
            tune().run_trials(study, slots, requests.request, _Pruning(display, folder))
        if study.rejections:
            reason, count = study.rejections.most_common(1)[0]
            console.print(
                f"{study.rejections.total():,} configurations were rejected before launch, {count:,} for {reason}",
                style="dim",
                markup=False,
            )
        return Overview.of(study)


def tune() -> Any:
    """The module search.tune, imported once it is needed: Ray takes seconds."""
    import search.tune

    return search.tune


def _slots(options: RunOptions, stack: contextlib.ExitStack) -> hardware.Slots:
    """What each trial gets: of the cluster that `--address` names, which is connected to here, or of this machine."""
    if options.address:
        num_cpus, num_gpus = stack.enter_context(tune().ray_cluster(options.address))
    else:
        num_cpus, num_gpus = hardware.num_cores(), hardware.num_gpus()
    return hardware.divide(num_cpus, num_gpus, gpus_per_trial=options.gpus_per_trial, parallel=options.parallel)


def _settings(
    options: RunOptions, space: Space, budget: BudgetSpec, slots: hardware.Slots, console: Console
) -> StudySettings:
    run: dict[str, Any] = {"token_dtype": options.token_dtype, "eval_tokens": budget.eval_tokens}
    if "precision" not in space.parameters:
        run["precision"] = hardware.precision(slots.gpus_per_trial)
    text = ", ".join(map(str, options.data)) or "the standard library of this Python"
    console.print(f"reading the text: {text}", style="dim")
    return StudySettings(
        space=space,
        budget=budget,
        budget_name=options.budget or "",
        seed=options.seed,
        goals=options.goals,
        assignments=options.assignments,
        run=run,
        corpus=corpus_of(space, [str(path.absolute()) for path in options.data], token_dtype=options.token_dtype),
    )


def fixed_line(budget: BudgetSpec) -> str:
    """What the budget sets, in a sentence."""
    fixed = ", ".join(f"{name} {shown(value)}" for name, value in budget.set.items())
    return f"in this budget every configuration, presets too, has {fixed}"


def number_of_trials(asked: str | None, so_far: Overview | None) -> int | None:
    """How many trials in total: `N`, or `+N` beyond those there are; None if nothing was asked. Raises ValueError."""
    if asked is None:
        return None
    try:
        number = int(asked)
    except ValueError:
        raise ValueError(f"--trials {asked}: give a number, or +N for N more") from None
    if number < 1:
        raise ValueError(f"--trials {asked} is no search; give at least 1")
    existing = len(so_far.records) if so_far else 0
    total = number + existing if asked.startswith("+") else number
    if total < existing:
        raise ValueError(f"--trials {asked}, but the study has {existing} already; give more, or +N for N more")
    return total


def summary(overview: Overview) -> list[str]:
    """The closing sentences of a search."""
    lines = [counts_line(overview.counts, overview.num_trials), comparison_line(overview)]
    lines += filter(None, [leading_line(overview), wasted_line(overview.records)])
    if not overview.is_complete:
        lines.append("interrupted; the same command goes on from here")
    return lines


def corpus_of(space: Space, paths: Sequence[str], *, token_dtype: str) -> dict[str, Any]:
    """What a study keeps of its text, which is read and cached for every vocabulary that the space may ask for."""
    vocabulary = space.parameters.get("vocab_size")
    sizes = (
        vocabulary.choices
        if vocabulary is not None and vocabulary.choices
        else (space.train_config(space.complete({}), rungs=(1,)).model.vocab_size,)
    )
    longest = space.parameters.get("seq_len")
    digests, about = [], ""
    for size in sizes:
        corpus = open_corpus(paths, vocab_size=int(size), token_dtype=token_dtype)
        if longest is not None:
            corpus.require(int(extremes(space, longest)[1]))
        digests.append(corpus.digest)
        about = about or corpus.about
    return {"paths": list(paths), "digest": "+".join(digests), "about": about}


def best_document(stored: optuna.Study) -> dict[str, Any] | None:
    """The best finished trial (by the first metric) for reuse; None where no trial has finished its budget.

    It has the parameters, the measurements, and under `train` what the trainer takes.
    """
    overview, settings = Overview.stored(stored, is_run=False), StudySettings.of(stored)
    return None if overview.best is None else _document(overview, settings, overview.best)


def front_documents(stored: optuna.Study) -> list[dict[str, Any]]:
    """As `best_document`, each trial of the front; the best by the first metric stands first."""
    overview, settings = Overview.stored(stored, is_run=False), StudySettings.of(stored)
    return [_document(overview, settings, record) for record in overview.front]


def _document(overview: Overview, settings: StudySettings, best: TrialRecord) -> dict[str, Any]:
    reference, compared = overview.reference, {}
    names = [metric.name for metric in overview.metrics]
    theirs = {} if reference is None else {name: reference.measured(name, best.rung) for name in names}
    if reference is not None and all(map(is_number, theirs.values())):
        compared = {"reference": {"preset": reference.preset, **theirs, "tokens": best.rung}}
    return {
        "study": overview.name,
        "trial": best.number,
        "preset": best.preset or None,
        "family": settings.space.family,
        "measurements": {name: finite(value) for name, value in best.measurements[best.rung].items()},
        **compared,
        "parameters": best.values,
        "train": train_config(settings, best.values, num_threads=best.environment.get("num_threads")).to_dict(),
    }


def train_config(settings: StudySettings, values: dict[str, Any], *, num_threads: int | None = None) -> TrainConfig:
    """What the trainer takes for a configuration of this study."""
    return settings.space.train_config(
        values,
        rungs=rungs_of(settings.budget),
        data=tuple(settings.corpus["paths"]),
        seed=settings.seed,
        num_threads=num_threads,
        **settings.run,
    )


class _Requests:
    """What is sent to a worker for each trial."""

    def __init__(self, study: Study, folder: StudyFolder, slots: hardware.Slots):
        self._settings, self._folder, self._slots = study.settings, folder, slots

    def request(self, number: int, values: dict[str, Any]) -> dict[str, Any]:
        config = train_config(self._settings, values, num_threads=self._slots.num_threads)
        return trial_request(
            train=config.to_dict(), checkpoint=self._folder.checkpoint(number), exclusive=self._slots.is_exclusive
        )


class _Pruning:
    """Passes events on, and deletes the checkpoint of a trial that nothing will continue."""

    def __init__(self, display: Display, folder: StudyFolder):
        self._display, self._folder = display, folder

    def on_event(self, kind: str, record: Any) -> None:
        if kind == "ended" and record.outcome != "finished":
            self._folder.checkpoint(record.number).unlink(missing_ok=True)
        self._display.on_event(kind, record)
