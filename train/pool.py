"""Several runs as one result: folds that answer for different photos, seeds that answer for the same ones.

A photo's score is the mean over the runs that answered for it, and intervals resample photos. So five folds count every
photo once, and five seeds do not pretend to be five times as many photos. Two sets of runs are compared photo by photo
on the same draws, which is what makes a small difference visible.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bundle.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bundle.manifest import CountClasses
    from train.answers import Answers

_DRAWS = 2000
_SEED = 20
FIGURES = ("accuracy", "within_1", "rmse", "rmse_posterior_mean", "mae")
"""In the order of the columns of `PhotoScores.scores`; the two RMSE are roots of their column's mean."""
_ROOTS = np.array([name.startswith("rmse") for name in FIGURES])


@dataclass(frozen=True, slots=True)
class PhotoScores:
    """How well each photo was answered.

    Attributes:
        classes: Count classes of every run.
        ids: Photo ids, ascending.
        scores: float64 (photos, 5): hit, within one, squared error of the most probable count, squared error of the
            posterior mean, absolute error; each the mean over the runs that answered for the photo.
        runs: How many runs there are.
    """

    classes: CountClasses
    ids: tuple[str, ...]
    scores: NDArray[np.float64]
    runs: int


def pool(answers: Sequence[Answers]) -> PhotoScores:
    """Put the answers of several runs together.

    Args:
        answers: One per run, at least one.

    Returns:
        One score per photo.

    Raises:
        InputError: The runs answer with different count classes, or disagree about a photo's true count.
    """
    classes = answers[0].classes
    if any(other.classes != classes for other in answers):
        found = " and ".join(sorted({" ".join(other.classes) for other in answers}))
        raise InputError("the runs answer with different count classes", got=found)
    truth: dict[str, int] = {}
    for other in answers:
        for name, count in zip(other.ids, other.counts.tolist(), strict=True):
            if truth.setdefault(name, count) != count:
                raise InputError(f"the runs learned different counts for photo {name}", got=f"{truth[name]}, {count}")
    rows = np.concatenate([_scores(other) for other in answers])
    ids, photo = np.unique([name for other in answers for name in other.ids], return_inverse=True)
    sums = np.zeros((len(ids), len(FIGURES)))
    np.add.at(sums, photo, rows)
    return PhotoScores(classes, tuple(ids.tolist()), sums / np.bincount(photo)[:, None], len(answers))


def measure_pool(pooled: PhotoScores) -> dict[str, Any]:
    """Figures of a pool.

    Args:
        pooled: From `pool`.

    Returns:
        n (photos), runs, and each of `FIGURES` with its bootstrap interval as `_ci`.
    """
    draws = _resampled(pooled.scores)
    return {"n": len(pooled.ids), "runs": pooled.runs, **_with_intervals(_figures(pooled.scores.mean(axis=0)), draws)}


def compare_pools(ours: PhotoScores, theirs: PhotoScores) -> dict[str, Any]:
    """How much better one set of runs is than another, photo by photo.

    Args:
        ours: From `pool`.
        theirs: Likewise, on the same photos.

    Returns:
        Each of `FIGURES` as ours less theirs, with its paired bootstrap interval as `_ci`.

    Raises:
        InputError: They answered for different photos or with different classes.
    """
    if ours.ids != theirs.ids or ours.classes != theirs.classes:
        missing = len(set(ours.ids) ^ set(theirs.ids))
        raise InputError(
            "the two sets of runs were not judged on the same photos with the same classes",
            got=f"{len(ours.ids)} and {len(theirs.ids)} photos, {missing} of them in one set alone",
            fix="Judge both on the same splits of one dataset.",
        )
    difference = _figures(ours.scores.mean(axis=0)) - _figures(theirs.scores.mean(axis=0))
    return _with_intervals(difference, _resampled(ours.scores) - _resampled(theirs.scores))


def _scores(answers: Answers) -> NDArray[np.float64]:
    judged = answers.judged()
    true = judged.values[judged.truth]
    miss = judged.values[judged.answer] - true
    mean_miss = judged.posterior @ judged.values - true
    steps = np.abs(judged.answer - judged.truth)
    return np.stack([steps == 0, steps <= 1, miss**2, mean_miss**2, np.abs(miss)], axis=1).astype(np.float64)


def _figures(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """The figures of one or many rows of column means."""
    return np.where(_ROOTS, np.sqrt(means), means)


def _resampled(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Figures of every draw, float64 (draws, 5); equal numbers of photos draw equal photos."""
    rng = np.random.default_rng(_SEED)
    count = len(scores)
    drawn = [np.bincount(rng.integers(0, count, count), minlength=count) @ scores for _ in range(_DRAWS)]
    return _figures(np.array(drawn) / count)


def _with_intervals(figures: NDArray[np.float64], draws: NDArray[np.float64]) -> dict[str, Any]:
    low, high = np.percentile(draws, [2.5, 97.5], axis=0)
    found: dict[str, Any] = {}
    for index, name in enumerate(FIGURES):
        found[name] = float(figures[index])
        found[f"{name}_ci"] = (float(low[index]), float(high[index]))
    return found
