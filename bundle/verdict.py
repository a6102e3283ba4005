"""A visit against the record, decided from the whole posterior instead of the winning class. Pure.

- "short" or "over": nearly all posterior mass lies on one side of the record. The bundle's `MismatchRule` bounds how
  often that happens when the record is right.
- "match": the visit is confident, and of the record. The bundle's promise on confident counts covers it.
- "unsure": neither. So a visit that cannot tell 1 from 2 still contradicts a record of 5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bundle.manifest import class_index

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bundle.manifest import Calibration, CountClasses

VerdictWord = Literal["match", "short", "over", "unsure"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a visit says about a record.

    Attributes:
        word: "match", "short" (fewer items than recorded), "over" (more) or "unsure".
        probability: Posterior mass behind the word; for "unsure" that of the likeliest of the other three.
    """

    word: VerdictWord
    probability: float


def sides(posterior: NDArray[np.float64], record_class: int) -> tuple[float, float, float]:
    """Split a posterior at the record.

    Args:
        posterior: float64, (K,), sums to 1.
        record_class: Index of the record's class.

    Returns:
        Mass below the record, at it, above it.
    """
    below = float(posterior[:record_class].sum())
    above = float(posterior[record_class + 1 :].sum())
    return below, float(posterior[record_class]), above


def judge_record(
    posterior: NDArray[np.float64], classes: CountClasses, record: int, calibration: Calibration
) -> Verdict:
    """Hold a visit against its record.

    An open class says "at least": "6+" agrees with a record of 8 and contradicts one of 4. A record that no class
    covers is beyond what the network has learned: the verdict is then "unsure".

    Args:
        posterior: float64, (K,), sums to 1.
        classes: K count classes.
        record: Quantity that the inventory system expects, 0 or more.
        calibration: The bundle's. Without a mismatch rule the promise's threshold stands in for it.

    Returns:
        The verdict.
    """
    position = class_index(classes, record)
    if position is None:
        return Verdict("unsure", 0.0)
    below, at, above = sides(posterior, position)
    rule = calibration.mismatch
    limit = calibration.threshold if rule is None else rule.tail
    if below > limit and below >= above:
        return Verdict("short", below)
    if above > limit:
        return Verdict("over", above)
    if calibration.threshold < 1 and at >= calibration.threshold and at >= float(posterior.max()):
        return Verdict("match", at)
    return Verdict("unsure", max(below, at, above))
