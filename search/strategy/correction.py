"""How far estimates of memory were off in this search, as one factor for the estimates to come.

Few measurements are weak evidence of a bias, but one that exceeded its estimate is proof that an estimate can: so the
factor is the middle of what was seen, drawn towards 1 where little was, and never below what the worst case demands.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

MARGIN = 0.10  # by which a measured peak may exceed its corrected estimate
PRIOR_TRIALS = 4  # as many trials that measured just what was estimated


def correction(pairs: Iterable[tuple[float, float]]) -> float:
    """By what to multiply estimates, given (estimated, measured), both positive; 1.0 where there are none.

    The median ratio, its logarithm weighted n to PRIOR_TRIALS against 0, but at least the largest ratio / (1 + MARGIN).
    The pairs' order does not matter.
    """
    ratios = [measured / estimated for estimated, measured in pairs]
    if not ratios:
        return 1.0
    weight = len(ratios) / (len(ratios) + PRIOR_TRIALS)
    middle = math.exp(weight * math.log(statistics.median(ratios)))
    return max(middle, max(ratios) / (1 + MARGIN))
