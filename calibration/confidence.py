"""A confidence that keeps its promise: temperature, then a threshold with a finite-sample bound. Pure functions.

The promise is "with 95 % confidence, at most `risk` of the counts called confident are wrong". It is found by
fixed-sequence testing with several starts (learn then test, Angelopoulos et al. 2021): thresholds are tried from strict
to loose, each with a Clopper-Pearson bound, and the first failure ends the walk. Four walks start at 1, 3, 9 and 27
times the fewest visits that could pass, each with a quarter of the error probability, so that one unlucky visit among
the surest does not end the search; the confidence holds for the loosest threshold found although many were tried.
Visits must be independent of training: use a grouped split. One approximation is made knowingly: the temperature is one
number fitted on the same visits, and the bound takes it as given.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from bundle.manifest import Calibration, Promise
from calibration.bounds import frames_needed, supports
from calibration.conformal import fit_interval, fit_mismatch
from calibration.labelled import Labelled
from calibration.scaling import fit_scaling, fit_temperature, negative_log_likelihood

__all__ = [
    "NEVER",
    "Labelled",
    "calibrate",
    "find_threshold",
    "fit_temperature",
    "negative_log_likelihood",
    "tops",
    "visits_needed",
]

if TYPE_CHECKING:
    from typing import Literal

    from numpy.typing import NDArray

_STARTS = (1, 3, 9, 27)
_FEWEST_SEEN = 10
_MOST_VISITS = 1_000_000
_GRID = np.round(np.arange(0.99, 0.005, -0.01), 2)
NEVER = 1.0
"""Threshold at which nothing is confident: what an unsupported promise leads to."""


def find_threshold(
    data: Labelled,
    temperature: float,
    *,
    risk: float,
    confidence: float,
    ordinal: tuple[float, float] | None = None,
) -> tuple[float, Promise] | None:
    """Loosest threshold whose error bound stays within the risk.

    Args:
        data: Labelled outputs, independent of training.
        temperature: From `fit_temperature`.
        risk: Highest accepted share of wrong counts among the confident ones, 0..1 exclusive.
        confidence: Of the bound.
        ordinal: From `calibration.scaling.fit_scaling`.

    Returns:
        The threshold and its promise, or None when the data supports none.
    """
    top, wrong = tops(data, temperature, ordinal)
    share = 1 - (1 - confidence) / len(_STARTS)
    fewest = frames_needed(risk, share)
    # Where a walk starts depends on confidences alone, never on a label: that is what keeps the bound valid.
    walks = (_walk(top, wrong, risk=risk, confidence=share, fewest=fewest * times) for times in _STARTS)
    threshold = min((found for found in walks if found is not None), default=None)
    if threshold is None:
        return None
    coverage = float((top >= threshold).mean())
    return threshold, Promise(risk=risk, confidence=confidence, coverage=coverage, frames=len(top))


def tops(
    data: Labelled, temperature: float, ordinal: tuple[float, float] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Confidence of every visit, and whether its count is wrong.

    Args:
        data: Labelled outputs.
        temperature: From `fit_temperature`.
        ordinal: From `calibration.scaling.fit_scaling`.

    Returns:
        float64 (V,) and bool (V,).
    """
    posterior = data.posteriors(temperature, ordinal)
    return posterior.max(axis=1), posterior.argmax(axis=1) != data.truth


def visits_needed(
    data: Labelled,
    temperature: float,
    *,
    risk: float,
    confidence: float,
    ordinal: tuple[float, float] | None = None,
) -> int | None:
    """Estimate how many labelled visits like these a promise would take at least.

    Args:
        data: Labelled outputs that supported no promise.
        temperature: From `fit_temperature`.
        risk: Highest accepted share of wrong counts among the confident ones, 0..1 exclusive.
        confidence: Of the bound.
        ordinal: From `calibration.scaling.fit_scaling`.

    Returns:
        Number of visits in all; None when at no threshold the share of wrong counts lies below the risk, so that more
        visits would not help.
    """
    top, wrong = tops(data, temperature, ordinal)
    share = 1 - (1 - confidence) / len(_STARTS)
    needed = []
    for threshold in np.unique(_GRID):
        chosen = top >= threshold
        total = int(chosen.sum())
        # Half an error more than was seen: three right answers out of three are no proof of perfection.
        if total >= _FEWEST_SEEN and (rate := (int(wrong[chosen].sum()) + 0.5) / (total + 1)) < risk:
            needed.append(_confident_needed(rate, risk, share) * len(top) / total)
    return math.ceil(min(needed)) if needed else None


def _confident_needed(rate: float, risk: float, confidence: float) -> int:
    low = high = frames_needed(risk, confidence)
    while not supports(round(rate * high), high, risk, confidence):
        low, high = high, high * 2
        if high > _MOST_VISITS:
            return high
    while low < high:
        middle = (low + high) // 2
        if supports(round(rate * middle), middle, risk, confidence):
            high = middle
        else:
            low = middle + 1
    return high


def _walk(
    top: NDArray[np.float64], wrong: NDArray[np.bool_], *, risk: float, confidence: float, fewest: int
) -> float | None:
    """Loosest threshold that a walk from the first one with `fewest` frames reaches without a failure."""
    found = None
    for threshold in _GRID:
        chosen = top >= threshold
        total = int(chosen.sum())
        if total < fewest:
            continue
        if not supports(int(wrong[chosen].sum()), total, risk, confidence):
            break
        found = float(threshold)
    return found


def calibrate(
    data: Labelled,
    *,
    fitted_on: Literal["reference", "cpu", "tensorrt"],
    risk: float,
    confidence: float = 0.95,
    coverage: float = 0.9,
    false_alarm: float = 0.05,
) -> Calibration:
    """Fit everything that turns logits into an honest confidence.

    Args:
        data: Labelled outputs of the model that the robot will run.
        fitted_on: That model's role.
        risk: Highest accepted share of wrong counts among the confident ones, 0..1 exclusive.
        confidence: Of the promise.
        coverage: Share of visits whose true count shall lie in the reported interval.
        false_alarm: Share of right records that may be called short or over.

    Returns:
        Temperature, threshold, promise, and the rules for the interval and for records. When the data supports no
        promise, the promise is None and the threshold is 1.0: nothing is called confident. A rule that needs more
        visits than there are is None.
    """
    temperature, ordinal = fit_scaling(data)
    posterior = data.posteriors(temperature, ordinal)
    found = find_threshold(data, temperature, risk=risk, confidence=confidence, ordinal=ordinal)
    threshold, promise = (NEVER, None) if found is None else found
    return Calibration(
        temperature=temperature,
        ordinal=ordinal,
        threshold=threshold,
        fitted_on=fitted_on,
        promise=promise,
        interval=fit_interval(posterior, data.truth, coverage=coverage),
        mismatch=fit_mismatch(posterior, data.truth, false_alarm=false_alarm),
    )
