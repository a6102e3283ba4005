"""Did the camera move? Compares what it sees with its profile's reference view. Pure but for a fixed-size state.

Items come and go, the bin's frame stays. So the view reaches beyond the opening, edges are averaged over several
visits, and edges that were not steady in the reference count little. The average is aligned with the reference (phase
correlation for a start, then weighted Gauss-Newton steps in shift, turn and growth). One window of visits proves
nothing: the camera has moved when two windows in a row agree.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bundle.camera import VIEW_WH, rectified_wh, require_size, source_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bundle.camera import CameraProfile, ReferenceView

WINDOW_VISITS = 12
LIMIT_SHARE = 0.015
"""A displacement by this share of the rectified picture's width matters."""
_MARGIN = 0.2
_NOISE_FACTOR = 4.0
_LEAST_SIMILARITY = 0.5
_STEPS = 25
_SETTLED = 1e-3
_PARAMETERS = 4


@dataclass(frozen=True, slots=True)
class Motion:
    """How one view lies against another.

    Attributes:
        shift_px: To the right and downwards at the centre, pixels of the rectified picture.
        turn_deg: Clockwise.
        growth: 0.02 is 2 % larger.
        corner_px: Largest displacement of a corner of the view.
        similarity: Weighted correlation after alignment, -1..1.
    """

    shift_px: tuple[float, float]
    turn_deg: float
    growth: float
    corner_px: float
    similarity: float


