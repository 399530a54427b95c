"""The measurements that can be metrics and limits: which direction is better, and what each needs to be measured and to
compare.

This is the only such table. comparable.py checks a search against it before anything is written.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The properties of one measurement."""

    is_better_higher: bool = False
    is_per_token: bool = False  # tokens of two vocabularies hold different amounts of text
    needs_text: bool = False  # needs the number of bytes of the tokens


MEASURED: dict[str, Kind] = {
    "loss": Kind(is_per_token=True),
    "bits_per_byte": Kind(needs_text=True),
    "tokens_per_second": Kind(is_better_higher=True),
    "peak_vram_bytes": Kind(),
    "num_params": Kind(),
    "train_seconds": Kind(),
}
