"""Split conformal rules for the interval of counts and for contradicting a record. Pure functions.

A score is computed for every calibration visit at its true count; the rule's limit is the ceil((n + 1) * level)-th
smallest score (Vovk et al. 2005; Lei et al. 2018). For visits exchangeable with the calibration visits the level then
holds for any network and any number of visits, and is exceeded by 1 / (n + 1) at most where scores have no ties.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bundle.interval import mass_before
from bundle.manifest import IntervalRule, MismatchRule
from bundle.verdict import sides

if TYPE_CHECKING:
    from numpy.typing import NDArray


def conformal_quantile(scores: NDArray[np.float64], level: float) -> float | None:
    """The limit that a new score stays at or below with probability `level`.

    Args:
        scores: float64, (N,), of the calibration visits at their true counts.
        level: 0..1 exclusive.

    Returns:
        The limit, or None when N is too small for the level: it takes N >= level / (1 - level).
    """
    # The product is a hair above the integer for levels such as 0.9, which would ask for one visit more than due.
    rank = math.ceil((len(scores) + 1) * level - 1e-9)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else None


def fit_interval(posterior: NDArray[np.float64], truth: NDArray[np.int64], *, coverage: float) -> IntervalRule | None:
    """Find how much posterior mass an interval must gather.

    Args:
        posterior: float64, (V, K), calibrated.
        truth: int64, (V,), class indices.
        coverage: Share of visits whose true count shall lie inside.

    Returns:
        The rule, or None when there are too few visits for this coverage.
    """
    scores = np.array([mass_before(row)[index] for row, index in zip(posterior, truth, strict=True)])
    mass = conformal_quantile(scores, coverage)
    return None if mass is None else IntervalRule(coverage=coverage, mass=mass, frames=len(truth))


def fit_mismatch(
    posterior: NDArray[np.float64], truth: NDArray[np.int64], *, false_alarm: float
) -> MismatchRule | None:
    """Find how one-sided a posterior must be before it contradicts a record.

    Args:
        posterior: float64, (V, K), calibrated.
        truth: int64, (V,), class indices.
        false_alarm: Share of right records that may be contradicted.

    Returns:
        The rule, or None when there are too few visits for so few false alarms.
    """
    splits = (sides(row, int(index)) for row, index in zip(posterior, truth, strict=True))
    scores = np.array([max(below, above) for below, _, above in splits])
    tail = conformal_quantile(scores, 1 - false_alarm)
    if tail is None:
        return None
    # Sums of floats may come out a hair above 1.
    return MismatchRule(false_alarm=false_alarm, tail=min(tail, 1.0), frames=len(truth))
