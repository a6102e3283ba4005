"""After an activation: is it as predicted? Pure: what was seen before and after, and a reason to revert or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bundle.manifest import class_index
from calibration.bounds import supports
from calibration.job.bands import hits_band
from calibration.job.checks import agreement, unsure_visits
from calibration.job.journal import Watched

if TYPE_CHECKING:
    from bundle.verify import Bundle
    from calibration.job.journal import Band
    from calibration.observe import Observed

MIN_WATCHED = 20
"""Fewer visits than this say nothing; the candidate stays, and the result says that it was not watched."""
_SURE = 0.95


def watch(bundle: Bundle, after: Observed, previous: Observed) -> Watched:
    """Count what matters on the visits after an activation.

    Args:
        bundle: The new one.
        after: Visits, answered by it.
        previous: The same visits, answered by the bundle before.

    Returns:
        The counts.
    """
    unsure = unsure_visits(bundle, after)
    fitted = bundle.manifest.calibration
    answers = after.posteriors(fitted.temperature, fitted.ordinal).argmax(axis=1)
    labels = [
        None if visit.label is None else class_index(bundle.manifest.count_classes, visit.label)
        for visit in after.visits
    ]
    known = np.array([label is not None for label in labels], np.bool_) & ~unsure
    wrong = np.array([label is not None and label != answer for label, answer in zip(labels, answers, strict=True)])
    return Watched(
        visits=len(after),
        unsure=int(unsure.sum()),
        agreeing=int(agreement(after, previous).sum()),
        labelled_confident=int(known.sum()),
        wrong=int((wrong & known).sum()),
    )


def reason_to_revert(band: Band, watched: Watched, risk: float | None) -> str:
    """Hold the visits after an activation against those before it.

    Args:
        band: Before.
        watched: After.
        risk: Promised, None without a promise.

    Returns:
        Why the old bundle must come back, or an empty text.
    """
    if watched.visits < MIN_WATCHED:
        return ""
    low, high = hits_band(band.unsure, band.visits, watched.visits)
    if not low <= watched.unsure <= high:
        return f"{watched.unsure} of {watched.visits} visits were unsure, predicted were {low} to {high}"
    least, _ = hits_band(band.agreeing, band.visits, watched.visits)
    if watched.agreeing < least:
        return (
            f"the old and the new bundle agreed on {watched.agreeing} of {watched.visits} visits,"
            f" predicted were at least {least}"
        )
    right = watched.labelled_confident - watched.wrong
    if risk is not None and watched.wrong and supports(right, watched.labelled_confident, 1 - risk, _SURE):
        return f"{watched.wrong} of {watched.labelled_confident} confident counts were wrong, promised was {risk:.0%}"
    return ""
