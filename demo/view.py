"""Where the bin is and how the camera sees it: a box in centimetres and a pinhole.

The world's origin is the middle of the opening's lower edge: x to the right, y up, z into the bin. The eye stands in
front of the opening (z < 0), so everything inside the cell projects inside the opening.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from demo.pixels import Points

_REFERENCE_ASPECT = 340 / 490


@dataclass(frozen=True, slots=True)
class Cell:
    """One storage cell of a fabric pod.

    Attributes:
        width_cm: Opening, left to right.
        height_cm: Opening, floor to the upper lip.
        depth_cm: Opening to the back wall.
    """

    width_cm: float
    height_cm: float
    depth_cm: float

    def corners(self, z_cm: float) -> Points:
        """Give the four corners of the cross-section at one depth.

        Args:
            z_cm: Depth, 0 at the opening.

        Returns:
            float64, (4, 3): top left, top right, bottom right, bottom left.
        """
        half, top = self.width_cm / 2, self.height_cm
        return np.array([[-half, top, z_cm], [half, top, z_cm], [half, 0.0, z_cm], [-half, 0.0, z_cm]])


@dataclass(frozen=True, slots=True)
class View:
    """A pinhole camera.

    Attributes:
        eye_cm: Position in the world.
        axes: Rows are the camera's right, up and forward directions, each of length 1.
        focal_px: Focal length.
        size_wh: Picture size in pixels.
    """

    eye_cm: tuple[float, float, float]
    axes: tuple[tuple[float, float, float], ...]
    focal_px: float
    size_wh: tuple[int, int]

    @property
    def scale(self) -> float:
        """Pixels here per pixel of a 490 pixel wide picture."""
        return self.size_wh[0] / 490

    def project(self, points_cm: Points) -> Points:
        """Project world points into the picture.

        Args:
            points_cm: float64, (N, 3), in front of the eye.

        Returns:
            float64, (N, 2), pixels; may lie outside the picture.
        """
        right, up, forward = np.array(self.axes) @ (points_cm - np.array(self.eye_cm)).T
        x = self.size_wh[0] / 2 + self.focal_px * right / forward
        y = self.size_wh[1] / 2 - self.focal_px * up / forward
        return np.stack([x, y], axis=1)


def sample_cell(rng: np.random.Generator, size_wh: tuple[int, int]) -> Cell:
    """Draw a cell whose opening has about the picture's shape.

    Args:
        rng: Source of chance.
        size_wh: Picture size in pixels.

    Returns:
        The cell.
    """
    width = rng.uniform(40, 47)
    aspect = (size_wh[1] / size_wh[0]) / _REFERENCE_ASPECT
    return Cell(width, width * rng.uniform(0.54, 0.62) * aspect, rng.uniform(24, 33))


def sample_view(rng: np.random.Generator, cell: Cell, size_wh: tuple[int, int]) -> View:
    """Draw a camera that looks at the opening from the front, a little from above.

    Args:
        rng: Source of chance.
        cell: What it looks at.
        size_wh: Picture size in pixels.

    Returns:
        The camera.
    """
    distance = rng.uniform(75, 110)
    eye = np.array([rng.uniform(-5, 5), cell.height_cm / 2 + rng.uniform(-1, 13), -distance])
    target = np.array([rng.uniform(-0.8, 0.8), cell.height_cm / 2 + rng.uniform(-0.8, 0.8), 0.0])
    forward = (target - eye) / np.linalg.norm(target - eye)
    up = np.array([0.0, 1.0, 0.0]) - forward[1] * forward
    up /= np.linalg.norm(up)
    right = np.cross(up, forward)
    roll = math.radians(rng.normal(0, 0.7))
    turned_right = math.cos(roll) * right + math.sin(roll) * up
    turned_up = math.cos(roll) * up - math.sin(roll) * right
    focal = rng.uniform(0.92, 1.0) * size_wh[0] * distance / cell.width_cm
    axes = tuple((float(a[0]), float(a[1]), float(a[2])) for a in (turned_right, turned_up, forward))
    return View((float(eye[0]), float(eye[1]), float(eye[2])), axes, float(focal), size_wh)
