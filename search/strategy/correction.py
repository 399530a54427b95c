"""How far estimates of memory were off in this search, as one factor for later estimates.

Few measurements are weak evidence of a bias, but one that exceeded its estimate proves that this is possible. So the
factor is the median of the ratios, drawn towards 1 if there are few, and never below what the worst case demands.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

MARGIN = 0.10  # by which a measured peak may exceed its corrected estimate
PRIOR_TRIALS = 4  # as strong as this many trials that measured exactly the estimate


def correction(pairs: Iterable[tuple[float, float]]) -> float:
    """The factor for estimates, given pairs (estimated, measured), both positive; 1.0 without pairs.

    The median ratio, with its logarithm weighted n to PRIOR_TRIALS against 0, but at least the largest ratio / (1 +
    MARGIN). The order of the pairs does not matter.
    """
    ratios = [measured / estimated for estimated, measured in pairs]
    if not ratios:
        return 1.0
    weight = len(ratios) / (len(ratios) + PRIOR_TRIALS)
    middle = math.exp(weight * math.log(statistics.median(ratios)))
    return max(middle, max(ratios) / (1 + MARGIN))
