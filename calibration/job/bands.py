"""What the visits after an activation should look like, from the visits before it. Pure, without SciPy.

The number of hits among N new visits, after k hits among m old ones, follows a beta-binomial distribution (Jeffreys'
prior). Visits of a day resemble one another more than independent ones do, so the band is widened by a few points: a
candidate that is merely different reverts, one that is as predicted stays.
"""

from __future__ import annotations

import math

import numpy as np

_PRIOR = 0.5
_SLACK = 0.05
TAIL = 0.001


def hits_band(hits: int, total: int, new: int, tail: float = TAIL) -> tuple[int, int]:
    """Fewest and most hits to expect among new visits.

    Args:
        hits: Among the old visits.
        total: Old visits.
        new: Visits to come.
        tail: Probability beyond either end.

    Returns:
        The band, both ends included, widened by 5 % of the new visits.
    """
    if new == 0:
        return 0, 0
    cumulative = np.cumsum(_beta_binomial(hits + _PRIOR, total - hits + _PRIOR, new))
    low = int(np.searchsorted(cumulative, tail))
    high = int(np.searchsorted(cumulative, 1 - tail))
    slack = math.ceil(_SLACK * new)
    return max(0, low - slack), min(new, high + slack)


def _beta_binomial(alpha: float, beta: float, number: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    log = [
        math.lgamma(number + 1)
        - math.lgamma(k + 1)
        - math.lgamma(number - k + 1)
        + math.lgamma(k + alpha)
        + math.lgamma(number - k + beta)
        - math.lgamma(number + alpha + beta)
        for k in range(number + 1)
    ]
    weights = np.exp(np.array(log) - max(log))
    return np.asarray(weights / weights.sum())
