"""The user's own sampler: a class derived from optuna.samplers.BaseSampler, in a file or a module."""

from __future__ import annotations

import importlib
import linecache
import sys
import types
from pathlib import Path

from optuna.samplers import BaseSampler

from trainer.families.own import FamilyError, digest_of, error_line, read_text

EXAMPLE = "class MySampler(optuna.samplers.BaseSampler)"


def is_own(name: str) -> bool:
    """Whether the name of a sampler means a class: `./file.py:MySampler` or `package.module:MySampler`."""
    return ":" in name


def located(name: str, folder: Path) -> str:
    """The name with the absolute path of its file; other names as they are."""
    file, _, cls = name.rpartition(":")
    return f"{(folder / file).absolute()}:{cls}" if file.endswith(".py") else name


def digest_at(name: str) -> str:
    """Identifies the text of the class that a name means, without running it. Raises ValueError."""
    return digest_of(_text(name))


def load_class(name: str) -> type[BaseSampler]:
    """The class that a name means. Runs its file. Raises ValueError."""
    place, _, cls = name.rpartition(":")
    text = _text(name)
    module = _run(place, text) if place.endswith(".py") else _imported(place)
    found = getattr(module, cls, None)
    if found is None:
        own = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, BaseSampler)]
        there = f"; it has {', '.join(own)}" if own else f"; write {EXAMPLE}"
        raise ValueError(f"{place} has no class {cls}{there}")
    if not isinstance(found, type) or not issubclass(found, BaseSampler):
        raise ValueError(f"{place}: {cls} is not derived from optuna.samplers.BaseSampler; write {EXAMPLE}")
    return found


def _text(name: str) -> str:
    try:
        return read_text(name.rpartition(":")[0])
    except FamilyError as error:
        raise ValueError(str(error)) from None


def _run(place: str, text: str) -> types.ModuleType:
    """A module with that text; a changed text is another module."""
    module = types.ModuleType(f"tinysearch_sampler_{digest_of(text)}")
    module.__file__ = place
    linecache.cache[place] = (len(text), None, text.splitlines(keepends=True), place)  # for tracebacks
    sys.modules[module.__name__] = module  # dataclasses look here to resolve annotations
    try:
        exec(compile(text, place, "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise ValueError(error_line(error, place)) from None
    return module


def _imported(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise ValueError(f"the module {name} cannot be imported: {type(error).__name__}: {error}") from None
