"""The command, in this process and the present folder."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner

from search.cli.main import app


def tinysearch(*arguments: object) -> tuple[int, str, str]:
    """The exit code, and what is printed to the output and as errors."""
    result = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    return result.exit_code, result.stdout, result.stderr


def succeeds(*arguments: object) -> str:
    """What a command prints that succeeds."""
    code, output, errors = tinysearch(*arguments)
    assert code == 0, output + errors
    return output


def printed_json(*arguments: object) -> Any:
    return json.loads(succeeds(*arguments, "--json"))
