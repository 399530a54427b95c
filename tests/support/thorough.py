"""Cases that test the same as others with other values: only `make test-thorough` runs them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pytest


def some_of(values: Iterable[Any], always: Sequence[Any]) -> list[Any]:
    """The values as parameters of a test; those that are not in `always` are for the thorough run."""
    return [value if value in always else pytest.param(value, marks=pytest.mark.thorough) for value in values]
