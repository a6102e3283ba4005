"""What a counter's confidence is worth: reliability per bin, and the risk that is left at each coverage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from train.metrics import Judged

_BINS = 10


@dataclass(frozen=True, slots=True)
class Bin:
    """Photos whose confidence lies in one interval.

    Attributes:
        confidence: Their mean confidence.
        accuracy: Share of hits among them.
        photos: How many they are.
    """

    confidence: float
    accuracy: float
    photos: int


def reliability_bins(judged: Judged, bins: int = _BINS) -> list[Bin]:
    """Group photos by confidence in equal steps.

    Args:
        judged: Answers beside the truth.
        bins: Number of steps between 0 and 1.

    Returns:
        The bins that have photos, ascending.
    """
    confidence = judged.posterior.max(axis=1)
    hits = judged.answer == judged.truth
    index = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    found = []
    for step in range(bins):
        inside = index == step
        if inside.any():
            mean, share = float(confidence[inside].mean()), float(hits[inside].mean())
            found.append(Bin(mean, share, int(inside.sum())))
    return found


def risk_coverage(judged: Judged) -> list[tuple[float, float]]:
    """Share of wrong counts among the most confident photos, for every share of photos kept.

    Photos of equal confidence are kept or dropped together, so the curve does not depend on their order.

    Args:
        judged: Answers beside the truth.

    Returns:
        (coverage, risk), coverage ascending to 1.
    """
    coverage, risk = _risks(judged)
    return list(zip(coverage.tolist(), risk.tolist(), strict=True))


def area_under_risk_coverage(judged: Judged) -> float:
    """Mean risk over all coverages; lower is better, 0 is never wrong.

    Args:
        judged: Answers beside the truth.

    Returns:
        0..1.
    """
    coverage, risk = _risks(judged)
    return float(np.diff(coverage, prepend=0.0) @ risk)


def _risks(judged: Judged) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coverage and risk, a point for each distinct confidence."""
    confidence = judged.posterior.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    wrong = np.cumsum((judged.answer != judged.truth)[order])
    kept = np.arange(1, len(order) + 1)
    ends = np.append(np.diff(confidence[order]) != 0, [True])
    return kept[ends] / len(order), wrong[ends] / kept[ends]
