"""Decides which documents, or parts of them, are trained on, and which are held out.

Names decide if they ask for a split (names.py) and most of the text has such a name. Otherwise the content does, so
that the same documents are split the same way wherever they are and in any order: a tenth of the bytes is held out, in
whole documents chosen by their digests, and the last tenth of each document that is too large to be held out whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.checks import counted
from trainer.text.collection import Documents
from trainer.text.errors import CorpusError
from trainer.text.names import PARTS, TEST, TRAIN, VALIDATION

HELD_OUT = 0.1  # of the bytes
LARGE = 0.08  # of all bytes: a larger document is cut, because it alone would change the share by too much
NOT_USED = -1


@dataclass(frozen=True)
class Split:
    """Where each document goes: its bytes before its `cut` to the training part, the rest to `part`.

    `part` is an index of PARTS, or NOT_USED for a document of the training part with a copy in the held-out part.
    """

    part: np.ndarray  # (D,), int8
    cuts: np.ndarray  # (D,), int64: bytes of the document to train on if it is cut; else 0
    is_by_name: bool
    num_copies: int  # documents left out of the training part because they are held out

    @property
    def num_cut(self) -> int:
        return int(np.count_nonzero(self.cuts))


def split_documents(documents: Documents) -> Split:
    """The split, by names or by content. Raises CorpusError if it would leave nothing to train on."""
    if _names_decide(documents):
        return _by_name(documents)
    return _by_content(documents)


def _names_decide(documents: Documents) -> bool:
    """Whether names ask for training and held-out text, and most of the text has such a name."""
    asked, sizes = documents.asked, documents.sizes
    has_both = (asked == PARTS.index(TRAIN)).any() and (asked == PARTS.index(VALIDATION)).any()
    return bool(has_both and sizes[asked >= 0].sum() >= sizes.sum() / 2)


def _by_name(documents: Documents) -> Split:
    """The split that names ask for; documents without such a name are trained on, unless a copy is held out."""
    part = np.where(documents.asked < 0, PARTS.index(TRAIN), documents.asked).astype(np.int8)
    is_training = part == PARTS.index(TRAIN)
    is_copy = is_training & np.isin(documents.digests, documents.digests[~is_training])
    part[is_copy] = NOT_USED
    is_tested_too = (part == PARTS.index(TEST)) & np.isin(
        documents.digests, documents.digests[part == PARTS.index(VALIDATION)]
    )
    part[is_tested_too] = NOT_USED
    if not (part == PARTS.index(TRAIN)).any():
        raise CorpusError("every document of the training files is in the held-out files too; give other files")
    return Split(part, np.zeros(len(part), np.int64), True, int(np.count_nonzero(part == NOT_USED)))


def _by_content(documents: Documents) -> Split:
    sizes, digests = documents.sizes, documents.digests
    total = int(sizes.sum())
    part = np.full(len(sizes), PARTS.index(TRAIN), np.int8)
    cuts = np.zeros(len(sizes), np.int64)

    is_large = sizes > LARGE * total
    kinds, kind_of, num_copies = np.unique(digests, return_inverse=True, return_counts=True)  # ordered by digest
    small_bytes = np.bincount(kind_of, weights=np.where(is_large, 0, sizes), minlength=len(kinds))
    # Copies stay on one side. A text with so many of them that they would be most of what is held out is trained on;
    # if hardly anything else is there, its copies are cut like large documents.
    is_common = small_bytes > LARGE * total
    rest, common = small_bytes[~is_common].sum(), small_bytes[is_common].sum()
    if common > rest:
        is_large |= is_common[kind_of]
        common = 0
    cuts[is_large] = np.maximum(1, np.ceil(sizes[is_large] * (1 - HELD_OUT))).astype(np.int64)
    part[is_large] = PARTS.index(VALIDATION)

    may_be_held_out = ~is_common & (small_bytes > 0)
    so_far = np.cumsum(np.where(may_be_held_out, small_bytes, 0))
    wanted = HELD_OUT * (rest + common)
    if may_be_held_out.any() and (wanted > 0):
        number = int(np.argmin(np.abs(np.concatenate([[0], so_far]) - wanted)))  # of kinds, from the first digest on
        is_held_out = may_be_held_out & (np.arange(len(kinds)) < number)
        part[is_held_out[kind_of] & ~is_large] = PARTS.index(VALIDATION)
    return Split(part, cuts, False, 0)


def split_summary(split: Split, documents: Documents) -> str:
    """How the text was split, in a few words."""
    if split.is_by_name:
        copies = (
            f"; {counted(split.num_copies, 'copy', 'copies')} of held-out documents not used"
            if split.num_copies
            else ""
        )
        return f"by the names of the files{copies}"
    whole = int(np.count_nonzero((split.part != PARTS.index(TRAIN)) & (split.cuts == 0)))
    ways = [counted(whole, "whole document")] if whole else []
    if split.num_cut:
        ways.append(
            "the end of " + counted(split.num_cut, "document" if len(documents.sizes) == 1 else "large document")
        )
    return " and ".join(ways)
