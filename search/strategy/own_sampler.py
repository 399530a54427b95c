"""The user's own sampler: a class derived from optuna.samplers.BaseSampler, in a file or a module."""

from __future__ import annotations

from pathlib import Path

from optuna.samplers import BaseSampler

from trainer.families import own

EXAMPLE = "class MySampler(optuna.samplers.BaseSampler)"


def is_own(name: str) -> bool:
    """Whether the name of a sampler means a class: `./file.py:MySampler` or `package.module:MySampler`."""
    return ":" in name


def located(name: str, folder: Path) -> str:
    """The name with the absolute path of its file; other names as they are."""
    file, _, cls = name.rpartition(":")
    return f"{own.located(file, folder)}:{cls}" if file else name


def digest_at(name: str) -> str:
    """Identifies the text of the class that a name means, without running it. Raises ValueError."""
    return own.digest_of(own.read_text(name.rpartition(":")[0]))


def load_class(name: str) -> type[BaseSampler]:
    """The class that a name means. Runs its file. Raises ValueError."""
    place, _, cls = name.rpartition(":")
    module = own.module_of(place, own.read_text(place))
    found = getattr(module, cls, None)
    if found is None:
        theirs = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, BaseSampler)]
        there = f"; it has {', '.join(theirs)}" if theirs else f"; write {EXAMPLE}"
        raise ValueError(f"{place} has no class {cls}{there}")
    if not isinstance(found, type) or not issubclass(found, BaseSampler):
        raise ValueError(f"{place}: {cls} is not derived from optuna.samplers.BaseSampler; write {EXAMPLE}")
    return found
