"""Checks what CMA-ES keeps in a study before it is read: a pickle, which could run a stranger's code.

Optuna's CmaEsSampler writes its optimizer into the attributes of trials, and unpickles it. A study may come from
somebody else. So a pickle may name only the classes that an optimizer is made of.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

ALLOWED = {
    ("cmaes._cma", "CMA"),
    ("cmaes._sepcma", "SepCMA"),
    ("cmaes._cmawm", "CMAwM"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}


def check_optimizers(attrs: Mapping[str, Any]) -> None:
    """Raises ValueError if the attributes of a trial hold a CMA-ES optimizer that is damaged or names other classes."""
    parts: dict[str, dict[int, str]] = {}
    for key, value in attrs.items():
        prefix, is_optimizer, index = key.rpartition(":optimizer:")
        if is_optimizer:
            if not isinstance(value, str) or not index.isdecimal():
                raise ValueError(f"its attribute {key!r} is no part of an optimizer")
            parts.setdefault(prefix, {})[int(index)] = value
    for prefix, texts in parts.items():
        try:
            _Unpickler(io.BytesIO(bytes.fromhex("".join(texts[i] for i in range(len(texts)))))).load()
        except Exception as error:  # damage can raise anything
            raise ValueError(f"its attribute '{prefix}:optimizer' cannot be read: {error}") from None


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise ValueError(f"it names {module}.{name}")
        return super().find_class(module, name)
