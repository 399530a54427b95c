"""What a study keeps on the disk beside its storage, and what of it nothing needs any more.

A checkpoint is needed by a trial that will go on, by the best trial and the front, and by a confirmation that was
interrupted. Those of the other finished trials are kept too until they are asked for, since they are what a search to
more tokens starts from. Only plain files in the study's own checkpoint folder, with names that tinysearch gives, are
ever looked at.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from search.confirm import CONFIRMED
from search.record import FINISHED
from search.report import Overview, bytes_text
from search.storage import StudyError, StudyFolder
from search.watchdog import TRACE_SUFFIX

_CHECKPOINT = re.compile(r"trial-(\d+)\.pt")
_CONFIRMING = re.compile(r"confirm-(\d+)-seed-(\d+)\.pt")
_LEFT_OVER = re.compile(rf"(trial-\d+|confirm-\d+-seed-\d+)(\.pt\.\d+\.tmp|{re.escape(TRACE_SUFFIX)})")


@dataclass(frozen=True)
class Unneeded:
    """A file that nothing needs, and why."""

    path: Path
    num_bytes: int
    why: str


def disk_line(folder: StudyFolder) -> str:
    """`checkpoints: 14 files, 1.2 GiB`; empty where there are none."""
    sizes = [size for _, size in _files(folder)]
    return f"checkpoints: {len(sizes)} file{'' if len(sizes) == 1 else 's'}, {bytes_text(sum(sizes))}" if sizes else ""


def clean_study(folder: StudyFolder, *, with_finished: bool, is_dry_run: bool) -> list[Unneeded]:
    """Delete what nothing needs, and return it; a dry run only returns it.

    `with_finished` counts finished trials among it that are neither the best nor on the front. Raises StudyError while
    a driver runs the study, or where its checkpoint folder lies elsewhere.
    """
    folder.load()  # before the lock, which would make the folder
    place = folder.checkpoints
    if place.resolve() != folder.path.resolve() / place.name:
        raise StudyError(f"{place} leads out of the study's folder, to {place.resolve()}; nothing there is touched")
    with folder.lock():
        stored = folder.load()
        overview = Overview.stored(stored, is_run=False)
        confirmed = {key for key in stored.user_attrs if key.startswith(f"{CONFIRMED} ")}
        found = [
            Unneeded(path, size, why)
            for path, size in _files(folder)
            if (why := _why_unneeded(path.name, overview, confirmed, with_finished=with_finished))
        ]
        if not is_dry_run:
            for file in found:
                file.path.unlink()
        return found


def _files(folder: StudyFolder) -> Iterator[tuple[Path, int]]:
    """The plain files of the checkpoint folder by name, with their sizes."""
    if not folder.checkpoints.is_dir():
        return
    with os.scandir(folder.checkpoints) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            try:
                status = entry.stat(follow_symlinks=False)
            except FileNotFoundError:  # a worker has just replaced or deleted it
                continue
            if stat.S_ISREG(status.st_mode):
                yield Path(entry.path), status.st_size


def _why_unneeded(name: str, overview: Overview, confirmed: set[str], *, with_finished: bool) -> str:
    """Why nothing needs the file of this name; empty where something does, or it is none of ours."""
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
        return "another trial has gone on from it" if overview.is_complete else ""
    if record.outcome != FINISHED:
        return record.outcome
    return "finished, and others are better" if with_finished else ""
