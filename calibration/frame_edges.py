"""Finds the four sides of a bin's opening in undistorted pictures. Pure.

Coarse: every line that crosses the picture within a slope of about 20 % is scored by the edge strength along it, summed
over all pictures, so that the frame outweighs items. Of the good lines the innermost wins, because a frame has an outer
edge as well. Fine: the strongest edge within a few pixels of the line is located to a fraction of a pixel at many
places, and a robust line is put through them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bundle.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_COARSE_SIDE = 240
_SLOPE = 0.2
_SAMPLES = 64
_ENDS = 0.12
_GOOD = 0.8
_LEAST_SCORE = 0.35
_FINE_REACH_PX = 5
_FINE_SAMPLES = 160


@dataclass(frozen=True, slots=True)
class _Line:
    """v = start + slope * u, where u runs along the side and v across it."""

    start: float
    slope: float


def find_opening(greys: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Find the corners of the opening.

    Args:
        greys: Undistorted pictures of bins in the same place, each uint8, (H, W); at least one.

    Returns:
        float64, (4, 2): top left, top right, bottom right, bottom left, pixels.

    Raises:
        InputError: A side does not stand out.
    """
    # u runs along the side, v across it: for the left and right side the picture is transposed.
    strength_y = np.mean([_strength(grey) for grey in greys], axis=0)
    strength_x = np.mean([_strength(grey.T) for grey in greys], axis=0)
    top, bottom = _side(strength_y, "top"), _side(strength_y, "bottom")
    left, right = _side(strength_x, "left"), _side(strength_x, "right")
    return np.array(
        [_cross(level, upright) for level, upright in ((top, left), (top, right), (bottom, right), (bottom, left))]
    )


def _strength(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Edge strength across the lines that run along axis 1, capped so that one glaring edge is only an edge."""
    smooth = cv2.GaussianBlur(np.ascontiguousarray(grey), (0, 0), 1.2).astype(np.float32)
    slope = np.abs(cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    cap = max(float(np.percentile(slope, 92)), 1e-3)
    return np.asarray(np.minimum(slope / cap, 1.0), np.float32)


def _side(strength: NDArray[np.float32], name: str) -> _Line:
    first = name in {"top", "left"}
    coarse, score = _coarse(strength, first=first)
    if score < _LEAST_SCORE:
        raise InputError(
            f"the {name} side of the bin does not stand out",
            got=f"edge strength {score:.2f}",
            expected=f"at least {_LEAST_SCORE}",
            fix="Name the bin's corners (--corners), or use markers (--region fiducials).",
        )
    return _fine(strength, coarse)


def _coarse(strength: NDArray[np.float32], *, first: bool) -> tuple[_Line, float]:
    height, width = strength.shape
    factor = max(1.0, height / _COARSE_SIDE)
    rows = round(height / factor)
    # Squeezed across only as far as lines stay apart; a little blur lets a line be half a pixel off.
    small = cv2.resize(strength, (_SAMPLES, rows), interpolation=cv2.INTER_AREA)
    rise = np.arange(-round(_SLOPE * width / factor), round(_SLOPE * width / factor) + 1)
    starts = np.arange(rows)
    at = np.linspace(0, 1, _SAMPLES)
    used = slice(round(_ENDS * _SAMPLES), round((1 - _ENDS) * _SAMPLES))
    lines = starts[:, np.newaxis, np.newaxis] + rise[np.newaxis, :, np.newaxis] * at[np.newaxis, np.newaxis, used]
    index = np.rint(lines).astype(np.int64)
    inside = ((index >= 0) & (index < rows)).all(axis=2)
    columns = np.arange(_SAMPLES)[used]
    score = np.where(inside, small[np.clip(index, 0, rows - 1), columns].mean(axis=2), 0.0)
    middle = starts[:, np.newaxis] + rise[np.newaxis, :] / 2
    half = middle < rows / 2 if first else middle >= rows / 2
    score = np.where(half, score, 0.0)
    best = float(score.max())
    candidates = np.argwhere(score >= _GOOD * best)
    depth = middle[candidates[:, 0], candidates[:, 1]]
    innermost = depth.max() if first else depth.min()
    near = candidates[np.abs(depth - innermost) <= 2]  # noqa: PLR2004 - rows that belong to the same edge
    start, tilt = near[np.argmax(score[near[:, 0], near[:, 1]])]
    slope = rise[tilt] * factor / (width - 1)
    return _Line((starts[start] + 0.5) * factor - 0.5, float(slope)), best


def _fine(strength: NDArray[np.float32], line: _Line) -> _Line:
    height, width = strength.shape
    along = np.linspace(_ENDS * width, (1 - _ENDS) * width, _FINE_SAMPLES)
    steps = np.arange(-_FINE_REACH_PX, _FINE_REACH_PX + 1, 0.5)
    across = line.start + line.slope * along[:, np.newaxis] + steps[np.newaxis, :]
    places = np.repeat(along[:, np.newaxis], len(steps), axis=1)
    profile = cv2.remap(strength, places.astype(np.float32), across.astype(np.float32), cv2.INTER_LINEAR)
    weight = np.maximum(profile - 0.5 * profile.max(axis=1, keepdims=True), 0)
    total = weight.sum(axis=1)
    keep = (total > 0) & (profile.max(axis=1) > _LEAST_SCORE)
    if keep.sum() < _FINE_SAMPLES // 4:
        return line
    found = (weight * across).sum(axis=1)[keep] / total[keep]
    points = np.stack([along[keep], found], axis=1).astype(np.float32)
    run, rise, u, v = (float(value) for value in cv2.fitLine(points, cv2.DIST_HUBER, 0, 0.01, 0.01).ravel())
    slope = rise / run
    return _Line(min(max(v - slope * u, -height), 2.0 * height), slope)


def _cross(level: _Line, upright: _Line) -> tuple[float, float]:
    """Intersect y = a + b x with x = c + d y."""
    x = (upright.start + upright.slope * level.start) / (1 - upright.slope * level.slope)
    return x, level.start + level.slope * x
