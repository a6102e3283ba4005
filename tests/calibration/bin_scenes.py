"""Flat rendered bins for the exact camera of tests.simulators.optics: a fabric frame, a dark opening, items inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from bundle.camera import Lens
from tests.simulators.optics import Pose, photograph, project

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE_MM = (520.0, 360.0)
OPENING_MM = np.array([(50.0, 45.0), (470.0, 45.0), (470.0, 315.0), (50.0, 315.0)])
LENS = Lens(
    fx=520.0,
    fy=521.5,
    cx=325.3,
    cy=236.1,
    distortion=(-0.28, 0.09, 0.0006, -0.0004, 0.0),
    rms_px=0.1,
    shots=1,
    coverage=1.0,
)
POSE = Pose((0.16, -0.12, 0.03), (-270.0, -175.0, 470.0))
_PX_PER_MM = 2


def bin_plane(seed: int, items: int = 5) -> NDArray[np.uint8]:
    """The scene as a flat picture: uint8, (720, 1040, 3), BGR."""
    rng = np.random.default_rng(seed)
    plane = np.full((round(SIZE_MM[1] * _PX_PER_MM), round(SIZE_MM[0] * _PX_PER_MM), 3), (150, 165, 175), np.uint8)
    left, top = (OPENING_MM[0] * _PX_PER_MM).astype(int)
    right, bottom = (OPENING_MM[2] * _PX_PER_MM).astype(int)
    plane[top:bottom, left:right] = (52, 55, 60)
    for _ in range(items):
        width, height = int(rng.integers(100, 300)), int(rng.integers(100, 350))
        x, y = int(rng.integers(left + 10, right - width - 10)), bottom - 6 - height
        colour = tuple(int(value) for value in rng.integers(40, 230, 3))
        cv2.rectangle(plane, (x, max(y, top + 10)), (x + width, bottom - 6), colour, -1)
        cv2.rectangle(plane, (x + 20, max(y, top + 10) + 20), (x + width - 20, bottom - 60), (230, 230, 230), 2)
    noise = rng.normal(0, 5, plane.shape)
    return np.asarray(np.clip(plane + noise, 0, 255), np.uint8)


def bin_picture(seed: int, *, lens: Lens = LENS, pose: Pose = POSE, items: int = 5) -> NDArray[np.uint8]:
    """What the camera sees: uint8, (480, 640, 3), BGR."""
    return photograph(bin_plane(seed, items), SIZE_MM, lens, pose)


def true_corners(lens: Lens = LENS, pose: Pose = POSE) -> NDArray[np.float64]:
    """Where the opening's corners are in the camera's picture: float64, (4, 2)."""
    return project(OPENING_MM, lens, pose)
