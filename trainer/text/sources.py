"""The files behind the user's paths, and what was left out of the folders."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.checks import counted
from trainer.text.errors import CorpusError, shown, some_of, unreadable
from trainer.text.formats import RECORDS, Format, format_of, is_beside_data, kind_of, may_hold_text

# Folders of Python's standard library that are not library text: tests, other people's packages, and output of the
# build machine, which would give every build another digest.
STDLIB_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
STDLIB_SKIPPED_PREFIXES = ("config-", "_sysconfigdata")


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    path: Path
    components: tuple[str, ...]  # of its path as it was given, which may name a part of the split
    format: Format
    is_named: bool = False  # by the user, so it is never left out


@dataclass(kw_only=True)
class LeftOut:
    """What is not part of the text, by kind: how many, and the first few names."""

    counts: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, name: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        listed = self.names.setdefault(kind, [])
        if len(listed) < 3:
            listed.append(shown(name))

    def update(self, other: LeftOut) -> None:
        for kind, count in other.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            self.names[kind] = (self.names.get(kind, []) + other.names[kind])[:3]

    def lines(self) -> list[str]:
        """`pictures: 12 (a.png, b.png, c.png and 9 more)`, a line for each kind."""
        return [f"{kind}: {count:,} ({some_of(self.names[kind], count)})" for kind, count in self.counts.items()]

    def to_dict(self) -> dict[str, object]:
        return {"counts": self.counts, "names": self.names}

    @classmethod
    def from_dict(cls, document: Mapping[str, dict[str, Any]]) -> LeftOut:
        return cls(counts=dict(document["counts"]), names={k: list(v) for k, v in document["names"].items()})


@dataclass(frozen=True, kw_only=True)
class Sources:
    files: tuple[SourceFile, ...]
    about: str
    left_out: LeftOut = field(default_factory=LeftOut)
    may_split_by_name: bool = True

    @property
    def are_tokens(self) -> bool:
        return self.files[0].format is Format.TOKENS

    def stats(self) -> list[tuple[str, str, int, int, int, int]]:
        """Values that change whenever a file may have changed: a key to results computed from its content.

        It includes the change time, because no tool can set that back, unlike the modification time.
        """
        rows = []
        for file in self.files:
            try:
                status = os.stat(file.path)
            except OSError as error:
                raise unreadable(file.path, error) from None
            times = (status.st_mtime_ns, status.st_ctime_ns)
            name = "/".join(file.components)
            rows.append((name, os.path.abspath(file.path), status.st_ino, status.st_size, *times))
        return rows


def find_sources(paths: Iterable[str]) -> Sources:
    """The files behind the paths, in an order that does not depend on the machine; no path: the standard library.

    Linked folders are followed, each folder once. Raises CorpusError for a path that is missing or has no readable
    text, and for tokens mixed with text.
    """
    paths = tuple(paths)
    if not paths:
        return _standard_library()
    files: dict[Path, SourceFile] = {}  # by resolved path: each file is read once
    left_out = LeftOut()
    for path in map(Path, paths):
        for file in _found(path, left_out):
            if files.setdefault(file.path.resolve(), file) is not file:
                left_out.add("files found a second time", file.path.name)
    about = ", ".join(map(shown, paths))
    _check_one_kind(list(files.values()), about)
    return Sources(files=tuple(files.values()), about=about, left_out=left_out)


def _found(path: Path, left_out: LeftOut) -> list[SourceFile]:
    """The files behind one of the user's paths."""
    if path.is_dir():
        walked = _Walk(path)
        left_out.update(walked.left_out)
        return walked.files
    if not path.exists():
        raise CorpusError(f"{shown(path)}: no such file or folder")
    if not path.is_file():  # reading a pipe would wait, and a device may never end
        raise CorpusError(f"{shown(path)}: neither a file nor a folder")
    if (format := format_of(path)) is None:
        raise CorpusError(f"{shown(path)}: {kind_of(path)} are not read; {_CONVERT}")
    return [SourceFile(path=path, components=(path.name,), format=format, is_named=True)]


_CONVERT = "give the text as plain files, JSON lines or Parquet"


