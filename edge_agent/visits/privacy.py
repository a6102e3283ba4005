"""What lies beside the bin is nobody's business: it is made unreadable before a picture leaves the robot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_CELLS = 16
"""So many cells along the longer side: neither a face nor a label can be read from them, whatever the resolution."""


def blur_outside(image_bgr: NDArray[np.uint8], region: Sequence[tuple[float, float]]) -> NDArray[np.uint8]:
    """Keep a region of a picture, and of everything else only the mean colour of large cells.

    Args:
        image_bgr: uint8, (H, W, 3), BGR, 0..255; not changed.
        region: Corners of the bin in the picture, x and y as shares of width and height.

    Returns:
        uint8, (H, W, 3), BGR, 0..255.
    """
    height, width = image_bgr.shape[:2]
    scale = _CELLS / max(width, height)
    cells = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(image_bgr, cells, interpolation=cv2.INTER_AREA)
    hidden = np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
    corners = np.array([(x * width, y * height) for x, y in region]).round().astype(np.int32)
    inside = np.zeros((height, width), np.uint8)
    cv2.fillPoly(inside, [corners], 1)
    hidden[inside == 1] = image_bgr[inside == 1]
    return hidden
