"""How good a calibration is on visits it has not seen: cross-fitted figures for reports and gates. Pure functions.

Groups of visits (one bin) go to one fold whole. Every fold's visits are judged with the numbers that the other folds
gave, so no figure here is measured on what it was fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle.interval import mass_before
from bundle.verdict import sides
from calibration.confidence import calibrate, tops

if TYPE_CHECKING:
    from typing import Literal

    from numpy.typing import NDArray

    from bundle.manifest import Calibration
    from calibration.labelled import Labelled

BINS = 15
FOLDS = 5


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asks of a calibration.

    Attributes:
        risk: Highest accepted share of wrong counts among the confident ones.
        confidence: Of the promise.
        coverage: Share of visits whose true count shall lie in the interval.
        false_alarm: Share of right records that may be contradicted.
    """

    risk: float = 0.05
    confidence: float = 0.95
    coverage: float = 0.9
    false_alarm: float = 0.05

    def fit(self, data: Labelled, fitted_on: Literal["reference", "cpu", "tensorrt"]) -> Calibration:
        """Calibrate for this wish.

        Args:
            data: Labelled outputs.
            fitted_on: Role of the model that gave them.

        Returns:
            See `calibration.confidence.calibrate`.
        """
        return calibrate(
            data,
            fitted_on=fitted_on,
            risk=self.risk,
            confidence=self.confidence,
            coverage=self.coverage,
            false_alarm=self.false_alarm,
        )


