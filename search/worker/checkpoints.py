"""Where a study's checkpoints are: in a folder that all machines share, or at a URL that all of them reach.

A checkpoint is identified by its name at that location. A location can be written as text, to be sent to workers.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from search.worker.object_store import PATIENCE_SECONDS, ObjectStore, ObjectStoreError

OWNER = "study.json"  # names the study that owns the checkpoints at a URL, because several studies may share a name


def checkpoint_name(number: int) -> str:
    """The name of a trial's checkpoint."""
    return f"trial-{number}.pt"


class Checkpoints(Protocol):
    """A location of checkpoints; `str` gives it as text. Methods may raise ObjectStoreError, except for a folder."""

    def to_write(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A file to write a checkpoint to; the checkpoint is stored once the block has ended."""

    def to_read(self, name: str) -> contextlib.AbstractContextManager[Path | None]:
        """The file of a checkpoint until the block ends; None if there is none."""

    def exists(self, name: str) -> bool: ...

    def delete(self, name: str) -> None:
        """Delete a checkpoint if it exists."""

    def sizes(self) -> dict[str, int]:
        """Name and size in bytes of every file there."""


def location_of(folder: Path, name: str, storage_path: str) -> str:
    """The location of a study's checkpoints: at a URL, or if that is empty, in the study's checkpoint folder."""
    return f"{storage_path.rstrip('/')}/{name}/checkpoints" if storage_path else str(folder)


def is_owner(store: ObjectStore, name: str, study_id: str) -> bool:
    """Whether what is stored under a study's name belongs to this study; False if nothing is stored yet.

    Raises ObjectStoreError if it belongs to another study: each would take the other's checkpoints for its own.
    """
    if (content := store.read(f"{name}/{OWNER}")) is None:
        return False
    try:
        owner = json.loads(content)["id"]
    except (ValueError, LookupError, TypeError):
        owner = None
    if owner != study_id:
        raise ObjectStoreError(
            f"{store}/{name} is of another study of that name; choose another --name or --storage-path, or delete it"
        )
    return True


def claim_location(store: ObjectStore, name: str, study_id: str) -> None:
    """Reserve a study's name at the URL for this study. Raises ObjectStoreError as `is_owner` does."""
    if not is_owner(store, name, study_id):
        store.write(json.dumps({"id": study_id}).encode(), f"{name}/{OWNER}")


def checkpoints_at(
    location: str, *, patience_seconds: float = PATIENCE_SECONDS, on_wait: Callable[[float], None] | None = None
) -> Checkpoints:
    """The checkpoints at a location, as `str` wrote it, and for how long to retry if a URL does not answer."""
    if "://" in location:
        return StoredCheckpoints(ObjectStore(location, patience_seconds=patience_seconds, on_wait=on_wait))
    return FolderCheckpoints(Path(location))


class FolderCheckpoints:
    """Plain files in a folder; links and other entries are ignored."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __str__(self) -> str:
        return str(self._folder)

    @contextlib.contextmanager
    def to_write(self, name: str) -> Iterator[Path]:
        yield self._folder / name  # the trainer itself replaces the file atomically

    @contextlib.contextmanager
    def to_read(self, name: str) -> Iterator[Path | None]:
        for left in self._folder.glob(f"{name}.*.tmp"):
            left.unlink(missing_ok=True)  # by a worker that was killed while saving
        path = self._folder / name
        yield path if path.exists() else None

    def exists(self, name: str) -> bool:
        return (self._folder / name).exists()

    def delete(self, name: str) -> None:
        (self._folder / name).unlink(missing_ok=True)

    def sizes(self) -> dict[str, int]:
        found: dict[str, int] = {}
        if not self._folder.is_dir():
            return found
        with os.scandir(self._folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # a worker has just replaced or deleted it
                    continue
                if stat.S_ISREG(status.st_mode):
                    found[entry.name] = status.st_size
        return found


class StoredCheckpoints:
    """Objects at a URL, read and written through a temporary file of this machine."""

    def __init__(self, store: ObjectStore):
        self._store = store

    def __str__(self) -> str:
        return str(self._store)

    @contextlib.contextmanager
    def to_write(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="tinysearch-") as scratch:
            yield Path(scratch, name)
            self._store.put(Path(scratch, name), name)

    @contextlib.contextmanager
    def to_read(self, name: str) -> Iterator[Path | None]:
        with tempfile.TemporaryDirectory(prefix="tinysearch-") as scratch:
            file = Path(scratch, name)
            yield file if self._store.get(name, file) else None

    def exists(self, name: str) -> bool:
        return self._store.exists(name)

    def delete(self, name: str) -> None:
        self._store.delete(name)

    def sizes(self) -> dict[str, int]:
        return self._store.sizes("")
