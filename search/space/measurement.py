"""The measurements that can be metrics and limits: which way is better, and what each needs to be there and to compare.

The one table of it. comparable.py holds a search against it before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is to be known of one measurement."""

    is_better_higher: bool = False
    is_per_token: bool = False  # of two vocabularies a token is not the same amount of text
    needs_text: bool = False  # tokens alone do not say how many bytes they stand for


MEASURED: dict[str, Kind] = {
    "loss": Kind(is_per_token=True),
    "bits_per_byte": Kind(needs_text=True),
    "tokens_per_second": Kind(is_better_higher=True),
    "peak_vram_bytes": Kind(),
    "num_params": Kind(),
    "train_seconds": Kind(),
}
