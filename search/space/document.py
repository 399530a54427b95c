"""YAML text as plain values that remember their lines, so that every fault of a space has a line.

The values are built from PyYAML's parse events. Tags construct nothing, aliases are refused and depth is bounded, so a
file can neither run code nor expand without bound.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

Path_ = tuple[str | int, ...]  # keys and indices from the top of the document

MAX_BYTES = 64 * 1024  # PyYAML reads about 100 kB in a second; the largest guide so far is 9 kB
MAX_DEPTH = 12
MAX_FAULTS = 40
MAX_NUMBER = 2**53  # whole numbers up to here are exact as floats

_COUNTS = {"K": 10**3, "M": 10**6, "B": 10**9, "G": 10**9, "T": 10**12}
_BYTES = {f"{p}{b}": base**i for i, p in enumerate("KMGT", 1) for b, base in (("iB", 1024), ("B", 1000))}
_UNITS = {unit.lower(): factor for unit, factor in {**_COUNTS, **_BYTES, "%": Decimal("0.01")}.items()}


def _in_any_case(unit: str) -> str:
    """A pattern for a unit that people write in capitals or not: `27m`, `12gb`."""
    return "".join(f"[{letter}{letter.upper()}]" if letter.isalpha() else letter for letter in unit)


_DIGITS = r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?"
_UNIT = "|".join(_in_any_case(unit) for unit in sorted(_UNITS, key=len, reverse=True))
_BASED = "[-+]?0([xX](_?[0-9a-fA-F])+|[oO](_?[0-7])+|[bB](_?[01])+)"  # 0x10, as in YAML and Python
NUMBER_PATTERN = f"({_BASED}|{_DIGITS} *({_UNIT})?)"
"""A number as users write it; the JSON schema has the same pattern."""

_DECIMAL, _INTEGER = re.compile(f"({_DIGITS}) *({_UNIT})?"), re.compile(_BASED)
_TAGS = {f"tag:yaml.org,2002:{name}": name for name in ("int", "float", "str", "bool", "null")} | {"!": "str"}
"""Tags that say what a plain YAML reader would read anyway; other tags could construct anything."""


@dataclass(frozen=True)
class Fault:
    """A fault of a file: where (a line, and the dotted name of the entry) and what."""

    message: str
    line: int | None = None
    where: str = ""

    def render(self, source: str) -> str:
        place = f"{source}:{self.line}" if self.line else source
        text = f"{place}: {self.where + ': ' if self.where else ''}{self.message}"
        return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)  # a key may contain a line break


class SpaceError(ValueError):
    """A space that cannot be used; `str()` has a line for each fault, with file and line."""

    def __init__(self, source: str, faults: list[Fault]):
        self.source = source
        self.faults = sorted(faults, key=lambda fault: fault.line or math.inf)
        super().__init__("\n".join(fault.render(source) for fault in self.faults))


@dataclass
class Document:
    """The values of one YAML file and the line of each entry."""

    source: str
    text: str
    value: Any = None
    lines: dict[Path_, int] = field(default_factory=dict)

    def fault(self, path: Path_, message: str) -> Fault:
        """A fault at `path`, or at the nearest entry above it that has a line."""
        at = path
        while at not in self.lines and at:
            at = at[:-1]
        return Fault(message, self.lines.get(at), ".".join(_clipped(str(part), 40) for part in path))


class Faults:
    """The faults found so far in one document."""

    def __init__(self, document: Document):
        self.document = document
        self.unread: list[Path_] = []  # entries whose value could not be read; other faults there only follow from that
        self._found: dict[Fault, Path_] = {}

    def add(self, message: str, *path: str | int) -> None:
        """Report a fault at `path`. Raises SpaceError at the MAX_FAULTS-th, so that every file is refused quickly."""
        if self.is_unread(*path):
            return
        self._found.setdefault(self.document.fault(path, message), path)
        if len(self._found) >= MAX_FAULTS:
            self._found[Fault(f"and perhaps more; these are the first {MAX_FAULTS} faults")] = ()
            self.check()

    def is_unread(self, *path: str | int) -> bool:
        """Whether the entry at `path`, or one above it, could not be read."""
        return any(path[: len(unread)] == unread for unread in self.unread)

    def seal(self) -> None:
        """From now on, report nothing more about entries that have faults."""
        self.unread = list(dict.fromkeys(self._found.values()))

    def within(self, *path: str | int) -> bool:
        """Whether there is a fault at `path` or below."""
        return any(found[: len(path)] == path for found in self._found.values())

    def check(self) -> None:
        """Raises SpaceError if there are faults."""
        if self._found:
            raise SpaceError(self.document.source, list(self._found))


def read_text(path: str | Path) -> str:
    """A file's text. Raises SpaceError if it is missing, not text, or too large for a space."""
    source = str(path)
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        raise SpaceError(source, [Fault("is a folder; give the space's YAML file")]) from None
    except OSError as error:
        raise SpaceError(source, [Fault((error.strerror or str(error)).lower())]) from None
    except ValueError as error:  # a null byte in the name
        raise SpaceError(source, [Fault(str(error))]) from None
    try:
        text = raw[:MAX_BYTES].decode("utf-8", errors="strict" if len(raw) <= MAX_BYTES else "ignore")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise SpaceError(source, [Fault(f"byte {error.start} is not UTF-8", line)]) from None
    if len(raw) > MAX_BYTES:
        raise SpaceError(source, [Fault(f"is larger than {MAX_BYTES:,} bytes, too large for a space")])
    return text


