"""Shots of a board in, a lens out, with a quality gate on their number, their coverage and their error.

Five distortion numbers are offered to the fit but k3 stays 0: it is only needed for lenses wider than a bin camera's,
and runs away outside the corners that were seen. A shot that fits much worse than the others (moved, out of focus) is
left out and named.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bundle.camera import Lens
from bundle.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from calibration.boards import Corners

MIN_SHOTS = 8
MAX_RMS_PX = 0.5
MIN_COVERAGE = 0.6
MAX_FOCAL_ERROR = 0.005
_CELLS = (6, 5)
_OUTLIER_FACTOR = 2.5
_OUTLIER_FLOOR_PX = 0.25
_FLAGS = cv2.CALIB_FIX_K3


@dataclass(frozen=True, slots=True)
class LensFit:
    """A lens and how far to trust it.

    Attributes:
        lens: The lens.
        focal_error: Standard error of the focal length as a share of it.
        shot_rms_px: Reprojection error of each shot that was used, by name.
        left_out: Shots that did not fit, by name.
    """

    lens: Lens
    focal_error: float
    shot_rms_px: Mapping[str, float]
    left_out: tuple[str, ...]


def fit_lens(shots: Mapping[str, Corners], frame_wh: tuple[int, int]) -> LensFit:
    """Fit a lens and hold it against the quality gate.

    Args:
        shots: Corners by name of the shot.
        frame_wh: Size of the camera's picture.

    Returns:
        The lens.

    Raises:
        InputError: The shots cannot carry a lens; the message says what to shoot.
    """
    _require(len(shots) >= MIN_SHOTS, "too few shots of the board", len(shots), f"at least {MIN_SHOTS}")
    names = list(shots)
    rms, errors, fitted, deviation = _fit(shots, names, frame_wh)
    limit = max(_OUTLIER_FACTOR * float(np.median(errors)), _OUTLIER_FLOOR_PX)
    kept = [name for name, error in zip(names, errors, strict=True) if error <= limit]
    if len(kept) < len(names):
        _require(len(kept) >= MIN_SHOTS, "too few shots that agree", len(kept), f"at least {MIN_SHOTS}")
        rms, errors, fitted, deviation = _fit(shots, kept, frame_wh)
    coverage = measure_coverage([shots[name] for name in kept], frame_wh)
    lens = _lens(fitted, rms, len(kept), coverage)
    focal_error = float(deviation[:2].max()) / lens.fx
    _gate(lens, focal_error)
    return LensFit(
        lens=lens,
        focal_error=focal_error,
        shot_rms_px=dict(zip(kept, errors.tolist(), strict=True)),
        left_out=tuple(name for name in names if name not in kept),
    )


def _gate(lens: Lens, focal_error: float) -> None:
    _require(
        lens.rms_px <= MAX_RMS_PX,
        "the lens does not explain the shots",
        f"{lens.rms_px:.2f} px reprojection error",
        f"at most {MAX_RMS_PX} px",
        "Check the board's squares, keep it flat, and hold still.",
    )
    _require(
        lens.coverage >= MIN_COVERAGE,
        "the shots leave parts of the picture unseen",
        f"corners in {lens.coverage:.0%} of its cells",
        f"at least {MIN_COVERAGE:.0%}",
        "Bring the board into the picture's edges and corners; it may be cut off there.",
    )
    _require(
        focal_error <= MAX_FOCAL_ERROR,
        "the focal length is not well known",
        f"uncertain by {focal_error:.2%}",
        f"at most {MAX_FOCAL_ERROR:.2%}",
        "Tilt the board by 20 to 45 degrees, to all sides, and come closer.",
    )


def _require(holds: bool, what: str, got: object, expected: str, fix: str = "Take more shots.") -> None:  # noqa: FBT001
    if not holds:
        raise InputError(what, got=got, expected=expected, fix=fix)


def _fit(
    shots: Mapping[str, Corners], names: list[str], frame_wh: tuple[int, int]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Fit once: error, error per shot, (fx, fy, cx, cy, k1, k2, p1, p2, k3), standard errors in OpenCV's order."""
    guess = np.array([[max(frame_wh), 0, frame_wh[0] / 2], [0, max(frame_wh), frame_wh[1] / 2], [0, 0, 1]], np.float64)
    try:
        rms, matrix, distortion, _, _, deviation, _, errors = cv2.calibrateCameraExtended(
            [shots[name].board_mm for name in names],
            [shots[name].image_px.reshape(-1, 1, 2) for name in names],
            frame_wh,
            guess,
            np.zeros(5),
            flags=_FLAGS | cv2.CALIB_USE_INTRINSIC_GUESS,
        )
    except cv2.error as exc:
        raise InputError("the shots cannot be explained by any lens", got=str(exc).strip()[-200:]) from exc
    fitted = np.concatenate([[matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]], distortion.ravel()[:5]])
    return float(rms), np.asarray(errors, np.float64).ravel(), fitted, np.asarray(deviation, np.float64).ravel()


def _lens(fitted: NDArray[np.float64], rms: float, shots: int, coverage: float) -> Lens:
    fx, fy, cx, cy, k1, k2, p1, p2, k3 = (float(value) for value in fitted)
    return Lens(fx=fx, fy=fy, cx=cx, cy=cy, distortion=(k1, k2, p1, p2, k3), rms_px=rms, shots=shots, coverage=coverage)


def measure_coverage(shots: list[Corners], frame_wh: tuple[int, int]) -> float:
    """Share of the picture's cells (6 by 5) that hold a corner of some shot.

    Args:
        shots: Corners of every shot.
        frame_wh: Size of the camera's picture.

    Returns:
        0..1.
    """
    points = np.concatenate([shot.image_px for shot in shots])
    cells = np.floor(points / np.array(frame_wh) * np.array(_CELLS)).astype(np.int64)
    inside = (cells >= 0).all(axis=1) & (cells < np.array(_CELLS)).all(axis=1)
    return len(np.unique(cells[inside], axis=0)) / (_CELLS[0] * _CELLS[1])
