"""The records of a data set (JSON lines, JSON arrays, Parquet): the text field of each one is a document."""

from __future__ import annotations

import codecs
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from trainer.text.encoding import MARK, SAMPLE_BYTES, fault_of_sample
from trainer.text.errors import CorpusError, shown, unreadable
from trainer.text.formats import Format
from trainer.text.streams import CHUNK_BYTES, arrow_for, opened

MAX_RECORD_BYTES = 64 * 2**20  # a record is a document, held in memory several times
MAX_BAD = 1000  # unusable records; after that, stop looking for more

Record = tuple[str, Any]
"""Where the record is (`line 3`, `record 3`), and its value, or a ValueError that says why it has none."""


def read_records(path: Path, format: Format, text_key: str) -> Iterator[tuple[str, str | ValueError]]:
    """(where, text) of every record, or why it has no text. Raises CorpusError if the file as a whole is unusable."""
    if format is Format.PARQUET:
        yield from _parquet(path, text_key)
        return
    with opened(path) as stream:
        peek = _peeked(stream, path)
        for where, value in _lines(peek, path) if format is Format.LINES else _values(peek, path, text_key):
            yield where, value if isinstance(value, ValueError) else _text_of(value, text_key)


class NoRecords(CorpusError):
    """A JSON file that is not a data set, such as a configuration."""


def _text_of(record: Any, key: str) -> str | ValueError:
    if isinstance(record, str):  # an array of texts
        return record
    if not isinstance(record, dict):
        return ValueError(f"{_kind(record)}, not an object with a field {key!r}")
    value: Any = record
    for part in [key] if key in record else key.split("."):
        if not isinstance(value, dict) or part not in value:
            return ValueError(f"no field {key!r}{_other_fields(record)}")
        value = value[part]
    if not isinstance(value, str):
        return ValueError(f"the field {key!r} is {_kind(value)}, not a string")
    return value


def _other_fields(record: dict[str, Any]) -> str:
    names = [name for name, value in record.items() if isinstance(value, str)]
    names.sort(key=lambda name: -len(record[name]))
    return f"; its fields with text: {', '.join(shown(name[:40]) for name in names[:4])}" if names else ""


_KINDS: dict[type, str] = {dict: "an object", list: "a list"}


def _kind(value: Any) -> str:
    return "null" if value is None else _KINDS.get(type(value), type(value).__name__)


def _peeked(stream: IO[bytes], path: Path) -> _Peek:
    peek = _Peek(stream)
    if fault := fault_of_sample(peek.start):
        raise CorpusError(f"{shown(path)}: {fault}")
    return peek


