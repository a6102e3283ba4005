"""A confidence that keeps its promise: temperature, then a threshold with a finite-sample bound. Pure functions.

The promise is "with 95 % confidence, at most `risk` of the counts called confident are wrong". It is found by
fixed-sequence testing with several starts (learn then test, Angelopoulos et al. 2021): thresholds are tried from strict
to loose, each with a Clopper-Pearson bound, and the first failure ends the walk. Four walks start at 1, 3, 9 and 27
times the fewest frames that could pass, each with a quarter of the error probability, so that one unlucky frame among
the surest does not end the search; the confidence holds for the loosest threshold found although many were tried. Frames
must be independent of training: use a grouped split.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle.counter import posterior_from_logits
from bundle.errors import InputError
from bundle.manifest import Calibration, Promise

if TYPE_CHECKING:
    from typing import Literal

    from numpy.typing import NDArray

_TEMPERATURES = (0.05, 20.0)
_STARTS = (1, 3, 9, 27)
_GRID = np.round(np.arange(0.99, 0.005, -0.01), 2)
NEVER = 1.0
"""Threshold at which nothing is confident: what an unsupported promise leads to."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Outputs of one model on frames whose count is known.

    Attributes:
        logits: float32, (N, K), finite.
        truth: int64, (N,), class indices 0..K-1.
    """

    logits: NDArray[np.float32]
    truth: NDArray[np.int64]

    def __post_init__(self) -> None:
        """Check the shapes once.

        Raises:
            InputError: The arrays do not belong together.
        """
        frames, classes = self.logits.shape
        if frames == 0 or self.truth.shape != (frames,) or not (0 <= self.truth.min() <= self.truth.max() < classes):
            raise InputError(
                "calibration frames are not usable",
                got=f"logits {self.logits.shape}, truth {self.truth.shape}",
                expected="(N, K) logits and (N,) class indices below K, N at least 1",
            )


def negative_log_likelihood(data: Labelled, temperature: float) -> float:
    """Mean of -log p(truth) at a temperature.

    Args:
        data: Labelled outputs.
        temperature: Above 0.

    Returns:
        Nats per frame.
    """
    posterior = posterior_from_logits(data.logits, temperature)
    likelihood = posterior[np.arange(len(data.truth)), data.truth]
    return float(-np.log(np.maximum(likelihood, np.finfo(np.float64).tiny)).mean())


def fit_temperature(data: Labelled, iterations: int = 60) -> float:
    """Temperature with the smallest negative log-likelihood, by golden-section search on its logarithm.

    Args:
        data: Labelled outputs.
        iterations: Of the search; 60 leave an error below 1e-11 of the range.

    Returns:
        A temperature in 0.05..20.
    """
    ratio = (math.sqrt(5) - 1) / 2
    low, high = (math.log(bound) for bound in _TEMPERATURES)
    for _ in range(iterations):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if negative_log_likelihood(data, math.exp(left)) <= negative_log_likelihood(data, math.exp(right)):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def clopper_pearson_upper(wrong: int, total: int, confidence: float) -> float:
    """One-sided upper bound of an error rate.

    Args:
        wrong: Errors seen, 0..total.
        total: Trials, at least 1.
        confidence: For example 0.95.

    Returns:
        The rate at which `wrong` or fewer errors have probability 1 - confidence (Clopper and Pearson 1934).
    """
    if wrong >= total:
        return 1.0
    low, high = wrong / total, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _binomial_cdf(wrong, total, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def _binomial_cdf(successes: int, total: int, rate: float) -> float:
    if rate >= 1:
        return 0.0
    log_rate, log_rest = math.log(rate), math.log1p(-rate)
    terms = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) + k * log_rate + (total - k) * log_rest
        for k in range(successes + 1)
    ]
    largest = max(terms)
    return math.exp(largest) * sum(math.exp(term - largest) for term in terms)


def frames_needed(risk: float, confidence: float) -> int:
    """Fewest confident frames, all of them right, that can support a promise.

    Args:
        risk: Highest accepted error rate, 0..1 exclusive.
        confidence: Of the bound.

    Returns:
        Number of frames.
    """
    return math.ceil(math.log(1 - confidence) / math.log1p(-risk))


def find_threshold(
    data: Labelled, temperature: float, *, risk: float, confidence: float
) -> tuple[float, Promise] | None:
    """Loosest threshold whose error bound stays within the risk.

    Args:
        data: Labelled outputs, independent of training.
        temperature: From `fit_temperature`.
        risk: Highest accepted share of wrong counts among the confident ones, 0..1 exclusive.
        confidence: Of the bound.

    Returns:
        The threshold and its promise, or None when the data supports none.
    """
    posterior = posterior_from_logits(data.logits, temperature)
    top, wrong = posterior.max(axis=1), posterior.argmax(axis=1) != data.truth
    share = 1 - (1 - confidence) / len(_STARTS)
    fewest = frames_needed(risk, share)
    # Where a walk starts depends on confidences alone, never on a label: that is what keeps the bound valid.
    walks = (_walk(top, wrong, risk=risk, confidence=share, fewest=fewest * times) for times in _STARTS)
    threshold = min((found for found in walks if found is not None), default=None)
    if threshold is None:
        return None
    coverage = float((top >= threshold).mean())
    return threshold, Promise(risk=risk, confidence=confidence, coverage=coverage, frames=len(top))


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
        if clopper_pearson_upper(int(wrong[chosen].sum()), total, confidence) > risk:
            break
        found = float(threshold)
    return found


def calibrate(
    data: Labelled, *, fitted_on: Literal["reference", "cpu", "tensorrt"], risk: float, confidence: float = 0.95
) -> Calibration:
    """Fit everything that turns logits into an honest confidence.

    Args:
        data: Labelled outputs of the model that the robot will run.
        fitted_on: That model's role.
        risk: Highest accepted share of wrong counts among the confident ones, 0..1 exclusive.
        confidence: Of the promise.

    Returns:
        Temperature, threshold and promise. When the data supports no promise, the promise is None and the threshold is
        1.0: nothing is called confident.
    """
    temperature = fit_temperature(data)
    found = find_threshold(data, temperature, risk=risk, confidence=confidence)
    threshold, promise = (NEVER, None) if found is None else found
    return Calibration(temperature=temperature, threshold=threshold, fitted_on=fitted_on, promise=promise)
