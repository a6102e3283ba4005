"""Which visits INT8 ranges are taken from: few, and as different from one another as there are. Pure.

Ranges have to cover what the camera will ever show, so a sunny aisle must be among the frames even if it is rare. The
choice starts at the most ordinary visit and always adds the one that lies farthest from all chosen ones (farthest-point
traversal, Gonzalez 1985) in brightness, contrast, sharpness and fill.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from calibration.observe import Observed


def pick_different(observed: Observed, rows: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """Choose visits.

    Args:
        observed: Answered visits.
        rows: int64, (R,), positions of the visits to choose from, at least one.
        number: How many; all of them when there are fewer.

    Returns:
        int64, (min(R, number),), positions, in their old order.
    """
    if len(rows) <= number:
        return rows
    places = _places(observed)[rows]
    chosen = [int(np.argmin(np.abs(places).sum(axis=1)))]
    distance = np.full(len(rows), np.inf)
    while len(chosen) < number:
        distance = np.minimum(distance, np.linalg.norm(places - places[chosen[-1]], axis=1))
        distance[chosen[-1]] = -1.0
        chosen.append(int(np.argmax(distance)))
    return np.sort(rows[chosen])


def _places(observed: Observed) -> NDArray[np.float64]:
    """Every visit as a point: its first frame's look and its expected class, each in standard deviations."""
    first = np.searchsorted(observed.frame_visit, np.arange(len(observed)))
    looks = [observed.looks[index] for index in first]
    fill = observed.posteriors(1.0) @ np.arange(observed.logits.shape[1])
    columns = np.array([(look.brightness, look.contrast, look.sharpness) for look in looks])
    points = np.column_stack([columns, fill])
    return np.asarray((points - np.median(points, axis=0)) / np.maximum(points.std(axis=0), 1e-9))