class _Peek:
    """A stream whose first bytes were looked at; reading it skips UTF-8's byte order mark."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.start = stream.read(SAMPLE_BYTES)
        self._stream = stream
        self._rest = self.start.removeprefix(MARK)

    def readline(self, most: int) -> bytes:
        head, newline, self._rest = self._rest.partition(b"\n")
        return head + newline if newline else head + self._stream.readline(max(1, most - len(head)))

    def read(self, size: int) -> bytes:
        data, self._rest = self._rest, b""
        return data or self._stream.read(size)


def _lines(stream: _Peek, path: Path) -> Iterator[Record]:
    for number, line in enumerate(iter(lambda: stream.readline(MAX_RECORD_BYTES + 1), b""), start=1):
        if len(line) > MAX_RECORD_BYTES:
            raise CorpusError(f"{shown(path)}:{number}: the line is longer than {MAX_RECORD_BYTES:,} bytes; split it")
        line = line.strip().removeprefix(MARK)
        if not line.strip(b"\0"):
            if line:
                yield f"line {number}", ValueError(f"{len(line):,} NUL bytes: the file was padded or is not whole")
            continue
        try:
            yield f"line {number}", json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield f"line {number}", ValueError(f"not UTF-8 at byte {error.start + 1} of the line")
        except (ValueError, RecursionError) as error:
            yield f"line {number}", ValueError(f"not JSON: {error}")


def _values(stream: _Peek, path: Path, text_key: str) -> Iterator[Record]:
    """The records of a whole JSON file, read in parts: the elements of an array, or values one after another."""
    values = _JsonValues(stream, path)
    first = values.next()
    second = _END if first is _END else values.next()
    if (
        not values.is_array
        and second is _END
        and first is not _END
        and isinstance(_text_of(first, text_key), ValueError)
    ):
        arrays = [k for k, v in first.items() if isinstance(v, list)] if isinstance(first, dict) else []
        within = f"; its records may be in {arrays[0]!r}: make that array the file" if arrays else ""
        raise NoRecords(f"{shown(path)}: {_kind(first)}, not an array or lines of records{within}")
    number = 0
    for value in itertools.chain([first, second], iter(values.next, _END)):
        if value is _END:
            return
        number += 1
        yield f"record {number}", value


_END = object()


class _JsonValues:
    """JSON values one after another, parsed as they come; text before the next one is dropped."""

    def __init__(self, stream: _Peek, path: Path) -> None:
        self._stream, self._path = stream, path
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._parse = json.JSONDecoder().raw_decode
        self._text, self._at, self._has_ended = "", 0, False
        self._number = 0
        if is_array := self._next_character() == "[":
            self._at += 1
        self.is_array = is_array

    def next(self) -> Any:
        """The next value, or _END. Raises CorpusError if it is not JSON."""
        character = self._next_character()
        if character == "," and self._number:
            self._at += 1
            character = self._next_character()
        if self.is_array and character == "]":
            self._at += 1
            if self._next_character():
                raise self._fault("there is more behind the end of the array")
            return _END
        if not character:
            if self.is_array:
                raise self._fault("the array does not end; the file is not whole")
            return _END
        self._number += 1
        size = CHUNK_BYTES
        while True:
            try:
                value, end = self._parse(self._text, self._at)
                if end < len(self._text) or self._has_ended:
                    self._at = end
                    return value
            except RecursionError as error:
                raise self._fault(str(error)) from None
            except ValueError as error:
                if self._has_ended:
                    raise self._fault(str(error)) from None
            if len(self._text) - self._at > MAX_RECORD_BYTES:
                raise self._fault(f"it does not end within {MAX_RECORD_BYTES:,} characters")
            self._read(size)
            size *= 2  # so that a long record is parsed again only a few times

    def _next_character(self) -> str:
        """The next character that is not white space, not yet consumed; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if self._has_ended:
                return ""
            self._read(CHUNK_BYTES)

    def _fault(self, why: str) -> CorpusError:
        return CorpusError(f"{shown(self._path)}: record {self._number}: not JSON: {why}")

    def _read(self, size: int) -> None:
        data = self._stream.read(size)
        try:
            text = self._decode.decode(data, final=not data)
        except UnicodeDecodeError:
            raise CorpusError(
                f"{shown(self._path)}: after record {self._number}: not UTF-8; convert the file"
            ) from None
        self._text, self._at = self._text[self._at :] + text, 0
        self._has_ended = not data


def _parquet(path: Path, key: str) -> Iterator[tuple[str, str | ValueError]]:
    pyarrow = arrow_for(path, "Parquet")
    try:
        with open(path, "rb") as content, pyarrow.parquet.ParquetFile(content) as file:
            column = _column(file.schema_arrow, key, path, pyarrow.types)
            number = 0
            for batch in file.iter_batches(batch_size=256, columns=[column]):
                for value in _flat(batch.column(0), key, column).to_pylist():
                    number += 1
                    is_text = isinstance(value, str)
                    yield f"row {number}", value if is_text else ValueError(f"the column {key!r} is null")
    except (pyarrow.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(path, error) from None
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise CorpusError(
            f"{shown(path)}: not a whole Parquet file ({reason}); fetch it again or leave it out"
        ) from None


def _column(schema: Any, key: str, path: Path, types: Any) -> str:
    """Parquet's name for the column with the text. Raises CorpusError if there is none."""

    def is_text(kind: Any) -> bool:
        kind = kind.value_type if types.is_dictionary(kind) else kind
        return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

    fields = {field.name: field.type for field in schema}
    for name, kind in list(fields.items()):
        if types.is_struct(kind):
            fields |= {f"{name}.{inner.name}": inner.type for inner in kind}
    if key in fields and is_text(fields[key]):
        return key
    texts = [shown(name) for name, kind in fields.items() if is_text(kind)]
    what = f"the column {key!r} is {fields[key]}, not text" if key in fields else f"no column {key!r}"
    choice = f"; its columns of text: {', '.join(texts[:6])}; name one with text_key (--text-key)" if texts else ""
    raise CorpusError(f"{shown(path)}: {what}{choice}")


def _flat(column: Any, key: str, name: str) -> Any:
    """The column's texts, even if they are a field of a structure."""
    import pyarrow.compute

    return (
        pyarrow.compute.struct_field(column, key.split(".")[1:])
        if hasattr(column.type, "get_field_index") and "." in name
        else column
    )
