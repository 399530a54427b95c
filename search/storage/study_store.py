"""The study store that a command uses: the database that it names, or else journal files."""

from __future__ import annotations

from pathlib import Path

from search.storage.folder import JournalFiles, StudyStore


def study_store(url: str | None, runs: Path) -> StudyStore:
    """The database at `url`; without a URL, the journal files in `runs`. Raises StudyError."""
    if not url:
        return JournalFiles(runs)
    from search.storage.database import Database  # with SQLAlchemy, which takes a quarter of a second

    return Database(url)
