"""What the commands of this folder share: their options, the tables that they read, and how they print."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from benchmarks.search.table import Table, TableError, read_tables

PLAIN_WIDTH = 160  # of tables that go into a file


def parser_of(module: str, description: str | None, *, seeds: int, policies: Iterable[str]) -> argparse.ArgumentParser:
    """With the options that every command has; the first line of `description` counts."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=(description or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    parser.add_argument("--workers", type=int, default=8, help="trials at a time")
    parser.add_argument("--seeds", type=int, default=seeds, help="runs of each policy on each table or problem")
    parser.add_argument("--policies", default="all", help=f"all, or some of {','.join(policies)}")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="runs at a time")
    return parser


def add_tables(parser: argparse.ArgumentParser) -> None:
    """The options of a command that reads a folder of tables."""
    parser.add_argument("folder", help="of .npz tables")
    parser.add_argument("--budget", type=float, default=50.0, help="full trainings' cost")
    parser.add_argument("--tables", default="*.npz", metavar="GLOB", help="only files of such names")


def options_of(
    parser: argparse.ArgumentParser, arguments: list[str] | None, groups: Mapping[str, list[str]], known: Iterable[str]
) -> argparse.Namespace:
    """The options, checked, with `policies` as a list: one of `groups`, or some of `known`. Exits with 2 if wrong."""
    options, known = parser.parse_args(arguments), list(known)
    options.policies = groups.get(options.policies) or options.policies.split(",")
    if unknown := [name for name in options.policies if name not in known]:
        parser.error(f"unknown policy {unknown[0]!r}. Known: {', '.join(known)}")
    if len(set(options.policies)) < len(options.policies):
        parser.error("a policy is named twice")
    if min(options.workers, options.seeds, options.processes) < 1:
        parser.error("give at least one worker, seed and process")
    if not 0 < getattr(options, "budget", 1) < float("inf"):
        parser.error("give a budget above 0")
    return options


def tables_of(options: argparse.Namespace) -> list[Table]:
    """The tables asked for. Exits with 2 and a message where they cannot be read."""
    try:
        return read_tables(options.folder, options.tables)
    except TableError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


def put_out(measured: dict[str, Any], views: Iterable[Callable[[dict[str, Any]], Any]], *, as_json: bool) -> None:
    """What was measured, as one JSON object or by each of `views` as a table for people."""
    if as_json:
        print(json.dumps(measured))
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=PLAIN_WIDTH)
    for view in views:
        console.print(view(measured))
