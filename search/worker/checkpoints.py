"""Where a study's checkpoints are: in a folder that all machines share, or at a URL that all of them reach.

A checkpoint is known by its name in its place. A place is written as text, for it is sent to workers.
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

OWNER = "study.json"  # says which of all studies of a name has its checkpoints at a URL


def checkpoint_name(number: int) -> str:
    """The checkpoint of a trial."""
    return f"trial-{number}.pt"


class Checkpoints(Protocol):
    """A place of checkpoints; `str` is how it is written. All but the folder's own raise ObjectStoreError."""

    def to_write(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """A file to write a checkpoint to, which is in its place once the block has ended."""

    def to_read(self, name: str) -> contextlib.AbstractContextManager[Path | None]:
        """The file of a checkpoint for as long as the block lasts; None where there is none."""

    def exists(self, name: str) -> bool: ...

    def delete(self, name: str) -> None:
        """Delete a checkpoint, if it is there."""

    def sizes(self) -> dict[str, int]:
        """Every file there by its name, in bytes."""


def location_of(folder: Path, name: str, storage_path: str) -> str:
    """Where a study of this name has its checkpoints: at a URL, or if that is empty, in its folder for them."""
    return f"{storage_path.rstrip('/')}/{name}/checkpoints" if storage_path else str(folder)


def is_owner(store: ObjectStore, name: str, study_id: str) -> bool:
    """Whether what is kept under a study's name is this study's own; False where nobody has it yet.

    Raises ObjectStoreError where it is another's: each would take the other's checkpoints for its own.
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
    """Keep what is under a study's name for this study from now on. Raises ObjectStoreError as `is_owner` does."""
    if not is_owner(store, name, study_id):
        store.write(json.dumps({"id": study_id}).encode(), f"{name}/{OWNER}")


def checkpoints_at(
    place: str, *, patience_seconds: float = PATIENCE_SECONDS, on_wait: Callable[[float], None] | None = None
) -> Checkpoints:
    """The checkpoints of a place, as `str` wrote it; for how long a URL is asked that does not answer."""
    if "://" in place:
        return StoredCheckpoints(ObjectStore(place, patience_seconds=patience_seconds, on_wait=on_wait))
    return FolderCheckpoints(Path(place))


class FolderCheckpoints:
    """Plain files in a folder; links and other things in it are not looked at."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __str__(self) -> str:
        return str(self._folder)

    @contextlib.contextmanager
    def to_write(self, name: str) -> Iterator[Path]:
        yield self._folder / name  # the trainer itself replaces the file at once

    @contextlib.contextmanager
    def to_read(self, name: str) -> Iterator[Path | None]:
        for left in self._folder.glob(f"{name}.*.tmp"):
            left.unlink(missing_ok=True)  # by a worker that was killed while it saved
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
    """Objects below a URL; what is read or written passes through a file of this machine."""

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
