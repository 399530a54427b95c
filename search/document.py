"""YAML text as plain values that remember their lines, so that every fault of a space can name its place.

PyYAML's safe composer parses; nothing is constructed from tags, and anchors are refused, so a file can neither run
code nor expand without bound.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Path_ = tuple[str | int, ...]  # keys and indices from the top of the document

MAX_BYTES = 1_000_000
MAX_DEPTH = 20

_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)?")
_COUNT = {"K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_BYTES = {f"{p}{b}": base**i for i, p in enumerate("KMGT", 1) for b, base in (("iB", 1024), ("B", 1000))}
_UNITS = {**_COUNT, **_BYTES, "%": 0.01}


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a file: where (a line, and the dotted name of the entry) and what."""

    message: str
    line: int | None = None
    where: str = ""

    def render(self, source: str) -> str:
        place = f"{source}:{self.line}" if self.line else source
        return f"{place}: {self.where + ': ' if self.where else ''}{self.message}"


class SpaceError(ValueError):
    """A space that cannot be used; `str()` is one line for each fault, with file and line."""

    def __init__(self, source: str, faults: list[Fault]):
        self.source = source
        self.faults = sorted(faults, key=lambda fault: fault.line or 0)
        super().__init__("\n".join(fault.render(source) for fault in self.faults))


@dataclass
class Document:
    """The values of one YAML file and the line of each entry."""

    source: str
    text: str
    value: Any
    lines: dict[Path_, int] = field(default_factory=dict)

    def fault(self, path: Path_, message: str) -> Fault:
        """A fault at `path`, or at the nearest entry above it that has a line."""
        at = path
        while at not in self.lines and at:
            at = at[:-1]
        return Fault(message, self.lines.get(at), ".".join(map(str, path)))


def read_document(path: str | Path) -> Document:
    """Read one YAML mapping. Raises SpaceError for a file that is missing, no text, no YAML, or no mapping."""
    source = str(path)
    try:
        raw = Path(path).read_bytes()
    except IsADirectoryError:
        raise SpaceError(source, [Fault("is a folder; give the space's YAML file")]) from None
    except OSError as error:
        raise SpaceError(source, [Fault((error.strerror or str(error)).lower())]) from None
    except ValueError as error:  # a null byte in the name
        raise SpaceError(source, [Fault(str(error))]) from None
    if len(raw) > MAX_BYTES:
        raise SpaceError(source, [Fault(f"{len(raw):,} bytes is no space; at most {MAX_BYTES:,} are read")])
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SpaceError(source, [Fault(f"byte {error.start} is not UTF-8", line)]) from None
    return parse_document(text, source)


def parse_document(text: str, source: str = "<space>") -> Document:
    """As `read_document`, for text that is already here."""
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SpaceError(
            source, [Fault(f"not YAML: {error.problem or error.context}", mark and mark.line + 1)]
        ) from None
    except (yaml.YAMLError, ValueError) as error:
        raise SpaceError(source, [Fault(f"not YAML: {error}")]) from None
    except RecursionError:
        raise SpaceError(source, [Fault("nested too deeply")]) from None
    document = Document(source, text, None)
    faults: list[Fault] = []
    if node is None:
        raise SpaceError(source, [Fault("is empty")])
    if not isinstance(node, yaml.MappingNode):
        raise SpaceError(source, [Fault("a space is a mapping, `family: ...` and so on", node.start_mark.line + 1)])
    document.value = _value(node, (), document, faults, set())
    if faults:
        raise SpaceError(source, faults)
    return document


def _value(node: yaml.Node, path: Path_, document: Document, faults: list[Fault], seen: set[int]) -> Any:
    line = node.start_mark.line + 1
    document.lines.setdefault(path, line)
    if id(node) in seen:
        faults.append(
            Fault("anchors and aliases are not supported; write the value again", line, ".".join(map(str, path)))
        )
        return None
    seen.add(id(node))
    if len(path) > MAX_DEPTH:
        faults.append(Fault(f"nested more than {MAX_DEPTH} deep", line))
        return None
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node, path, line, faults)
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*path, i), document, faults, seen) for i, child in enumerate(node.value)]
    values: dict[str, Any] = {}
    for key_node, child in node.value:
        key_line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            faults.append(Fault("a key must be a plain name", key_line, ".".join(map(str, path))))
            continue
        key = key_node.value
        if key in values:
            faults.append(Fault(f"{key!r} is given twice", key_line, ".".join(map(str, path))))
            continue
        document.lines[(*path, key)] = key_line
        values[key] = _value(child, (*path, key), document, faults, seen)
    return values


def _scalar(node: yaml.ScalarNode, path: Path_, line: int, faults: list[Fault]) -> Any:
    text = node.value
    if node.style is not None:  # quoted or block: always text
        return text
    lowered = text.lower()
    if lowered in ("", "~", "null"):
        return None
    if lowered in ("true", "false"):
        return lowered == "true"
    number = parse_number(text)
    if number is not None and isinstance(number, float) and not math.isfinite(number):
        faults.append(Fault(f"{text} is too large to be a number", line, ".".join(map(str, path))))
        return None
    return text if number is None else number


def parse_number(text: str) -> int | float | None:
    """`27M`, `12 GiB`, `1e-5`, `5 %` or a plain number as an int where it is whole; None for anything else.

    K, M, B and T count in thousands; KiB, MiB, GiB and TiB in 1024; KB, MB, GB and TB in 1000.
    """
    match = _NUMBER.match(text.strip())
    if not match or len(text) > 64:
        return None
    unit = text.strip()[match.end() :].strip()
    if unit and unit not in _UNITS:
        return None
    digits = match.group().replace("_", "")
    if not unit and re.fullmatch(r"[-+]?\d+", digits):
        return int(digits)
    value = float(digits) * _UNITS.get(unit, 1)
    if unit and unit != "%" and value.is_integer():
        return int(value)
    return value
