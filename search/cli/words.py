"""Checks the words of a command line before any command reads them, and refuses words that no option can accept.

Also prints typer's errors as plain text.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from typer.core import TyperGroup
from typer.exceptions import TyperException

from trainer.checks import printable

_WITH_SECRET = re.compile(r"://(?:.*[@?]|[^/]*:(?!\d{1,5}(?:/|$))).*", re.DOTALL)  # a URL that may hold a password
_typed: tuple[str, ...] = ()


class Commands(TyperGroup):
    """All commands. A mistake in the words gives one message on stderr and exit code 2."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        global _typed
        _typed = tuple(sys.argv[1:] if args is None else args)
        if fault := fault_of(_typed):
            print(fault, file=sys.stderr)
            sys.exit(2)
        try:
            code = super().main(
                list(_typed), prog_name, complete_var, False, windows_expand_args=windows_expand_args, **extra
            )
        except TyperException as error:
            said = io.StringIO()
            error.show(file=said)  # type: ignore[attr-defined]  # all errors that main raises have it
            print(escaped(said.getvalue().rstrip("\n")), file=sys.stderr)
            sys.exit(error.exit_code)
        sys.exit(code if isinstance(code, int) else 0)


def fault_of(words: Sequence[str]) -> str:
    """One sentence why these words are not a valid command; empty if they may be valid."""
    for before, word in zip(["", *words], words, strict=False):
        if any("\ud800" <= letter <= "\udfff" for letter in word):
            shown = printable(_WITH_SECRET.sub("://***", word))
            return (
                f"'{shown}' is not UTF-8, which names must be here; rename the file, or the folder that it is in, or "
                "give a link to it that has another name"
            )
        name, has_value, value = word.partition("=")
        if word.startswith("--") and has_value and not value.strip():
            return f"{printable(name)} has an empty value (an unset variable?); give one, or leave the option out"
        if not word.strip():
            if before.startswith("--") and "=" not in before:
                return f"{printable(before)} has an empty value (an unset variable?); give one, or leave the option out"
            return "one of the arguments is empty (an unset variable?); leave it out"
    return ""


def escaped(message: str) -> str:
    """A message for a terminal. Line breaks and control characters in user input are shown as escapes.

    A URL with a password that was given as another argument is not shown in full.
    """
    for word in _typed:
        url = word.partition("=")[2] if word.startswith("--") else word
        if _WITH_SECRET.search(url):
            path = Path(url)
            for form in (url, str(path), *(name for name in (path.name, path.stem) if re.search("[@?:]", name))):
                message = message.replace(form, _WITH_SECRET.sub("://***", url))
        for part in (word, *word.split("/")):
            if part and printable(part) != part:
                message = message.replace(part, printable(part))
    return "\n".join(map(printable, message.split("\n")))
