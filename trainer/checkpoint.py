"""A training run on disk: written whole or not at all; refused if it is damaged or belongs to another run."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from trainer.config import TrainConfig
from trainer.families.registry import family_of

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)

# The file is this line, the payload's SHA-256 in hex on a second line, then the payload, as torch.save writes it.
MAGIC = b"tinysearch checkpoint 1\n"
HEADER_BYTES = len(MAGIC) + 65

# What may differ when a run resumes: its horizon, its device and number of threads, and the location of its text
# (the corpus digest is compared instead).
FREE_TO_DIFFER = ("rungs", "num_threads", "device", "cache_dir", "data", "token_dtype", "text_key", "skip_bad")
ABSENT_IF_NONE = ("eval_bytes",)  # fields that runs of earlier versions did not have


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message says which file and why."""


class SaveError(CheckpointError):
    """A checkpoint that could not be written: the run is fine, the location is not."""


def save_checkpoint(path: str | os.PathLike[str], contents: dict[str, Any]) -> None:
    """Write `contents` (tensors and plain values) so that a crash leaves the old file or the new one.

    If it cannot be written, raises SaveError and leaves the old file.
    """
    path = Path(path)
    buffer = io.BytesIO()
    torch.save(contents, buffer)
    payload = buffer.getbuffer()
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n")
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())  # without it, a power cut can leave the new name on an empty file
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        size = f"{len(payload) / 2**20:,.1f} MiB"
        advice = f"; it takes {size}: free some space there" if error.errno in NO_SPACE else ""
        raise SaveError(f"{path}: the checkpoint cannot be written: {error.strerror}{advice}") from error


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `save_checkpoint` wrote, tensors on the CPU. Raises CheckpointError for any other file."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: the checkpoint cannot be read: {error.strerror}") from None
    if not content.startswith(MAGIC):
        raise CheckpointError(f"{path}: not a checkpoint of this trainer; delete it or name another file")
    payload = content[HEADER_BYTES:]
    if hashlib.sha256(payload).hexdigest().encode() != content[len(MAGIC) : HEADER_BYTES - 1]:
        raise CheckpointError(f"{path}: the checkpoint is damaged or cut short; delete it to start again")
    try:
        contents = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # other bytes make torch raise almost anything; the hash is not a signature
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: not what this trainer writes: {reason}; delete it to start again") from None
    if not isinstance(contents, dict):
        raise CheckpointError(f"{path}: not what this trainer writes, but one {type(contents).__name__}; delete it")
    return contents


def identity(config: TrainConfig, corpus_digest: str) -> dict[str, Any]:
    """What two runs must share for one to resume from the other's checkpoint, as plain values by name."""
    run = config.to_dict()
    model = run.pop("model")
    left_out = {*FREE_TO_DIFFER, *(name for name in ABSENT_IF_NONE if run[name] is None)}
    kept = {name: value for name, value in run.items() if name not in left_out}
    if (source := (family := family_of(config.family)).source) is not None:  # wherever its file is
        kept |= {"family": family.name, "family_digest": source.digest}
    return {**kept, **model, "corpus": corpus_digest}


def require_same(path: str | os.PathLike[str], stored: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises CheckpointError, naming every difference, unless the two identities are equal."""
    differences = [
        f"{name} is {stored.get(name, 'absent')!r} there and {expected.get(name, 'absent')!r} here"
        for name in sorted({*stored, *expected})
        if stored.get(name) != expected.get(name)
    ]
    if differences:
        raise CheckpointError(f"{path}: the checkpoint belongs to another run: {'; '.join(differences)}")
