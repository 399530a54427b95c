"""All faults of a study, in one line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from search.study.record import TrialRecord
from search.worker.faults import PLURAL_OF


def faults_line(records: Iterable[TrialRecord], of_study: Sequence[str] = ()) -> str:
    """`faults: 2 workers lost (trials 3, 7), 1 checkpoint damaged (trial 4)`; empty if there were none."""
    trials: dict[str, list[int]] = {}
    for record in records:
        for fault in record.faults:
            trials.setdefault(fault.partition(":")[0], []).append(record.number)
    parts = [_counted(kind, numbers) for kind, numbers in trials.items()]
    if of_study:
        earlier = f" (and {len(of_study) - 1} before)" if len(of_study) > 1 else ""
        parts.append(f"{of_study[-1]}{earlier}")
    return f"faults: {', '.join(parts)}" if parts else ""


def _counted(kind: str, numbers: Sequence[int]) -> str:
    """`2 workers lost (trials 3, 7)`: the number of faults, and each trial once."""
    distinct = sorted(set(numbers))
    noun = kind if len(numbers) == 1 else PLURAL_OF.get(kind, kind)
    where = f"trial{'' if len(distinct) == 1 else 's'} {', '.join(map(str, distinct))}"
    return f"{len(numbers)} {noun} ({where})"
