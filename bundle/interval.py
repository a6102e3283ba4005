"""A contiguous interval of counts beside the point: "3 to 4". Pure.

The interval grows from the most probable class, always towards the more probable neighbour, until its posterior mass
exceeds `IntervalRule.mass`. That mass is a conformal quantile of `mass_before`, so the interval holds the true count in
the stated share of visits whatever the network's errors look like, as long as visits resemble the calibration frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle.manifest import class_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bundle.manifest import CountClasses, IntervalRule


@dataclass(frozen=True, slots=True)
class Interval:
    """Counts that a visit cannot tell apart.

    Attributes:
        low: Lowest count.
        high: Highest count, or the least number that the open class stands for when `at_least`.
        at_least: The interval reaches into an open class, so it has no upper end.
        label: "3", "3 to 4", or "5 or more".
        coverage: Share of visits whose true count lies inside, by calibration.
    """

    low: int
    high: int
    at_least: bool
    label: str
    coverage: float


def mass_before(posterior: NDArray[np.float64]) -> NDArray[np.float64]:
    """Posterior mass that the growing interval already has when it reaches each class.

    Args:
        posterior: float64, (K,), sums to 1.

    Returns:
        float64, (K,); 0 for the most probable class, and rising in the order in which classes join.
    """
    low = high = int(posterior.argmax())
    before = np.zeros(len(posterior))
    mass = float(posterior[low])
    while low > 0 or high < len(posterior) - 1:
        down = posterior[low - 1] if low > 0 else -1.0
        up = posterior[high + 1] if high < len(posterior) - 1 else -1.0
        joined = low - 1 if down >= up else high + 1
        before[joined] = min(mass, 1.0)
        mass += float(posterior[joined])
        low, high = min(low, joined), max(high, joined)
    return before


def interval_from_posterior(posterior: NDArray[np.float64], classes: CountClasses, rule: IntervalRule) -> Interval:
    """Decide the interval of one visit.

    Args:
        posterior: float64, (K,), sums to 1.
        classes: K count classes.
        rule: The bundle's.

    Returns:
        The interval; it always holds the most probable class.
    """
    inside = np.flatnonzero(mass_before(posterior) <= rule.mass)
    first, last = classes[int(inside[0])], classes[int(inside[-1])]
    low, high, at_least = class_value(first), class_value(last), last.endswith("+")
    closed = first if low == high else f"{low} to {high}"
    return Interval(low, high, at_least, f"{low} or more" if at_least else closed, rule.coverage)
