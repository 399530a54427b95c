"""Which archive a command is about: the database that it names, or journal files."""

from __future__ import annotations

from pathlib import Path

from search.storage.folder import Archive, JournalFiles


def archive_at(url: str | None, runs: Path) -> Archive:
    """The database at `url`; journal files in `runs` without one. Raises StudyError."""
    if not url:
        return JournalFiles(runs)
    from search.storage.database import Database  # with SQLAlchemy, which takes a quarter of a second

    return Database(url)