def read_document(path: str | Path) -> Document:
    """Read one YAML mapping. Raises SpaceError if the file is missing, or is not text, YAML or a mapping."""
    return parse_document(read_text(path), str(path))


def parse_document(text: str, source: str = "<space>") -> Document:
    """As `read_document`, for a text."""
    faults = parse_entries(text, source)
    faults.check()
    return faults.document


def parse_entries(text: str, source: str = "<space>") -> Faults:
    """As `parse_document`, but entries that cannot be read become faults of the returned document.

    So the others can still be checked. Raises SpaceError if the text as a whole is not a mapping.
    """
    if len(text) > MAX_BYTES:
        raise SpaceError(source, [Fault(f"is larger than {MAX_BYTES:,} bytes, too large for a space")])
    document = Document(source, text)
    faults = Faults(document)
    last_line = max(1, len(text.splitlines()))
    try:
        _Builder(document, faults).build()
    except yaml.reader.ReaderError as error:
        at = text.count("\n", 0, error.position) + 1
        raise SpaceError(source, [Fault(f"the character U+{error.character:04X} is not allowed", at)]) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join((error.problem or error.context or "").split())
        line = None if mark is None else min(mark.line + 1, last_line)
        raise SpaceError(source, [Fault(f"not YAML: {problem}", line)]) from None
    except (yaml.YAMLError, ArithmeticError) as error:
        raise SpaceError(source, [Fault(f"not YAML: {' '.join(str(error).split())}")]) from None
    except ValueError as error:
        if isinstance(error, SpaceError):
            raise
        raise SpaceError(source, [Fault(f"not YAML: {' '.join(str(error).split())}")]) from None  # "\UFFFFFFFF"
    faults.seal()
    return faults


