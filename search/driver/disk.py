"""What a study stores besides its record, on disk or at a URL, and which of it nothing needs any more.

A checkpoint is needed by a trial that may resume, by the best trial and the front, and by an interrupted confirmation.
Other finished trials keep theirs until `--all` deletes them, because a search extended to more tokens starts from them.
Only plain files in the study's own locations, with names that tinysearch gives, are considered.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import optuna

from search.confirm.training import CONFIRMED
from search.report.overview import Overview
from search.report.texts import bytes_text
from search.storage.folder import StudyError, StudyFolder
from search.study.settings import storage_path_of
from search.worker.checkpoints import Checkpoints, FolderCheckpoints, checkpoints_at, is_owner, location_of
from search.worker.messages import FINISHED
from search.worker.object_store import ObjectStore, ObjectStoreError
from search.worker.watchdog import TRACE_SUFFIX
from trainer.checks import counted

_CHECKPOINT = re.compile(r"trial-(\d+)\.pt")
_CONFIRMING = re.compile(r"confirm-(\d+)-seed-(\d+)\.pt")
_LEFT_OVER = re.compile(rf"(trial-\d+|confirm-\d+-seed-\d+)(\.pt\.\d+\.tmp|{re.escape(TRACE_SUFFIX)})")


@dataclass(frozen=True)
class Unneeded:
    """A file that nothing needs, and why."""

    location: Checkpoints
    name: str
    num_bytes: int
    why: str

    @property
    def path(self) -> str:
        return f"{self.location}/{self.name}"


def disk_line(folder: StudyFolder, stored: optuna.Study) -> str:
    """`checkpoints: 14 files, 1.2 GiB`, and where, if not in the study's folder; empty if there are none."""
    lines = [_line(FolderCheckpoints(folder.checkpoints).sizes(), "")]
    try:
        lines += [_line(location.sizes(), f" in {location}") for location in _locations(folder, stored)[1:]]
    except ObjectStoreError as error:  # a reader of a study need not be able to reach everything that its workers reach
        lines.append(f"checkpoints: {error}")
    return "\n".join(filter(None, lines))


def _line(sizes: dict[str, int], where: str) -> str:
    return f"checkpoints{where}: {counted(len(sizes), 'file')}, {bytes_text(sum(sizes.values()))}" if sizes else ""


def clean_study(folder: StudyFolder, *, with_finished: bool, is_dry_run: bool) -> list[Unneeded]:
    """Delete what nothing needs, and return it; a dry run only returns it.

    `with_finished` includes finished trials that are neither the best nor on the front. Raises StudyError if a driver
    runs the study or if its checkpoint folder is a link to elsewhere; and ObjectStoreError.
    """
    folder.load()  # before the lock, which would create the folder
    location = folder.checkpoints
    if location.resolve() != folder.path.resolve() / location.name:
        raise StudyError(f"{location} leads out of the study's folder, to {location.resolve()}; it is left alone")
    with folder.lock():
        stored = folder.load()
        overview = Overview.stored(stored, is_run=False)
        if url := storage_path_of(stored):
            is_owner(ObjectStore(url, patience_seconds=0), folder.name, stored.user_attrs.get("storage_id", ""))
        confirmed = {key for key in stored.user_attrs if key.startswith(f"{CONFIRMED} ")}
        found = [
            Unneeded(location, name, size, why)
            for location in _locations(folder, stored)
            for name, size in location.sizes().items()
            if (why := _why_unneeded(name, overview, confirmed, with_finished=with_finished))
        ]
        if not is_dry_run:
            for file in found:
                file.location.delete(file.name)
        return found


def _locations(folder: StudyFolder, stored: optuna.Study) -> list[Checkpoints]:
    """The study's own folder, which confirmations always use, and then the location of its trials' checkpoints."""
    own = FolderCheckpoints(folder.checkpoints)
    if not (url := storage_path_of(stored)):
        return [own]
    return [own, checkpoints_at(location_of(folder.checkpoints, folder.name, url), patience_seconds=0)]


def _why_unneeded(name: str, overview: Overview, confirmed: set[str], *, with_finished: bool) -> str:
    """Why nothing needs the file of this name; empty if something does, or if tinysearch did not write it."""
    if _LEFT_OVER.fullmatch(name):
        return "left over by a worker that was lost"
    if match := _CONFIRMING.fullmatch(name):
        return "confirmed already" if f"{CONFIRMED} {match[1]} {match[2]}" in confirmed else ""
    if not (match := _CHECKPOINT.fullmatch(name)):
        return ""
    number = int(match[1])
    record = next((r for r in [*overview.records, *overview.continued] if r.number == number), None)
    if record is None:
        return "of no trial of this study"
    leaders = [overview.best, *(overview.front if len(overview.metrics) > 1 else [])]
    if not record.has_ended or record in leaders:
        return ""
    if record in overview.continued:
        return "another trial continued it" if overview.is_complete else ""
    if record.outcome != FINISHED:
        return record.outcome
    return "finished, and others are better" if with_finished else ""