class EdgeView:
    """Makes edge maps of a camera's pictures: the rectified bin and a fifth of its size around it.

    Args:
        profile: Of the camera.
    """

    def __init__(self, profile: CameraProfile) -> None:
        self._profile = profile
        width, height = rectified_wh(profile)
        margin = 0.0 if profile.region is None else _MARGIN
        # Twice the view's size, halved after the slopes are taken, so that fine edges are not lost between pixels.
        x = np.linspace(-margin * width, (1 + margin) * width, 2 * VIEW_WH[0])
        y = np.linspace(-margin * height, (1 + margin) * height, 2 * VIEW_WH[1])
        table = source_points(profile, np.stack(np.meshgrid(x, y), axis=-1)).astype(np.float32)
        self._maps = table[..., 0], table[..., 1]
        self.pixels_per_cell = (1 + 2 * margin) * width / VIEW_WH[0]
        limits = np.array(profile.frame_wh) - 1
        inside = np.asarray(((table >= 0) & (table <= limits)).all(axis=-1), np.uint8)
        eroded = cv2.erode(inside, np.ones((7, 7), np.uint8))
        self.inside = np.asarray(cv2.resize(eroded, VIEW_WH, interpolation=cv2.INTER_AREA), np.float32)

    def edges(self, image_bgr: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Edge strengths of one picture.

        Args:
            image_bgr: uint8, (H, W, 3), BGR, of the profile's size, as the camera gave it.

        Returns:
            float32, (72, 96), 0..255: capped, so that one glaring edge does not outshine the bin's frame.

        Raises:
            InputError: The picture has another size.
        """
        require_size(image_bgr, self._profile)
        grey = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY)
        smooth = cv2.GaussianBlur(grey, (0, 0), max(0.5, self.pixels_per_cell / 4))
        small = cv2.remap(smooth, *self._maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
        slope = cv2.magnitude(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1))
        scale = max(float(slope.mean()) * 4, 1e-3)
        capped = np.minimum(slope / scale, 1.0) * 255
        return np.asarray(cv2.resize(capped, VIEW_WH, interpolation=cv2.INTER_AREA), np.float32) * self.inside


def steadiness(edges: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """How far each edge can be relied on.

    Args:
        edges: Maps of several visits, each float32, (72, 96).

    Returns:
        float32, (72, 96), 0..1; all 1 for a single map.
    """
    if len(edges) == 1:
        return np.ones_like(edges[0])
    mean, spread = np.mean(edges, axis=0), np.std(edges, axis=0)
    return np.asarray((mean**2 + 1) / (mean**2 + 1 + 6 * spread**2), np.float32)


def align(
    reference: NDArray[np.float32],
    weights: NDArray[np.float32],
    view: NDArray[np.float32],
    pixels_per_cell: float,
) -> Motion:
    """Find how far a view lies from the reference.

    Args:
        reference: float32, (72, 96), mean edge map.
        weights: float32, (72, 96), 0..1.
        view: float32, (72, 96), mean edge map.
        pixels_per_cell: Of `EdgeView`.

    Returns:
        The motion of the best alignment that was found.
    """
    window = cv2.createHanningWindow(VIEW_WH, cv2.CV_32F)
    steady, seen = (reference - reference.mean()) * weights, (view - view.mean()) * weights.max()
    start, _ = cv2.phaseCorrelate(steady, seen, window)
    tries = [_descend(reference, weights, view, np.array([*first, 0.0, 0.0])) for first in (start, (0.0, 0.0))]
    similarity, parameters = max(tries, key=lambda one: one[0])
    return _motion(parameters, similarity, pixels_per_cell)


def _descend(
    reference: NDArray[np.float32], weights: NDArray[np.float32], view: NDArray[np.float32], start: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Gauss-Newton on (shift x, shift y, turn, growth): view at the moved place = gain * reference + offset."""
    parameters = start
    similarity, found = _similarity(reference, weights, _sample(view, parameters)), parameters
    for _ in range(_STEPS):
        moved = _sample(view, parameters)
        step = _step(reference, weights, moved)
        parameters = parameters + step
        now = _similarity(reference, weights, _sample(view, parameters))
        if now > similarity:
            similarity, found = now, parameters
        if np.abs(step[:2]).max() < _SETTLED:
            break
    return similarity, found


def _step(
    reference: NDArray[np.float32], weights: NDArray[np.float32], moved: NDArray[np.float32]
) -> NDArray[np.float64]:
    slope_y, slope_x = np.gradient(moved.astype(np.float64))
    x, y = _centred()
    columns = [slope_x, slope_y, x * slope_y - y * slope_x, x * slope_x + y * slope_y, -reference, -np.ones_like(x)]
    basis = np.stack([column.ravel() for column in columns], axis=1)
    weight = np.sqrt(weights.ravel().astype(np.float64))[:, np.newaxis]
    solved, *_ = np.linalg.lstsq(basis * weight, -(moved.ravel() * weight[:, 0]), rcond=None)
    return np.asarray(np.clip(solved[:_PARAMETERS], [-3, -3, -0.05, -0.05], [3, 3, 0.05, 0.05]), np.float64)


def _centred() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    width, height = VIEW_WH
    x, y = np.meshgrid(np.arange(width) - (width - 1) / 2, np.arange(height) - (height - 1) / 2)
    return x, y


def _sample(view: NDArray[np.float32], parameters: NDArray[np.float64]) -> NDArray[np.float32]:
    warp = _warp(parameters).astype(np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(view, warp, VIEW_WH, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.float32)


def _warp(parameters: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a place of the reference lies in the view: turn and growth about the centre, then the shift."""
    shift_x, shift_y, turn, growth = parameters
    linear = (1 + growth) * np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    centre = (np.array(VIEW_WH) - 1) / 2
    return np.column_stack([linear, centre + np.array([shift_x, shift_y]) - linear @ centre])


def _similarity(reference: NDArray[np.float32], weights: NDArray[np.float32], moved: NDArray[np.float32]) -> float:
    total = float(weights.sum()) or 1.0
    first, second = (part - (part * weights).sum() / total for part in (reference, moved))
    scale = math.sqrt(float((first**2 * weights).sum()) * float((second**2 * weights).sum()))
    return float((first * second * weights).sum()) / scale if scale > 0 else -1.0


def _motion(parameters: NDArray[np.float64], similarity: float, pixels_per_cell: float) -> Motion:
    width, height = VIEW_WH
    corners = np.array([(0, 0), (width - 1, 0), (width - 1, height - 1), (0, height - 1)], np.float64)
    warp = _warp(parameters)
    displaced = corners @ warp[:, :2].T + warp[:, 2] - corners
    return Motion(
        shift_px=(float(parameters[0]) * pixels_per_cell, float(parameters[1]) * pixels_per_cell),
        turn_deg=math.degrees(float(parameters[2])),
        growth=float(parameters[3]),
        corner_px=float(np.linalg.norm(displaced, axis=1).max()) * pixels_per_cell,
        similarity=similarity,
    )


def has_moved(motion: Motion, reference: ReferenceView, width_px: int) -> bool:
    """Judge a motion.

    Args:
        motion: Of a window of visits.
        reference: Of the profile.
        width_px: Of the rectified picture.

    Returns:
        True when it is larger than noise and than what matters, or when the view has become another one.
    """
    limit = max(LIMIT_SHARE * width_px, _NOISE_FACTOR * reference.noise_px)
    return motion.similarity < _LEAST_SIMILARITY or motion.corner_px > limit


class MovedDetector:
    """Watches one camera. Not thread-safe; of fixed size.

    Args:
        profile: With a reference view.
        view: Of the profile.
    """

    def __init__(self, profile: CameraProfile, view: ReferenceView) -> None:
        self._view, self._finder = view, EdgeView(profile)
        self._edges, self._weights = view.maps()
        self._width_px = rectified_wh(profile)[0]
        self._sum, self._seen = np.zeros_like(self._edges), 0
        self._suspect = False
        self.moved = False

    def update(self, image_bgr: NDArray[np.uint8]) -> Motion | None:
        """Take one visit into account.

        Args:
            image_bgr: uint8, (H, W, 3), BGR, as the camera gave it.

        Returns:
            The motion at the visit that proves it, once; None otherwise. `moved` stays true until the view is back.

        Raises:
            InputError: The picture has another size than the profile was made for.
        """
        self._sum += self._finder.edges(image_bgr)
        self._seen += 1
        if self._seen < WINDOW_VISITS:
            return None
        mean = self._sum / np.float32(self._seen)
        motion = align(self._edges, self._weights, mean, self._finder.pixels_per_cell)
        self._sum[:], self._seen = 0, 0
        now = has_moved(motion, self._view, self._width_px)
        proven, self._suspect = now and self._suspect and not self.moved, now
        self.moved = now and (self.moved or proven)
        return motion if proven else None
