"""What each guide's quick search finds on this machine, beside the guide's own reference at equal tokens.

    python -m benchmarks.quick [--runs runs] [SPACE ...]

Runs `tinysearch run SPACE --budget quick` for one space after the other, all four guides by default, and prints a table
in Markdown. An interrupted search resumes; a complete one is only read again, and its time is then that of the reading.
Without a GPU, peak memory is the trainer's estimate for CUDA and marked with ~.
"""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from search.driver import hardware
from search.report.overview import Overview
from search.report.texts import bytes_text, seconds_text, tokens_text
from search.storage.folder import StudyFolder
from search.study.record import TrialRecord

SPACES = Path(__file__).resolve().parent.parent / "spaces"
GUIDES = ("hybrid", "ghost", "robo", "bdh")
BUDGET = "quick"

HEADINGS = (
    "space",
    "tokens",
    "winner",
    "bits/byte",
    "reference",
    "its bits/byte",
    "change",
    "tok/s",
    "peak memory",
    "time",
)


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or that of the first search that did not end well."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quick", description="The guides' quick searches.")
    parser.add_argument("spaces", nargs="*", type=Path, default=[SPACES / f"{name}.yaml" for name in GUIDES])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder that holds the studies")
    options = parser.parse_args(arguments)
    rows = []
    for space in options.spaces:
        started = time.monotonic()
        command = [
            sys.executable,
            "-m",
            "search.cli",
            "run",
            str(space),
            "--budget",
            BUDGET,
            "--runs",
            str(options.runs),
        ]
        if code := subprocess.run(command).returncode:
            return code
        study = StudyFolder(options.runs.absolute(), f"{space.stem}-{BUDGET}").load()
        rows.append(row(space.stem, Overview.stored(study, is_run=False), time.monotonic() - started))
    print(table(rows))
    device = f"{hardware.num_gpus()} GPUs" if hardware.num_gpus() else f"{hardware.num_cores()} cores, no GPU"
    print(f"\n{platform.machine()}, {device}; ~ is an estimate for CUDA", flush=True)
    return 0


def row(space: str, overview: Overview, seconds: float) -> dict[str, str]:
    """The winner of a complete search and the reference at the winner's tokens, a text for each of HEADINGS.

    Every search trains its reference to the end and so has a winner; it may be the reference itself.
    """
    best, reference = overview.best, overview.reference
    assert best is not None and reference is not None, f"{space}: no finished trial"
    ours, theirs = (record.measured("bits_per_byte", best.rung) for record in (best, reference))
    mark = "~" if best.measured("estimated", best.rung) else ""
    texts = (
        space,
        tokens_text(best.rung),
        winner_text(best),
        f"{ours:.3f}",
        reference.preset,
        f"{theirs:.3f}",
        f"{(ours - theirs) / theirs:+.1%}",
        f"{best.measured('tokens_per_second', best.rung):,.0f}",
        bytes_text(best.measured("peak_vram_bytes", best.rung)) + mark,
        seconds_text(seconds),
    )
    return dict(zip(HEADINGS, texts, strict=True))


def winner_text(best: TrialRecord) -> str:
    params = tokens_text(best.measured("num_params", best.rung))
    return f"trial {best.number}{f' ({best.preset})' if best.preset else ''}, {params} parameters"


def table(rows: Iterable[dict[str, str]]) -> str:
    lines = [HEADINGS, ["---"] * len(HEADINGS), *(row.values() for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
