"""`python -m trainer config.json`: train one configuration alone, without a search."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from trainer.checks import ConfigError, printable
from trainer.config import TrainConfig

if TYPE_CHECKING:
    from trainer.measure import Measurement


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0, 1 for a run that diverged, 2 for one that could not begin, 130 for Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Train one configuration.")
    parser.add_argument("config", help="a JSON file: family, rungs, and any parameter of the model or the run")
    parser.add_argument("--checkpoint", metavar="PATH", help="save here after every rung, and resume from here")
    parser.add_argument("--json", action="store_true", help="one JSON object a line for each rung")
    options = parser.parse_args(arguments)
    try:
        config = TrainConfig.from_file(options.config)
        return run_alone(config, checkpoint=options.checkpoint, as_json=options.json)
    except ValueError as error:
        # ConfigError, CorpusError and CheckpointError are for the user to fix; any other error keeps its traceback.
        if not _is_users(error):
            raise
        print(*map(printable, f"error: {error}".split("\n")), sep="\n", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def run_alone(config: TrainConfig, *, checkpoint: str | os.PathLike[str] | None = None, as_json: bool = False) -> int:
    """Train, printing a line for each rung; returns the exit code: 0, or 1 if the run diverged.

    Raises ConfigError, CorpusError or CheckpointError.
    """
    # Set before torch loads OpenMP: threads that spin while waiting for each other are slow beside another process.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from trainer.data import corpus_for
    from trainer.loop import Diverged, train  # torch takes a second: report a faulty configuration at once
    from trainer.reading import reading_lines

    corpus = corpus_for(config, on_progress=None if as_json else lambda line: print(line, flush=True))
    if not as_json:
        print(*map(printable, reading_lines(corpus)), sep="\n", flush=True)

    def report(measurement: Measurement) -> None:
        print(json.dumps(measurement.to_dict()) if as_json else _line(measurement), flush=True)

    try:
        train(config, report, checkpoint=checkpoint, corpus=corpus)
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _line(m: Measurement) -> str:
    bits = "" if m.bits_per_byte is None else f"  {m.bits_per_byte:.4f} bits/byte"
    estimated = " (estimated)" if m.estimated else ""
    memory = "" if m.peak_vram_bytes is None else f"  {m.peak_vram_bytes / 2**20:,.0f} MiB{estimated}"
    return f"{m.tokens:>13,} tokens  loss {m.loss:.4f}{bits}  {m.tokens_per_second:,.0f} tokens/s{memory}"


def _is_users(error: ValueError) -> bool:
    from trainer.checkpoint import CheckpointError
    from trainer.text.errors import CorpusError

    return isinstance(error, (ConfigError, CorpusError, CheckpointError))


if __name__ == "__main__":
    sys.exit(main())