@dataclass(frozen=True, slots=True)
class Unseen:
    """Every visit, judged by numbers fitted without it.

    Attributes:
        posterior: float64, (V, K).
        truth: int64, (V,).
        confident: bool, (V,).
        width: int64, (V,), classes in the interval; 0 where no rule could be fitted.
        inside: bool, (V,), the true class lies in the interval.
        tail: float64, (V,), the mismatch limit of the visit's fold; NaN where none could be fitted.
    """

    posterior: NDArray[np.float64]
    truth: NDArray[np.int64]
    confident: NDArray[np.bool_]
    width: NDArray[np.int64]
    inside: NDArray[np.bool_]
    tail: NDArray[np.float64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Where the count is right: bool, (V,)."""
        return np.asarray(self.posterior.argmax(axis=1) == self.truth)


def folds_of(data: Labelled, folds: int, seed: int = 0) -> NDArray[np.int64]:
    """Deal groups to folds.

    Args:
        data: Labelled outputs.
        folds: How many.
        seed: Of the dealing.

    Returns:
        int64, (V,), 0..folds - 1; visits of one group share a fold.
    """
    groups = np.arange(len(data)) if data.groups is None else data.groups
    _, compact = np.unique(groups, return_inverse=True)
    number = int(compact.max()) + 1
    dealt = np.random.default_rng(seed).permutation(number) % folds
    return np.asarray(dealt[compact], np.int64)


def cross_fit(data: Labelled, wish: Wish, *, folds: int = FOLDS, seed: int = 0) -> Unseen:
    """Judge every visit with the numbers of the other folds.

    Args:
        data: Labelled outputs, at least as many groups as folds.
        wish: What the calibration is for.
        folds: How many.
        seed: Of the dealing.

    Returns:
        The visits in their order.
    """
    fold = folds_of(data, folds, seed)
    classes, count = data.logits.shape[1], len(data)
    posterior, tail = np.zeros((count, classes)), np.full(count, np.nan)
    confident, inside = np.zeros(count, np.bool_), np.zeros(count, np.bool_)
    width = np.zeros(count, np.int64)
    for held_out in range(folds):
        rows = np.flatnonzero(fold == held_out)
        if len(rows) == 0:
            continue
        fitted = wish.fit(data.take(np.flatnonzero(fold != held_out)), "cpu")
        part = data.take(rows)
        posterior[rows] = part.posteriors(fitted.temperature, fitted.ordinal)
        top, _ = tops(part, fitted.temperature, fitted.ordinal)
        confident[rows] = (top >= fitted.threshold) & (fitted.threshold < 1)
        if fitted.interval is not None:
            member = np.stack([mass_before(row) for row in posterior[rows]]) <= fitted.interval.mass
            width[rows], inside[rows] = member.sum(axis=1), member[np.arange(len(rows)), part.truth]
        if fitted.mismatch is not None:
            tail[rows] = fitted.mismatch.tail
    return Unseen(posterior, data.truth, confident, width, inside, tail)


def calibration_error(posterior: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Expected calibration error over 15 equal bins of confidence.

    Args:
        posterior: float64, (V, K).
        truth: int64, (V,).

    Returns:
        Mean gap between confidence and share of right counts, 0..1.
    """
    return float(sum(row.share * abs(row.right - row.confidence) for row in reliability(posterior, truth)))


def calibration_error_floor(posterior: NDArray[np.float64], draws: int = 200, seed: int = 0) -> float:
    """What `calibration_error` would show if every posterior were exactly true: the noise of so few visits.

    Args:
        posterior: float64, (V, K).
        draws: Simulated sets of truths.
        seed: Of the draws.

    Returns:
        Mean over the draws.
    """
    rng = np.random.default_rng(seed)
    top, slot = posterior.max(axis=1), _slots(posterior)
    found = []
    for _ in range(draws):
        gap = np.bincount(slot, weights=(rng.random(len(top)) < top) - top, minlength=BINS)
        found.append(np.abs(gap).sum() / len(top))
    return float(np.mean(found))


@dataclass(frozen=True, slots=True)
class Reliability:
    """One bin of the reliability diagram.

    Attributes:
        share: Of all visits.
        visits: In the bin.
        confidence: Mean.
        right: Share of right counts.
    """

    share: float
    visits: int
    confidence: float
    right: float


def _slots(posterior: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.asarray(np.minimum(posterior.max(axis=1) * BINS, BINS - 1), np.int64)


def reliability(posterior: NDArray[np.float64], truth: NDArray[np.int64]) -> list[Reliability]:
    """Bins of confidence that hold visits, from low to high.

    Args:
        posterior: float64, (V, K).
        truth: int64, (V,).

    Returns:
        At most 15 bins.
    """
    top, right, slot = posterior.max(axis=1), posterior.argmax(axis=1) == truth, _slots(posterior)
    return [
        Reliability(
            float((slot == one).mean()),
            int((slot == one).sum()),
            float(top[slot == one].mean()),
            float(right[slot == one].mean()),
        )
        for one in np.unique(slot)
    ]


def risk_coverage(posterior: NDArray[np.float64], truth: NDArray[np.int64]) -> tuple[NDArray[np.float64], float]:
    """Share of wrong counts among the most confident visits, for every number of them.

    Args:
        posterior: float64, (V, K).
        truth: int64, (V,).

    Returns:
        float64, (V,): the share at coverage 1 / V, 2 / V, ..., 1; and the area under it.
    """
    order = np.argsort(-posterior.max(axis=1), kind="stable")
    wrong = (posterior.argmax(axis=1) != truth)[order]
    curve = np.cumsum(wrong) / np.arange(1, len(wrong) + 1)
    return curve, float(curve.mean())


def mismatches(unseen: Unseen, offset: int) -> float | None:
    """How often a record is contradicted that lies `offset` beside the truth.

    Args:
        unseen: From `cross_fit`.
        offset: 0 for right records: the share is then that of false alarms.

    Returns:
        Share among the visits where the classes cover such a record; None when there is none.
    """
    classes = unseen.posterior.shape[1]
    hits = []
    for row, truth, tail in zip(unseen.posterior, unseen.truth, unseen.tail, strict=True):
        record = int(truth) + offset
        if 0 <= record < classes and not np.isnan(tail):
            below, _, above = sides(row, record)
            hits.append(max(below, above) > tail)
    return float(np.mean(hits)) if hits else None
