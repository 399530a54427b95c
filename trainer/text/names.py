"""The parts that names ask for: wiki.train.tokens beside wiki.valid.tokens, or folders train/ and validation/."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

TRAIN, VALIDATION, TEST = PARTS = ("train", "validation", "test")

_WORDS = {
    "train": TRAIN, "training": TRAIN, "trn": TRAIN,
    "valid": VALIDATION, "validation": VALIDATION, "val": VALIDATION, "dev": VALIDATION, "eval": VALIDATION,
    "test": TEST, "testing": TEST, "heldout": TEST,
}  # fmt: skip
_WORD = re.compile(rf"(?<![a-z])({'|'.join(_WORDS)})(?![a-z])", re.IGNORECASE)
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def parts_by_name(names: Sequence[tuple[str, ...]]) -> list[str]:
    """The part of each file, given its path's components, if the names ask for a split; else "" for it.

    They do if files or folders in one folder have names with `train` and with `valid`, `dev` or `test`. If only `train`
    and `test` occur together, test is held out. Files without such a word get "".
    """
    asked = [[_part(component) for component in path] for path in names]
    together: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for path, parts in zip(names, asked, strict=True):
        for depth, part in enumerate(parts):
            if part:
                together[path[:depth]].add(part)
    found = []
    for path, parts in zip(names, asked, strict=True):
        siblings = [(part, together[path[:depth]]) for depth, part in enumerate(parts) if part]
        part, beside = next(((p, b) for p, b in siblings if TRAIN in b and len(b) > 1), ("", set()))
        found.append(VALIDATION if part == TEST and VALIDATION not in beside else part)
    return found


def _part(component: str) -> str:
    """The part that a file's or folder's name asks for, by its last such word; empty if it has none."""
    words = _WORD.findall(_CAMEL.sub(" ", component))
    return _WORDS[words[-1].lower()] if words else ""
