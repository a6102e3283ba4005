"""How good counts are, each figure with a 95 % interval, from posteriors and true counts alone (numpy, no torch).

Shares (accuracy, within one, precision and recall of a class) get Wilson intervals; everything else a percentile
bootstrap over photos with a fixed seed. An open top class stands for its lowest count, in the truth as in the answer:
"6+" against "6+" is a hit, and its distance to "5" is one. Percentages are never used: all shares are 0..1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.errors import InputError
from bundle.manifest import class_value
from train.reliability import area_under_risk_coverage

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from bundle.manifest import CountClasses

_Z95 = 1.959963984540054
_BOOTSTRAP_DRAWS = 1000
_BOOTSTRAP_SEED = 20
_ECE_BINS = 15
_POSTERIOR_AXES = 2


@dataclass(frozen=True, slots=True)
class Judged:
    """Answers beside the truth.

    Attributes:
        truth: int64 (N,), true class indices.
        posterior: float64 (N, K), rows sum to one.
        values: float64 (K,), the count that each class stands for.
        answer: int64 (N,), the most probable class.
    """

    truth: NDArray[np.int64]
    posterior: NDArray[np.float64]
    values: NDArray[np.float64]
    answer: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64]) -> Judged:
        """Some of the photos, for resampling.

        Args:
            rows: int64 (M,), positions, repeats allowed.

        Returns:
            Their answers and truths.
        """
        return Judged(self.truth[rows], self.posterior[rows], self.values, self.answer[rows])


def judge(truth: NDArray[np.int64], posterior: NDArray[np.float64], classes: CountClasses) -> Judged:
    """Put answers beside the truth, checked.

    Args:
        truth: int64 (N,), true class indices.
        posterior: float64 (N, K).
        classes: The K count classes.

    Returns:
        The judged photos.

    Raises:
        InputError: No photos, shapes that do not belong together, a class index out of range or a value not finite.
    """
    if posterior.ndim != _POSTERIOR_AXES or posterior.shape != (len(truth), len(classes)) or len(truth) == 0:
        raise InputError(
            "answers and truths do not belong together",
            got=f"{posterior.shape} posteriors for {len(truth)} truths",
            expected=f"(N, {len(classes)}) and N > 0",
        )
    if truth.min() < 0 or truth.max() >= len(classes) or not np.isfinite(posterior).all():
        raise InputError("a truth is outside the count classes, or a posterior is not finite", expected=list(classes))
    values = np.array([class_value(name) for name in classes], dtype=np.float64)
    return Judged(truth, posterior, values, np.asarray(np.argmax(posterior, axis=1), dtype=np.int64))


def measure(judged: Judged, classes: CountClasses) -> dict[str, Any]:
    """Every figure with its interval.

    Args:
        judged: Answers beside the truth.
        classes: Names of the classes.

    Returns:
        n, accuracy, within_1 and each of `ESTIMATES`, each but n with `_ci` (low, high) beside it; per_class:
        precision, recall and f1 with `_ci`, and support, by class name; confusion: rows are the truth, columns the
        answer.
    """
    count = len(judged.truth)
    figures: dict[str, Any] = {"n": count}
    for name, hits in (("accuracy", _exact(judged)), ("within_1", _within_one(judged))):
        figures[name] = float(hits.mean())
        figures[f"{name}_ci"] = wilson(int(hits.sum()), count)
    intervals = bootstrap(judged, _estimated)
    for (name, figure), interval in zip(ESTIMATES.items(), intervals[: len(ESTIMATES)], strict=True):
        figures[name] = figure(judged)
        figures[f"{name}_ci"] = interval
    table = confusion(judged)
    figures["per_class"] = _by_class(table, classes, intervals[len(ESTIMATES) :])
    figures["confusion"] = table.tolist()
    return figures


def brief(judged: Judged) -> dict[str, float]:
    """The figures without intervals, cheap enough for every epoch.

    Args:
        judged: Answers beside the truth.

    Returns:
        Figures by name.
    """
    shares = {"accuracy": float(_exact(judged).mean()), "within_1": float(_within_one(judged).mean())}
    return shares | {name: figure(judged) for name, figure in ESTIMATES.items()}


def wilson(hits: int, trials: int, z: float = _Z95) -> tuple[float, float]:
    """Wilson score interval of a share.

    Args:
        hits: Successes.
        trials: Attempts; without any, nothing is known: (0, 1).
        z: Normal quantile; the default gives 95 %.

    Returns:
        (low, high), within 0..1.
    """
    if trials == 0:
        return 0.0, 1.0
    share = hits / trials
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    centre, scale = share + z * z / (2 * trials), 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def bootstrap(
    judged: Judged,
    figures: Callable[[Judged], NDArray[np.float64]],
    *,
    draws: int = _BOOTSTRAP_DRAWS,
    seed: int = _BOOTSTRAP_SEED,
) -> list[tuple[float, float]]:
    """Percentile bootstrap intervals over photos, all figures on the same draws.

    Args:
        judged: Answers beside the truth.
        figures: What to estimate, float64 (F,).
        draws: Resamples.
        seed: The same seed resamples the same photos, so two models compare photo by photo.

    Returns:
        (2.5th, 97.5th) percentile of each.
    """
    rng = np.random.default_rng(seed)
    count = len(judged.truth)
    found = [figures(judged.take(rng.integers(0, count, count))) for _ in range(draws)]
    low, high = np.percentile(found, [2.5, 97.5], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def confusion(judged: Judged) -> NDArray[np.int64]:
    """Confusion matrix.

    Args:
        judged: Answers beside the truth.

    Returns:
        int64 (K, K), rows are the truth, columns the answer.
    """
    classes = len(judged.values)
    flat = np.bincount(judged.truth * classes + judged.answer, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def expected_calibration_error(judged: Judged) -> float:
    """Mean gap between confidence and accuracy over 15 equal bins of confidence, weighted by photos.

    Args:
        judged: Answers beside the truth.

    Returns:
        0..1.
    """
    confidence = judged.posterior.max(axis=1)
    bins = np.minimum((confidence * _ECE_BINS).astype(np.int64), _ECE_BINS - 1)
    gap = np.bincount(bins, weights=_exact(judged).astype(np.float64) - confidence, minlength=_ECE_BINS)
    return float(np.abs(gap).sum() / len(confidence))


def rmse(judged: Judged) -> float:
    """Root mean squared error of the most probable count.

    Args:
        judged: Answers beside the truth.

    Returns:
        Items.
    """
    return float(np.sqrt(np.square(_errors(judged)).mean()))


def rmse_posterior_mean(judged: Judged) -> float:
    """Root mean squared error of the posterior mean, unrounded.

    Args:
        judged: Answers beside the truth.

    Returns:
        Items.
    """
    mean = judged.posterior @ judged.values
    return float(np.sqrt(np.square(mean - judged.values[judged.truth]).mean()))


def mae(judged: Judged) -> float:
    """Mean absolute error of the most probable count.

    Args:
        judged: Answers beside the truth.

    Returns:
        Items.
    """
    return float(np.abs(_errors(judged)).mean())


def _errors(judged: Judged) -> NDArray[np.float64]:
    return np.asarray(judged.values[judged.answer] - judged.values[judged.truth])


def _exact(judged: Judged) -> NDArray[np.bool_]:
    return np.asarray(judged.answer == judged.truth)


def _within_one(judged: Judged) -> NDArray[np.bool_]:
    return np.asarray(np.abs(judged.answer - judged.truth) <= 1)


def _macro(column: int) -> Callable[[Judged], float]:
    """Mean of a column of `_per_class` over the classes that occur in the truth or the answers."""

    def mean(judged: Judged) -> float:
        table = confusion(judged)
        present = (table.sum(axis=0) + table.sum(axis=1)) > 0
        return float(_per_class(table)[present, column].mean())

    return mean


def _estimated(judged: Judged) -> NDArray[np.float64]:
    """Each of `ESTIMATES`, then F1 per class."""
    return np.array([*(figure(judged) for figure in ESTIMATES.values()), *_per_class(confusion(judged))[:, 2]])


def _by_class(
    table: NDArray[np.int64], classes: CountClasses, f1_intervals: list[tuple[float, float]]
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for index, (name, row) in enumerate(zip(classes, _per_class(table).tolist(), strict=True)):
        hits = int(table[index, index])
        found[name] = dict(zip(("precision", "recall", "f1", "support"), row, strict=True))
        found[name]["precision_ci"] = wilson(hits, int(table[:, index].sum()))
        found[name]["recall_ci"] = wilson(hits, int(table[index].sum()))
        found[name]["f1_ci"] = f1_intervals[index]
    return found


def _per_class(table: NDArray[np.int64]) -> NDArray[np.float64]:
    """Precision, recall, F1 and support per class; 0 where a class was never answered or never true."""
    hits = np.diag(table).astype(np.float64)
    answered, true = table.sum(axis=0), table.sum(axis=1)
    precision = hits / np.maximum(answered, 1)
    recall = hits / np.maximum(true, 1)
    f1 = 2 * hits / np.maximum(answered + true, 1)
    return np.stack([precision, recall, f1, true.astype(np.float64)], axis=1)


ESTIMATES: dict[str, Callable[[Judged], float]] = {
    "rmse": rmse,
    "rmse_posterior_mean": rmse_posterior_mean,
    "mae": mae,
    "macro_precision": _macro(0),
    "macro_recall": _macro(1),
    "macro_f1": _macro(2),
    "ece": expected_calibration_error,
    "aurc": area_under_risk_coverage,
}
"""Figures whose interval comes from the bootstrap."""