class _Builder:
    """Builds plain values from parse events; the document receives them with their lines."""

    def __init__(self, document: Document, faults: Faults):
        self._document, self._faults = document, faults
        self._events: Iterator[yaml.Event] = yaml.parse(document.text, Loader=yaml.SafeLoader)

    def build(self) -> None:
        events = self._events
        next(events)  # the start of the stream
        if isinstance(next(events), yaml.StreamEndEvent):
            raise SpaceError(self._document.source, [Fault("is empty")])
        top = next(events)
        if not isinstance(top, yaml.MappingStartEvent):
            self._document.lines[()] = _line(top)
            self._faults.add("a space is a mapping, `family: ...` and so on")
            self._faults.check()
        self._document.value = self._value(top, ())
        next(events)  # the end of the document
        if isinstance(more := next(events), yaml.DocumentStartEvent):
            self._document.lines["---",] = _line(more)
            self._faults.add("a second document begins here; a file holds one space", "---")

    def _value(self, event: yaml.Event, path: Path_) -> Any:
        self._document.lines.setdefault(path, _line(event))
        if len(path) > MAX_DEPTH:
            self._faults.add(f"nested more than {MAX_DEPTH} deep", *path[:3])
            self._faults.check()
        if isinstance(event, yaml.AliasEvent):
            self._faults.add("anchors and aliases are not supported; write the value again", *path)
            return None
        tag = getattr(event, "tag", None)
        if isinstance(event, yaml.ScalarEvent) and tag in _TAGS:
            return self._tagged(event, _TAGS[tag], path)
        if tag is not None:
            tag = tag.replace("tag:yaml.org,2002:", "!!")
            self._faults.add(f"tags such as {_clipped(tag, 40)} are not supported; quote what is text", *path)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(path)
        return self._mapping(path)

    def _list(self, path: Path_) -> list[Any]:
        items: list[Any] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items))))
        return items

    def _mapping(self, path: Path_) -> dict[str, Any]:
        values: dict[str, Any] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            at = (*path, event.value if isinstance(event, yaml.ScalarEvent) else "?")
            is_new = at not in self._document.lines
            if is_new:
                self._document.lines[at] = _line(event)
            if not isinstance(event, yaml.ScalarEvent):
                self._faults.add("a key must be a plain name", *at)
                self._value(event, at)
                self._value(next(self._events), at)
            elif at[-1] in values:
                first = self._document.lines[at]
                self._document.lines[at] = _line(event)
                self._faults.add(f"is given twice; first in line {first}", *at)
                self._value(next(self._events), at)
            else:
                values[event.value] = self._value(next(self._events), at)
        return values

    def _tagged(self, event: yaml.ScalarEvent, tag: str, path: Path_) -> Any:
        """`!!float 1e-3` and the like: the value that the tag asks for, if the text is one."""
        if tag == "str":
            return event.value
        value = self._plain(event.value, path)
        if tag == "float" and type(value) is int:
            return float(value)
        kinds = {"int": int, "float": float, "bool": bool, "null": type(None)}
        if value is not None and type(value) is not kinds[tag]:
            self._faults.add(f"{given(value)} is not {tag}; leave the tag out, or fix the value", *path)
        return value

    def _scalar(self, event: yaml.ScalarEvent, path: Path_) -> Any:
        return self._plain(event.value, path) if event.style is None else event.value  # quoted or block: always text

    def _plain(self, text: str, path: Path_) -> Any:
        lowered = text.lower()
        if lowered in ("", "~", "null"):
            is_cut = str(path[-1]).count(")") > str(path[-1]).count("(")  # {max: min(a, b)} is two entries to YAML
            remedy = "put an expression that has a comma in quotes" if is_cut else "give one, or leave it out"
            if isinstance(path[-1], int):
                remedy = "write what it stands for, such as 0 for off, or leave it out"
            self._faults.add(f"has no value; {remedy}", *path)
            return None
        if lowered in ("true", "false"):
            return lowered == "true"
        number = parse_number(text)
        if number is not None and abs(number) > MAX_NUMBER:
            self._faults.add(f"{_clipped(text, 40)} is too large; at most 2**53 is read", *path)
            return None
        return text if number is None else number


def parse_number(text: str) -> int | float | None:
    """`27M`, `12 GiB`, `1e-5`, `5 %`, `0x10` or a plain number, as an int if it is whole; None for anything else.

    K, M, B (or G) and T count in thousands; KiB, MiB, GiB and TiB in 1024; KB, MB, GB and TB in 1000; capitals or not.
    Numbers beyond MAX_NUMBER become infinity. Space files and the command line share this function.
    """
    text = text.strip()
    if len(text) > 64:
        return None
    if _INTEGER.fullmatch(text):
        number = int(text, 0)
        return number if abs(number) <= MAX_NUMBER else math.copysign(math.inf, number)
    match = _DECIMAL.fullmatch(text)
    if match is None:
        return None
    digits, unit = match.group(1).replace("_", ""), match.groups()[-1]
    factor = 1 if unit is None else _UNITS[unit.lower()]
    rough = float(digits) * float(factor)
    if abs(rough) > MAX_NUMBER:
        return math.copysign(math.inf, rough)
    if unit is None:
        return int(digits) if re.fullmatch(r"[-+]?[0-9]+", digits) else float(digits)
    exact = Decimal(digits) * factor  # 1.1K is 1100, not 1100.0000000000002
    return int(exact) if unit != "%" and exact == exact.to_integral_value() else float(exact)


def parse_count(text: str) -> int | None:
    """A whole number from 1, in any form that `parse_number` reads, such as 1e6; None for anything else."""
    number = parse_number(text)
    if number is None or abs(number) > MAX_NUMBER or number != int(number):
        return None
    return int(number) if number >= 1 else None


def _line(event: yaml.Event) -> int:
    """The line in which an event begins, counted from 1."""
    assert event.start_mark is not None  # true for everything that is read from text
    return event.start_mark.line + 1


def given(value: Any) -> str:
    """A value of a document as an error shows it."""
    if isinstance(value, (dict, list)):
        return "a mapping" if isinstance(value, dict) else "a list"
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    return _clipped(repr(value), 60)


def _clipped(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 3] + "..."
