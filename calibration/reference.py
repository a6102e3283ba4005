"""What is normal: the reference that drift detection on a robot compares with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bundle.drift import MIN_REFERENCE_VISITS, make_reference
from bundle.signals import look
from calibration.observe import Observed
from calibration.visits import Visit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bundle.drift import DriftReference
    from bundle.manifest import Calibration


def reference_of(observed: Observed, calibration: Calibration) -> DriftReference | None:
    """Describe what these visits look like, for drift detection.

    Args:
        observed: Visits of normal operation, labelled or not.
        calibration: Says which counts are confident.

    Returns:
        The reference, or None for fewer visits than it takes.
    """
    if len(observed) < MIN_REFERENCE_VISITS:
        return None
    view = observed.mean_view()
    return make_reference(observed.signals(calibration, view), view)


def reference_of_pictures(
    pictures_bgr: NDArray[np.uint8], logits: NDArray[np.float32], calibration: Calibration
) -> DriftReference | None:
    """The same for pictures that are in memory, one per visit.

    Args:
        pictures_bgr: uint8, (N, h, w, 3), BGR, at the network's size.
        logits: float32, (N, K), of the model that robots run.
        calibration: Says which counts are confident.

    Returns:
        The reference, or None for fewer pictures than it takes.
    """
    visits = tuple(Visit(str(number), str(number), (), None) for number in range(len(pictures_bgr)))
    looks = tuple(look(picture) for picture in pictures_bgr)
    return reference_of(Observed(visits, logits, np.arange(len(visits)), looks, ()), calibration)
