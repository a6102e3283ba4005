"""Which visits or pictures INT8 ranges are taken from: few, and as different from one another as there are. Pure.

Ranges have to cover what the camera will ever show, so a sunny aisle must be among the frames even if it is rare. The
choice starts at the most ordinary one and always adds the one that lies farthest from all chosen ones (farthest-point
traversal, Gonzalez 1985) in brightness, contrast, sharpness and fill.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bundle.counter import posterior_from_logits
from bundle.signals import look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bundle.signals import Look
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
    first = np.searchsorted(observed.frame_visit, np.arange(len(observed)))
    places = _places([observed.looks[index] for index in first], observed.posteriors(1.0))
    return rows[_far_apart(places[rows], number)]


def pick_pictures(pictures_bgr: NDArray[np.uint8], logits: NDArray[np.float32], number: int) -> NDArray[np.int64]:
    """Choose pictures.

    Args:
        pictures_bgr: uint8, (N, h, w, 3), BGR, at the network's size, at least one.
        logits: float32, (N, K), what the reference says about them.
        number: How many; all of them when there are fewer.

    Returns:
        int64, (min(N, number),), positions, in their old order.
    """
    places = _places([look(picture) for picture in pictures_bgr], posterior_from_logits(logits, 1.0))
    return _far_apart(places, number)


def _far_apart(places: NDArray[np.float64], number: int) -> NDArray[np.int64]:
    if len(places) <= number:
        return np.arange(len(places))
    chosen = [int(np.argmin(np.abs(places).sum(axis=1)))]
    distance = np.full(len(places), np.inf)
    while len(chosen) < number:
        distance = np.minimum(distance, np.linalg.norm(places - places[chosen[-1]], axis=1))
        distance[chosen[-1]] = -1.0
        chosen.append(int(np.argmax(distance)))
    return np.sort(chosen)


def _places(looks: Sequence[Look], posteriors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every picture as a point: its look and its expected class, each in standard deviations."""
    columns = np.array([(one.brightness, one.contrast, one.sharpness) for one in looks])
    points = np.column_stack([columns, posteriors @ np.arange(posteriors.shape[1])])
    return np.asarray((points - np.median(points, axis=0)) / np.maximum(points.std(axis=0), 1e-9))
