"""Open damaged files, and count what was refused with one located error, what was not, and what was slow.

    python -m benchmarks.fuzz [--spaces 20000] [--files 2000] [--seed 0] [--json]

Spaces are loaded, narrowed and assessed as `tinysearch validate` does; studies are shown and resumed, runs resume from
checkpoints, corpora and their caches are read. The exit code is 1 if anything was neither loaded nor refused. Each
file is a function of the seed and its number, which a finding names: `--only 17` runs only that one.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from functools import partial
from pathlib import Path

import optuna


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--spaces", type=int, default=20_000, help="how many space files")
    parser.add_argument("--files", type=int, default=2_000, help="how many studies, checkpoints and corpora")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="NUMBER", help="only this case of each kind whose number is not 0")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = "1"

    from benchmarks.fuzz.campaign import run_alone, run_campaign
    from benchmarks.fuzz.files import file_case, make_originals
    from benchmarks.fuzz.spaces import space_case

    only = None if options.only is None else [options.only]
    with tempfile.TemporaryDirectory(prefix="tinysearch-fuzz-") as folder:
        run_alone(partial(make_originals, Path(folder)))
        cases = {
            "spaces": (options.spaces, partial(space_case, seed=options.seed)),
            "files": (options.files, partial(file_case, originals=Path(folder), seed=options.seed)),
        }
        found = {name: run_campaign(case, only or range(number)) for name, (number, case) in cases.items() if number}
    if options.json:
        print(json.dumps({name: findings.to_dict() for name, findings in found.items()}))
    else:
        for name, findings in found.items():
            counts = ", ".join(f"{count:,} {what}" for what, count in findings.outcomes.most_common())
            print(f"{name}: {counts}; {len(findings.slow):,} slower than a second")
            for fault in findings.faults[:10]:
                print(f"\n{name} {fault.number}: {fault.what}\n{fault.message}")
    return 1 if any(findings.faults for findings in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
