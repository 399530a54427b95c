"""The documents of some files, as UTF-8: a text file is one document, and so is each record of a data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trainer.checks import counted
from trainer.text.encoding import checked_utf8
from trainer.text.errors import CorpusError, shown
from trainer.text.formats import Format
from trainer.text.records import MAX_BAD, NoRecords, read_records
from trainer.text.sources import LeftOut, SourceFile
from trainer.text.streams import chunks_of, opened

NUM_NAMED = 3  # names of unusable records in a message


def read_documents(file: SourceFile, *, text_key: str, skip_bad: bool, left_out: LeftOut) -> Iterator[Iterator[bytes]]:
    """Each document as chunks of text, each chunk ending with a whole character; read one before the next.

    Records without text are counted, and the error at the end of the file names the first of them; with `skip_bad` they
    are left out instead. Raises CorpusError.
    """
    try:
        if file.format is Format.TEXT:
            yield _text(file.path)
        else:
            yield from _records(file.path, file.format, text_key, skip_bad, left_out)
    except NoRecords:
        if file.is_named and not skip_bad:
            raise
        left_out.add("JSON files that are no data set", "/".join(file.components))


def _text(path: Path) -> Iterator[bytes]:
    with opened(path) as stream:
        yield from checked_utf8(chunks_of(stream), shown(path))


def _records(path: Path, format: Format, text_key: str, skip_bad: bool, left_out: LeftOut) -> Iterator[Iterator[bytes]]:
    number, bad = 0, []
    for where, text in read_records(path, format, text_key):
        number += 1
        try:
            if isinstance(text, ValueError):
                raise text
            if text := text.removeprefix("\N{BYTE ORDER MARK}"):
                yield iter([text.encode("utf-8")])
        except UnicodeEncodeError:
            bad.append((where, f"the field {text_key!r} holds half of a surrogate pair: not UTF-8"))
        except ValueError as error:
            bad.append((where, str(error)))
        if len(bad) > MAX_BAD and not skip_bad:
            break
    if bad and not skip_bad:
        raise CorpusError(_refusal(path, bad, number, text_key))
    for where, _ in bad:
        left_out.add("records without text (--skip-bad)", f"{path.name} {where}")


def _refusal(path: Path, bad: list[tuple[str, str]], number: int, text_key: str) -> str:
    """The message about the records of a file that cannot be used."""
    remedy = "name the field with text_key (--text-key), or leave such records out with skip_bad (--skip-bad)"
    if len(bad) == 1:
        where, why = bad[0]
        place = (
            f"{shown(path)}:{where.removeprefix('line ')}" if where.startswith("line") else f"{shown(path)}: {where}"
        )
        return f"{place}: {why}; {remedy}"
    first = ", ".join(f"{where}: {why}" for where, why in bad[:NUM_NAMED])
    many = f"more than {MAX_BAD:,}" if len(bad) > MAX_BAD else f"{len(bad):,}"
    more = f" and {len(bad) - NUM_NAMED:,} more" if len(bad) > NUM_NAMED else ""
    return f"{shown(path)}: {many} of {counted(number, 'record')} cannot be used: {first}{more}; {remedy}"