class _Walk:
    """A folder's files by name, and what was left out."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: list[SourceFile] = []
        self.left_out = LeftOut()
        self._unread: list[str] = []  # of kinds that may contain the intended text
        self._seen: set[str] = set()
        self._walk(root, (root.absolute().name,))
        self._leave_out_documentation()
        if not self.files:
            raise CorpusError(f"{shown(root)}: the folder holds no text files; {self._what_it_holds()}")

    def _walk(self, folder: Path, components: tuple[str, ...]) -> None:
        pending = [(folder, components)]
        while pending:
            folder, components = pending.pop()
            real = os.path.realpath(folder)
            if real in self._seen:
                self.left_out.add("folders linked a second time", "/".join(components[1:]))
                continue
            self._seen.add(real)
            try:
                with os.scandir(folder) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError as error:
                raise unreadable(folder, error) from None
            # Links come last: what is in a folder itself gets its own name.
            pending += [
                (Path(entry.path), (*components, entry.name))
                for entry in reversed(sorted(entries, key=lambda entry: entry.is_symlink()))
                if self._is_folder(entry)
            ]
            for entry in entries:
                if not entry.is_dir():
                    self._add(entry, (*components, entry.name))
        self.files.sort(key=lambda file: file.components)

    def _is_folder(self, entry: os.DirEntry[str]) -> bool:
        if not entry.is_dir():
            return False
        if entry.name.startswith(".") or entry.name == "__pycache__":
            self.left_out.add("hidden folders", entry.name)
            return False
        return True

    def _add(self, entry: os.DirEntry[str], components: tuple[str, ...]) -> None:
        path, name = Path(entry.path), "/".join(components[1:])
        if entry.name.startswith("."):
            self.left_out.add("hidden files", name)
        elif entry.is_symlink() and not path.exists():
            self.left_out.add("broken links", name)
        elif not entry.is_file():
            self.left_out.add("neither files nor folders", name)
        elif (format := format_of(path)) is None:
            self.left_out.add(kind_of(path), name)
            if may_hold_text(path):
                self._unread.append("".join(path.suffixes[-2:]).lower() if ".tar" in path.name else path.suffix.lower())
        elif entry.stat().st_size == 0:
            self.left_out.add("empty files", name)
        else:
            self.files.append(SourceFile(path=path, components=components, format=format))

    def _leave_out_documentation(self) -> None:
        """Leave out a data set's README.md, which is not the text that the user means."""
        data = [file for file in self.files if not is_beside_data(file.path)]
        if not data and self._unread:
            raise CorpusError(f"{shown(self.root)}: {self._what_it_holds()}")
        if any(file.format in (*RECORDS, Format.TOKENS) for file in data):
            for file in self.files:
                if is_beside_data(file.path):
                    self.left_out.add("descriptions of data", "/".join(file.components[1:]))
            self.files = data

    def _what_it_holds(self) -> str:
        if self._unread:
            suffixes = sorted(
                {suffix: self._unread.count(suffix) for suffix in self._unread}.items(), key=lambda s: -s[1]
            )
            listed = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes)
            return f"what may be its text is in formats that are not read: {listed}; {_CONVERT}"
        lines = self.left_out.lines()
        return "left out: " + "; ".join(lines) if lines else "it is empty"


def _check_one_kind(files: list[SourceFile], about: str) -> None:
    """Raises CorpusError for tokens together with text, naming some of both."""
    tokens = [file.path.name for file in files if file.format is Format.TOKENS]
    text = [file.path.name for file in files if file.format is not Format.TOKENS]
    if tokens and text:
        raise CorpusError(
            f"{about}: .bin token files cannot be mixed with text; there are {counted(len(tokens), '.bin file')} "
            f"({some_of(map(shown, tokens))}) and {counted(len(text), 'text file')} ({some_of(map(shown, text))}): "
            "give one or the other"
        )


def _standard_library() -> Sources:
    root = sysconfig.get_path("stdlib")
    found = []
    for parent, folders, names in os.walk(root):
        folders[:] = set(folders) - STDLIB_SKIPPED_FOLDERS
        folders[:] = [name for name in folders if not name.startswith(STDLIB_SKIPPED_PREFIXES)]
        for name in names:
            if name.endswith(".py") and not name.startswith(STDLIB_SKIPPED_PREFIXES):
                path = Path(parent, name)
                components = (os.path.relpath(path, root).replace(os.sep, "/"),)
                found.append(SourceFile(path=path, components=components, format=Format.TEXT))
    if not found:
        raise CorpusError(f"{root}: this Python has no library sources, only compiled ones; give a text with `data`")
    version = sysconfig.get_config_var("py_version") or sysconfig.get_python_version()
    found.sort(key=lambda file: file.components)
    return Sources(files=tuple(found), about=f"standard library of Python {version}", may_split_by_name=False)
