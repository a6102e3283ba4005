"""Finite-sample bounds of an error rate, exact for the binomial distribution. Pure functions, no SciPy on a robot."""

from __future__ import annotations

import math

import numpy as np


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


def supports(wrong: int, total: int, risk: float, confidence: float) -> bool:
    """Tell whether the upper bound of an error rate stays within a risk, without computing the bound.

    Args:
        wrong: Errors seen, 0..total.
        total: Trials, at least 1.
        risk: 0..1 exclusive.
        confidence: Of the bound.

    Returns:
        The same as `clopper_pearson_upper(wrong, total, confidence) <= risk`.
    """
    return _binomial_cdf(wrong, total, risk) <= 1 - confidence


def _binomial_cdf(successes: int, total: int, rate: float) -> float:
    if rate >= 1:
        return 1.0 if successes >= total else 0.0
    k = np.arange(successes + 1)
    # log of C(total, k) / C(total, k - 1), summed up: no factorial overflows.
    steps = np.log(np.maximum(total - k[1:] + 1, 1)) - np.log(k[1:])
    log_choose = np.concatenate([[0.0], np.cumsum(steps)])
    terms = log_choose + k * math.log(rate) + (total - k) * math.log1p(-rate)
    largest = float(terms.max())
    return math.exp(largest) * float(np.exp(terms - largest).sum())


def frames_needed(risk: float, confidence: float) -> int:
    """Fewest confident frames, all of them right, that can support a promise.

    Args:
        risk: Highest accepted error rate, 0..1 exclusive.
        confidence: Of the bound.

    Returns:
        Number of frames.
    """
    return math.ceil(math.log(1 - confidence) / math.log1p(-risk))
