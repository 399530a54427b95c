"""The sampler and the early stopping of a search: the command line's, or else the space's; checked before it starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from search.driver.options import RunOptions
from search.space.document import SpaceError
from search.space.space import Space
from search.space.spec import BudgetSpec, Named
from search.storage.folder import StudyError
from search.strategy.own_sampler import digest_at, is_own, located
from search.strategy.samplers import search_faults
from search.study.settings import StudySettings


def chosen(options: RunOptions, space: Space, budget: BudgetSpec) -> tuple[Named, Named]:
    """The sampler and the stopping. Raises SpaceError, or ValueError for what the command line says.

    A name on the command line that the space has too keeps the space's options. The file of one's own sampler is
    relative to the space, or to the current folder if the command line names it.
    """
    search = space.spec.search
    folder = Path(space.document.source).parent
    sampler = _chosen(replace(search.sampler, name=located(search.sampler.name, folder)), options.sampler)
    stopping = _chosen(search.stopping, options.stopping)
    faults = []
    for path, message in search_faults(sampler, stopping, space, budget):
        asked = getattr(options, path[0])
        if asked is not None and (len(path) == 1 or ("search", *path) not in space.document.lines):
            raise ValueError(f"--{path[0]} {asked}: {message}")
        faults.append(space.document.fault(("search", *path), message))
    if faults:
        raise SpaceError(space.document.source, faults)
    return sampler, stopping


def _chosen(written: Named, asked: str | None) -> Named:
    """The space's choice, unless the command line names another."""
    name = written.name if asked is None else located(asked.strip(), Path())
    return written if name == written.name else Named(name)


def with_choice(settings: StudySettings, choice: tuple[Named, Named]) -> StudySettings:
    """The settings of a study with this sampler and this stopping."""
    sampler, stopping = choice
    digest = digest_at(sampler.name) if is_own(sampler.name) else ""
    return replace(settings, sampler=sampler, stopping=stopping, sampler_digest=digest)


def check_sampler(before: StudySettings) -> None:
    """Raises StudyError if the study's own sampler is not what it was; before any of it runs."""
    if not is_own(before.sampler.name):
        return
    place = before.sampler.name.rpartition(":")[0]
    try:
        now = digest_at(before.sampler.name)
    except ValueError as error:
        raise StudyError(f"the sampler of the study is gone: {error}; bring it back") from None
    if now != before.sampler_digest:
        raise StudyError(
            f"{place} is not the sampler that the study began with (digest {before.sampler_digest} then, {now} now); "
            "bring back what it was, or give a new search another --name"
        )
