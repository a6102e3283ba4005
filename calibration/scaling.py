"""From logits to probabilities: a temperature, and where it pays, tilt and curvature along the order of the counts.

A temperature repairs how sure a network is, not where it leans. Under other light or blur networks lean: they miss
items and count low. Two more numbers repair that, in the order of the classes, and so change counts as well. They are
taken only when they win on held-out visits by more than two standard errors (measured on bin photos with a MobileNetV2
and 200 labelled visits: no gain on the photos as they are, 0.03 to 0.14 nats per visit on photos that are much darker,
blurred or tinted).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from calibration.labelled import Labelled

_TEMPERATURES = (0.05, 20.0)
_FOLDS = 5
_MIN_VISITS = 100
_SIGMAS = 2.0
_RIDGE = 0.5
_NEWTON_STEPS = 40
_MAX_TILT = 50.0


def fit_scaling(data: Labelled) -> tuple[float, tuple[float, float] | None]:
    """Fit a temperature, and the ordinal part if it wins on visits that it was not fitted to.

    Args:
        data: Labelled outputs.

    Returns:
        The temperature, and tilt and curvature or None.
    """
    temperature = fit_temperature(data)
    if len(data) >= _MIN_VISITS and _ordinal_wins(data):
        return fit_ordinal(data, temperature)
    return temperature, None


def _ordinal_wins(data: Labelled) -> bool:
    groups = np.arange(len(data)) if data.groups is None else np.unique(data.groups, return_inverse=True)[1]
    fold = np.random.default_rng(0).permutation(int(groups.max()) + 1)[groups] % _FOLDS
    gain = np.zeros(len(data))
    for held_out in range(_FOLDS):
        rows, others = np.flatnonzero(fold == held_out), np.flatnonzero(fold != held_out)
        if len(rows) == 0 or len(others) == 0:
            return False
        part, rest = data.take(rows), data.take(others)
        plain = fit_temperature(rest)
        temperature, ordinal = fit_ordinal(rest, plain)
        gain[rows] = _log_likelihoods(part, temperature, ordinal) - _log_likelihoods(part, plain, None)
    return bool(gain.mean() > _SIGMAS * gain.std() / math.sqrt(len(gain)))


def fit_ordinal(data: Labelled, start: float | None = None) -> tuple[float, tuple[float, float]]:
    """Fit temperature, tilt and curvature together, by Newton's method on the frames.

    The logarithm of a softmax that is linear in its parameters is concave, so there is one optimum; a weak ridge keeps
    tilt and curvature finite when a class is missing from the labels.

    Args:
        data: Labelled outputs.
        start: Temperature alone, from `fit_temperature`; None finds it.

    Returns:
        The temperature, and tilt and curvature.
    """
    logits = data.logits.astype(np.float64)
    truth = data.truth if data.visits is None else data.truth[data.visits]
    along = np.broadcast_to(np.linspace(-1, 1, logits.shape[1]), logits.shape)
    features = np.stack([logits, along, along**2], axis=2)
    parameters = np.array([1 / (fit_temperature(data) if start is None else start), 0.0, 0.0])
    ridge = np.array([0.0, _RIDGE, _RIDGE])
    for _ in range(_NEWTON_STEPS):
        slope, curvature = _derivatives(features, truth, parameters)
        step = np.linalg.solve(curvature + np.diag(ridge + 1e-9), slope - ridge * parameters)
        # A bounded step keeps Newton's method from leaping where the softmax is saturated.
        parameters = parameters + step / max(1.0, float(np.abs(step).max()) / 2)
        parameters[0] = min(max(parameters[0], 1 / _TEMPERATURES[1]), 1 / _TEMPERATURES[0])
        if np.abs(step).max() < 1e-9:  # noqa: PLR2004 - far below any digit that matters
            break
    tilt, bend = (float(np.clip(value, -_MAX_TILT, _MAX_TILT)) for value in parameters[1:])
    return float(1 / parameters[0]), (tilt, bend)


def _derivatives(
    features: NDArray[np.float64], truth: NDArray[np.int64], parameters: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slope and negative curvature of the log-likelihood: (3,) and (3, 3)."""
    scaled = features @ parameters
    scaled -= scaled.max(axis=1, keepdims=True)
    weight = np.exp(scaled)
    weight /= weight.sum(axis=1, keepdims=True)
    mean = np.einsum("nk,nkp->np", weight, features)
    slope = (features[np.arange(len(truth)), truth] - mean).sum(axis=0)
    second = np.einsum("nk,nkp,nkq->pq", weight, features, features, optimize=True)
    return slope, second - mean.T @ mean


def negative_log_likelihood(data: Labelled, temperature: float, ordinal: tuple[float, float] | None = None) -> float:
    """Mean of -log p(truth) at a temperature.

    Args:
        data: Labelled outputs.
        temperature: Above 0.
        ordinal: Tilt and curvature, or None.

    Returns:
        Nats per visit.
    """
    return float(-_log_likelihoods(data, temperature, ordinal).mean())


def _log_likelihoods(data: Labelled, temperature: float, ordinal: tuple[float, float] | None) -> NDArray[np.float64]:
    likelihood = data.posteriors(temperature, ordinal)[np.arange(len(data)), data.truth]
    return np.asarray(np.log(np.maximum(likelihood, np.finfo(np.float64).tiny)))


def fit_temperature(data: Labelled, iterations: int = 40) -> float:
    """Temperature with the smallest negative log-likelihood, by golden-section search on its logarithm.

    Args:
        data: Labelled outputs.
        iterations: Of the search; 40 leave an error below 1e-7.

    Returns:
        A temperature in 0.05..20.
    """
    ratio = (math.sqrt(5) - 1) / 2
    low, high = (math.log(bound) for bound in _TEMPERATURES)
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = (negative_log_likelihood(data, math.exp(place)) for place in (left, right))
    for _ in range(iterations):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = negative_log_likelihood(data, math.exp(left))
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = negative_log_likelihood(data, math.exp(right))
    return math.exp((low + high) / 2)
