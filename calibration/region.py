"""Where the bin's opening is: from four points, from four markers, or from the edges of the bin's frame.

Lines of a bin are straight only after undistortion, so everything is measured there and carried back into the camera's
own picture at the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from pydantic import ValidationError

from bundle.camera import Region
from bundle.errors import InputError
from calibration.boards import find_fiducials
from calibration.frame_edges import find_opening

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    from numpy.typing import NDArray

    from bundle.camera import Lens

MIN_AREA_SHARE = 0.1
_CORNERS = 4


def region_from_points(
    points_px: NDArray[np.float64],
    frame_wh: tuple[int, int],
    lens: Lens | None,
    method: Literal["points", "fiducials", "frame"] = "points",
) -> Region:
    """Make a region of four corners, in whatever order they come.

    Args:
        points_px: float64, (4, 2), in the camera's own picture.
        frame_wh: Its size.
        lens: For the size of the rectified picture.
        method: How the points were found.

    Returns:
        The region; its picture has about as many pixels as the bin has in the camera's.

    Raises:
        InputError: The points are no bin: outside the picture, not convex, or enclosing next to nothing.
    """
    if points_px.shape != (_CORNERS, 2):
        raise InputError("a bin's region needs four corners", got=len(points_px), expected=_CORNERS)
    slack = 0.1 * np.array(frame_wh)
    if (points_px < -slack).any() or (points_px > np.array(frame_wh) + slack).any():
        raise InputError("a corner lies outside the picture", got=points_px.round(1).tolist(), expected=frame_wh)
    corners = _ordered(points_px)
    ideal = corners if lens is None else lens.undistort(corners)
    area = float(cv2.contourArea(ideal.astype(np.float32)))
    if area < MIN_AREA_SHARE * frame_wh[0] * frame_wh[1]:
        raise InputError(
            "the corners enclose too little of the picture",
            got=f"{area / frame_wh[0] / frame_wh[1]:.0%}",
            expected=f"at least {MIN_AREA_SHARE:.0%}",
            fix="Name the bin's four corners, or bring the camera closer.",
        )
    top, right, bottom, left = np.linalg.norm(np.roll(ideal, -1, axis=0) - ideal, axis=1)
    size = (max(16, round((top + bottom) / 2) + 1), max(16, round((left + right) / 2) + 1))
    first, second, third, fourth = ((float(x), float(y)) for x, y in corners)
    try:
        return Region(corners_px=(first, second, third, fourth), size_wh=size, method=method)
    except ValidationError as exc:
        raise InputError(
            "the corners are not those of a bin", got=corners.round(1).tolist(), expected="a convex four-sided region"
        ) from exc


def _ordered(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Go round clockwise, starting at the top left."""
    away = points - points.mean(axis=0)
    turning = points[np.argsort(np.arctan2(away[:, 1], away[:, 0]))]
    return np.roll(turning, -int(np.argmin(turning.sum(axis=1))), axis=0)


def region_from_fiducials(frames_bgr: Sequence[NDArray[np.uint8]], lens: Lens | None) -> Region:
    """Find the four markers 0 to 3 at the corners of the bin.

    Args:
        frames_bgr: Pictures of the bin, each uint8, (H, W, 3), BGR, of one size; the median of what they show counts.
        lens: Of the camera.

    Returns:
        The region inside the markers.

    Raises:
        InputError: No picture shows all four markers.
    """
    found = [corners for frame in frames_bgr if (corners := find_fiducials(frame)) is not None]
    if not found:
        raise InputError(
            "no picture shows the markers 0, 1, 2 and 3",
            got=f"{len(frames_bgr)} pictures",
            fix="Put marker 0 at the bin's top left corner and go round clockwise, or name the corners.",
        )
    height, width = frames_bgr[0].shape[:2]
    return region_from_points(np.median(found, axis=0), (width, height), lens, "fiducials")


def region_from_frame(frames_bgr: Sequence[NDArray[np.uint8]], lens: Lens | None) -> Region:
    """Find the opening by the edges of the bin's frame, which stay where they are while items come and go.

    Args:
        frames_bgr: Pictures of bins in the same place, each uint8, (H, W, 3), BGR, of one size; five or more help.
        lens: Of the camera.

    Returns:
        The region.

    Raises:
        InputError: No four-sided frame stands out.
    """
    height, width = frames_bgr[0].shape[:2]
    greys = [np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8) for frame in frames_bgr]
    if lens is not None:
        matrix, distortion = lens.matrix(), np.array(lens.distortion)
        greys = [np.asarray(cv2.undistort(grey, matrix, distortion), np.uint8) for grey in greys]
    corners = find_opening(greys)
    return region_from_points(corners if lens is None else lens.distort(corners), (width, height), lens, "frame")
