"""What all commands share: finding the study, printing, and turning errors into messages.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import contextlib
import errno
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from search.cli.words import escaped

if TYPE_CHECKING:
    from search.cli.console import PlainConsole
    from search.report.tables import TrialsTable
    from search.storage.folder import StudyFolder


def study_folder(runs: Path, storage: str | None, study: str | None) -> StudyFolder:
    """An existing study; the latest one if no name is given. Raises StudyError."""
    from search.storage.folder import StudyError, StudyFolder
    from search.storage.study_store import study_store

    store = study_store(storage, runs)
    if not study and not (names := store.names()):
        raise StudyError(f"there are no studies in {store}; `tinysearch run` makes one")
    return StudyFolder(runs.absolute(), study or names[-1], store)


def make_console(*, to_stderr: bool = False) -> PlainConsole:
    """The console that a command prints to. Only this function creates one."""
    from search.cli.console import PlainConsole

    return PlainConsole(to_stderr=to_stderr)


def print_trials(console: PlainConsole, table: TrialsTable, title: str | None = None) -> None:
    """Print a table of trials and its notes; wider than the terminal if the user chose the columns."""
    from search.report.tables import MAX_TABLE_ROWS

    if len(table.records) > MAX_TABLE_ROWS:
        print(*table.lines(title or ""), sep="\n")
    else:
        console.print_whole(table.rich(title))
    for note in table.notes:
        console.print(note, style="dim")


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, allow_nan=False))


@contextlib.contextmanager
def reporting_errors() -> Iterator[None]:
    """Print an error that the user can fix as one message (exit code 2); a failed study gives exit code 1."""
    try:
        yield
    except ValueError as error:  # SpaceError, StudyError, CorpusError and ConfigError are all ValueErrors
        if not type(error).__module__.startswith(("search.", "trainer.")) and type(error) is not ValueError:
            raise
        complain(str(error), 2)
    except RuntimeError as error:
        if not type(error).__module__.startswith("search."):
            raise
        complain(str(error), 1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        complain(f"{error.filename or 'the disk'}: {error.strerror}; free some space, then the same command resumes", 1)
    except KeyboardInterrupt:
        complain("interrupted", 130)


def complain(message: str, code: int) -> NoReturn:
    """Print the message on stderr and end the command."""
    print(escaped(message), file=sys.stderr)
    raise typer.Exit(code)
