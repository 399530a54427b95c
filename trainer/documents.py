"""What a corpus is made of: the user's paths as a list of files, and those files as UTF-8 documents."""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Folders of Python's standard library whose text is no library: tests, other people's packages, and what the
# build machine wrote into it, which would give every build a digest of its own.
STDLIB_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
STDLIB_SKIPPED_PREFIXES = ("config-", "_sysconfigdata")

BINARY_SUFFIXES = set(
    ".7z .a .avi .bmp .bz2 .class .db .dll .dylib .exe .flac .gguf .gif .gz .ico .jar .jpeg .jpg .lib .mov .mp3 .mp4 "
    ".npy .npz .o .ogg .onnx .otf .parquet .pdf .pickle .pkl .png .pt .pth .pyc .pyd .pyo .rar .safetensors .so "
    ".sqlite .tar .tgz .tif .tiff .ttf .wav .webm .webp .whl .woff .woff2 .xz .zip .zst".split()
)

MAX_LINE_BYTES = 64 * 2**20  # of a .jsonl file, a document each: it is held in memory several times


class CorpusError(ValueError):
    """Text that cannot be trained on; the message says which file, why, and what to do."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    path: Path
    name: str  # what decides its place in the order and in the split: posix, relative to the folder given


@dataclass(frozen=True, kw_only=True)
class Sources:
    files: tuple[SourceFile, ...]
    about: str
    num_skipped: int = 0

    @property
    def are_tokens(self) -> bool:
        return self.files[0].path.suffix == ".bin"

    def stats(self) -> list[tuple[str, str, int, int, int, int]]:
        """What changes whenever a file may have: a key to everything once computed from their content.

        The change time is among it because, unlike the modification time, no tool can set it back.
        """
        rows = []
        for file in self.files:
            try:
                status = os.stat(file.path)
            except OSError as error:
                raise unreadable(file.path, error) from None
            times = (status.st_mtime_ns, status.st_ctime_ns)
            rows.append((file.name, os.path.abspath(file.path), status.st_ino, status.st_size, *times))
        return rows


def find_sources(paths: tuple[str, ...]) -> Sources:
    """The files behind the paths, in an order that does not depend on the machine; no path: the standard library.

    Raises CorpusError for a path that is missing or holds no text, and for tokens mixed with text.
    """
    if not paths:
        return _standard_library()
    files: dict[Path, SourceFile] = {}  # by resolved path: a file named twice would be on both sides of the split
    num_skipped = 0
    for path in map(Path, paths):
        if path.is_dir():
            found, skipped = _walk(path)
            num_skipped += skipped
            if not found:
                raise CorpusError(f"{path}: the folder holds no text files ({skipped} hidden or binary ones skipped)")
        elif path.is_file():
            found = [SourceFile(path=path, name=path.name)]
        elif path.exists():  # a pipe would be waited for, and a device may never end
            raise CorpusError(f"{path}: neither a file nor a folder")
        else:
            raise CorpusError(f"{path}: no such file or folder")
        for file in found:
            files.setdefault(file.path.resolve(), file)
    num_binary = sum(file.path.suffix == ".bin" for file in files.values())
    if 0 < num_binary < len(files):
        raise CorpusError(f"{', '.join(paths)}: .bin token files cannot be mixed with text; give one or the other")
    return Sources(files=tuple(files.values()), about=", ".join(paths), num_skipped=num_skipped)


def read_documents(files: tuple[SourceFile, ...]) -> Iterator[tuple[str, bytes]]:
    """(key, UTF-8 text) of every document that is not empty; equal keys always fall on the same side of a split.

    A text file is one document, known by its name; a line of a .jsonl file is one, known by its text, so that
    a document which the file repeats cannot be trained on and held out. Raises CorpusError, saying where.
    """
    for file in files:
        if file.path.suffix == ".jsonl":
            yield from ((text.decode(), text) for text in _read_jsonl(file.path) if text)
        elif text := _checked(read_bytes(file.path), file.path):
            yield file.name, text


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> CorpusError:
    return CorpusError(f"{path}: cannot be read: {error.strerror}")


def _checked(text: bytes, path: Path) -> bytes:
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: not UTF-8 at byte {error.start} (0x{text[error.start]:02x}); convert the file or leave it out"
        ) from None
    return text


def _read_jsonl(path: Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE_BYTES + 1), b""), start=1):
                if len(line) > MAX_LINE_BYTES:
                    raise CorpusError(f"{path}:{number}: the line is longer than {MAX_LINE_BYTES:,} bytes; split it")
                if line.strip():
                    yield _text_field(line, f"{path}:{number}")
    except OSError as error:
        raise unreadable(path, error) from None


def _text_field(line: bytes, where: str) -> bytes:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where}: not JSON: {error}") from None
    if not isinstance(document, dict) or "text" not in document:
        raise CorpusError(f"{where}: no field 'text'; each line must be an object with one")
    if not isinstance(document["text"], str):
        raise CorpusError(f"{where}: the field 'text' is {type(document['text']).__name__}, not a string")
    try:
        return document["text"].encode("utf-8")
    except UnicodeEncodeError:
        raise CorpusError(f"{where}: the field 'text' holds half of a surrogate pair: not UTF-8") from None


def _walk(folder: Path) -> tuple[list[SourceFile], int]:
    """The folder's files by name, and how many hidden or binary ones were left out."""
    found, num_skipped = [], 0

    def fail(error: OSError) -> None:
        raise unreadable(Path(error.filename), error) from None

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            if name.startswith(".") or path.suffix.lower() in BINARY_SUFFIXES:
                num_skipped += 1
            elif path.is_file():
                found.append(SourceFile(path=path, name=path.relative_to(folder).as_posix()))
    return sorted(found, key=lambda file: file.name), num_skipped


def _standard_library() -> Sources:
    root = sysconfig.get_path("stdlib")
    found = []
    for parent, folders, names in os.walk(root):
        folders[:] = set(folders) - STDLIB_SKIPPED_FOLDERS
        folders[:] = [name for name in folders if not name.startswith(STDLIB_SKIPPED_PREFIXES)]
        for name in names:
            if name.endswith(".py") and not name.startswith(STDLIB_SKIPPED_PREFIXES):
                path = os.path.join(parent, name)
                found.append(SourceFile(path=Path(path), name=os.path.relpath(path, root).replace(os.sep, "/")))
    if not found:
        raise CorpusError(f"{root}: this Python has no library sources, only compiled ones; give a text with `data`")
    version = sysconfig.get_config_var("py_version") or sysconfig.get_python_version()
    found.sort(key=lambda file: file.name)
    return Sources(files=tuple(found), about=f"standard library of Python {version}")
