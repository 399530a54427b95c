"""The user's own family: one file, or one module, with a config, an nn.Module and a descriptor."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.util
import linecache
import sys
import traceback
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.checks import ConfigError
from trainer.families.family import Cost, Family, ModelConfig, Source
from trainer.fields import field_types

EXAMPLE = 'FAMILY = Family(name="mine", config=MyConfig, build=MyModel)'


class FamilyError(ConfigError):
    """A family that cannot be used; the message says which, where, and what to do."""


def is_own(word: str) -> bool:
    """Whether the name of a family means a file (`./mine.py`) or a module (`package.module`)."""
    return word.endswith(".py") or ("." in word and all(part.isidentifier() for part in word.split(".")))


def located(word: str, folder: Path) -> str:
    """The location that a family's name means in `folder`: an absolute path, or a module's name."""
    return str((folder / word).absolute()) if word.endswith(".py") else word


def digest_of(text: str) -> str:
    """Identifies a family by its text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_text(location: str) -> str:
    """The text of a family's file or module. Raises FamilyError."""
    path = Path(location) if location.endswith(".py") else _file_of(location)
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise FamilyError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:  # not UTF-8, or a null byte in the name
        raise FamilyError(f"{path}: {error}") from None


def loaded(location: str, text: str) -> Family:
    """The family of a file with this text, or of a module. Runs its code. Raises FamilyError."""
    module = module_of(location, text)
    found = {name: value for name, value in vars(module).items() if isinstance(value, Family)}
    if not found:
        raise FamilyError(f"{location} has no descriptor; write {EXAMPLE} at its end")
    if len({id(family) for family in found.values()}) > 1:
        raise FamilyError(f"{location} has {len(found)} descriptors, {', '.join(found)}; keep one")
    family = next(iter(found.values()))
    if fault := _fault_of(family):
        raise FamilyError(f"{location}: {fault}")
    kept = text if location.endswith(".py") else None
    return dataclasses.replace(family, source=Source(location=location, digest=digest_of(text), text=kept))


@contextlib.contextmanager
def answering_for(family: Family) -> Iterator[None]:
    """Turns errors from the code of a user's own family into a FamilyError that says where; a ConfigError stays."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        if family.source is None:
            raise
        raise FamilyError(error_line(error, family.source.location)) from None


def error_line(error: BaseException, location: str) -> str:
    """An exception from a family's code in one line, with its line in the family's file if it was raised there."""
    file = location if location.endswith(".py") else getattr(sys.modules.get(location), "__file__", location)
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{file}:{error.lineno}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f"{file}:{lines[-1]}" if lines else location
    return f"{where}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _file_of(module: str) -> Path:
    """The file of a module. Raises FamilyError if it cannot be imported."""
    try:
        spec = importlib.util.find_spec(module)
    except (Exception, SystemExit) as error:  # importing a package runs its code
        raise FamilyError(f"the module {module} cannot be imported: {type(error).__name__}: {error}") from None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise FamilyError(f"there is no module {module}; a file is named as ./file.py, relative to the space")
    return Path(spec.origin)


def module_of(location: str, text: str) -> types.ModuleType:
    """The module of a file with this text, or of a module's name. Runs its code. Raises FamilyError."""
    return _run(location, text) if location.endswith(".py") else _imported(location)


def _run(location: str, text: str) -> types.ModuleType:
    """A module with that text. Its name is unique, so that a changed text is another module."""
    module = types.ModuleType(f"tinysearch_own_{digest_of(text)}")
    module.__file__ = location
    linecache.cache[location] = (len(text), None, text.splitlines(keepends=True), location)  # for tracebacks
    sys.modules[module.__name__] = module  # dataclasses look here to resolve annotations
    try:
        exec(compile(text, location, "exec"), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[module.__name__]
        raise FamilyError(error_line(error, location)) from None
    return module


def _imported(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise FamilyError(f"the module {name} cannot be imported: {type(error).__name__}: {error}") from None


def _fault_of(family: Any) -> str:
    """What is wrong with a Family, whose fields may be anything, in a sentence; empty if it is valid."""
    config = family.config
    if not isinstance(family.name, str) or not family.name.isidentifier():
        return f"the descriptor's name {family.name!r} is not a valid name; use letters, digits and _"
    if not isinstance(config, type) or not issubclass(config, ModelConfig) or not _is_frozen(config):
        name, example = (config.__name__,) * 2 if isinstance(config, type) else (f"{config!r:.60}", "MyConfig")
        return (
            f"the config {name} is not a frozen dataclass derived from ModelConfig; write "
            f"@dataclass(frozen=True, kw_only=True) above class {example}(ModelConfig)"
        )
    if not callable(family.build):
        return f"build is {family.build!r:.60}, which cannot be called with a config"
    if family.cost is not None and not isinstance(family.cost, Cost):
        return f"cost is {family.cost!r:.60}, not a Cost; leave it out to have the parameters counted"
    config = family.config  # a dataclass; the check above only knows its base
    try:
        types_ = field_types(config)
    except Exception as error:  # an annotation can raise anything
        return f"the types of {config.__name__} cannot be read: {type(error).__name__}: {error}"
    names = [field.name for field in dataclasses.fields(config)]
    if "vocab_size" not in names:
        return f"{config.__name__} has no field vocab_size, the number of tokens that the model must know"
    if wrong := [name for name in names if not _is_plain(types_[name])]:
        return f"{config.__name__}.{wrong[0]} is not an int, float, str or bool, or one of these or None"
    return ""


def _is_frozen(config: type) -> bool:
    parameters: Any = vars(config).get("__dataclass_params__")
    return parameters is not None and parameters.frozen


def _is_plain(hint: Any) -> bool:
    is_union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    kinds = [kind for kind in (typing.get_args(hint) if is_union else (hint,)) if kind is not types.NoneType]
    return len(kinds) == 1 and kinds[0] in (int, float, str, bool)
