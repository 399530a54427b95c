"""Finds a family by its name: one of the folders here, or a user's file or module.

A configuration names its family so that every process finds it: by a folder's name, a file's absolute path, or a
module's name. A file is loaded once per process and identified by the digest of its text.
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

from trainer.checks import unknown_name
from trainer.families.family import Family, Run, Source
from trainer.families.own import FamilyError, digest_of, is_own, loaded, read_text

BUILT_IN = tuple(sorted(path.parent.name for path in Path(__file__).parent.glob("*/family.py")))
"""The trainer's own families."""

_own: dict[str, Family] = {}  # by location


def family_of(word: str) -> Family:
    """The family that a configuration names; a user's own family as this process loaded it first.

    Raises FamilyError for an unknown name, and for a file or module without a family.
    """
    if word in BUILT_IN:
        return _built_in(word)
    if not is_own(word):
        remedy = " A file of your own is named with its ending, as ./file.py." if "/" in word else ""
        raise FamilyError(unknown_name("family", word[:60], BUILT_IN) + remedy)
    return _own[word] if word in _own else load(word)


def load(location: str) -> Family:
    """The family of a file or module as it is now: a file that has changed since is loaded again.

    Raises FamilyError.
    """
    is_module = not location.endswith(".py")
    if is_module and location in _own:  # Python imports a module once
        return _own[location]
    return _take(location, read_text(location))


def reopen(location: str, digest: str) -> str:
    """The name of a family that had this digest. Raises FamilyError, and runs no code, if nothing has it now.

    It is the file or module at its location, or one that this process loaded from elsewhere, because it may have moved.
    """
    for word in _own:
        if word != location and _digest(word) == digest:
            return word
    text = read_text(location)
    if (now := digest_of(text)) != digest:
        raise FamilyError(f"{location} has changed: its digest was {digest}, it is {now} now")
    _take(location, text)
    return location


def receive(sent: Source) -> str:
    """In a worker: use the family that the driver uses. Returns why that is impossible; empty if it is not.

    A file that does not exist on this machine is loaded from the text that the driver sent.
    """
    if _digest(sent.location) == sent.digest:
        return ""
    try:
        try:
            here = read_text(sent.location)
        except FamilyError:
            if sent.text is None:
                raise
            here = sent.text
        if (found := digest_of(here)) != sent.digest:
            return (
                f"a worker reads another family from {sent.location}: its digest is {found} there and {sent.digest} "
                "here; make them equal"
            )
        _take(sent.location, here)
    except FamilyError as error:
        return f"a worker cannot use the family: {error}"
    return ""


def build(run: Run) -> Any:
    """A freshly initialised model for a training run, on the CPU, from torch's global generator."""
    return family_of(run.family).build(run.model)


@functools.cache
def _built_in(name: str) -> Family:
    return importlib.import_module(f"trainer.families.{name}.family").FAMILY


def _take(location: str, text: str) -> Family:
    """The family with that text, loaded unless it is loaded already."""
    if _digest(location) != digest_of(text):
        _own[location] = loaded(location, text)
    return _own[location]


def _digest(location: str) -> str:
    """The digest of the text that this process has loaded from there; empty if it has not."""
    known = _own.get(location)
    return "" if known is None or known.source is None else known.source.digest
