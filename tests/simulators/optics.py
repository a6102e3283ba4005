"""A camera that is known exactly: flat scenes seen through a pinhole with distortion.

Every pixel's ray is traced back through the distortion and onto the plane, four rays per pixel, so that a picture is as
exact as its sampling. The plane lies at z = 0 in millimetres, y downwards, as OpenCV's boards do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bundle.camera import Lens

_RAYS = 2


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the plane is: a rotation vector and a translation in millimetres, plane to camera."""

    rotation: tuple[float, float, float]
    translation_mm: tuple[float, float, float]


def project(points_mm: NDArray[np.float64], lens: Lens, pose: Pose) -> NDArray[np.float64]:
    """Where points of the plane land in the picture: (N, 2) mm -> (N, 2) pixels."""
    flat = np.concatenate([points_mm, np.zeros((len(points_mm), 1))], axis=1)
    turned = flat @ cv2.Rodrigues(np.array(pose.rotation))[0].T + np.array(pose.translation_mm)
    ideal = turned[:, :2] / turned[:, 2:] * [lens.fx, lens.fy] + [lens.cx, lens.cy]
    return lens.distort(ideal)


def photograph(
    plane_bgr: NDArray[np.uint8],
    size_mm: tuple[float, float],
    lens: Lens,
    pose: Pose,
    *,
    frame_wh: tuple[int, int] = (640, 480),
    background: int = 90,
) -> NDArray[np.uint8]:
    """Take a picture of a flat scene.

    Args:
        plane_bgr: uint8, (H, W, 3): the scene, its top left corner at the plane's origin.
        size_mm: Width and height of the scene.
        lens: The camera's.
        pose: Where the scene is.
        frame_wh: Size of the picture.
        background: Grey level around the scene.
    """
    ideal = _rays(lens, frame_wh)
    turn = cv2.Rodrigues(np.array(pose.rotation))[0]
    to_picture = lens.matrix() @ np.column_stack([turn[:, 0], turn[:, 1], np.array(pose.translation_mm)])
    on_plane = cv2.perspectiveTransform(ideal.reshape(-1, 1, 2), np.linalg.inv(to_picture)).reshape(ideal.shape)
    scale = np.array([plane_bgr.shape[1] / size_mm[0], plane_bgr.shape[0] / size_mm[1]])
    table = (on_plane * scale - 0.5).astype(np.float32)
    fine = cv2.remap(
        plane_bgr,
        table[..., 0],
        table[..., 1],
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(background, background, background),
    )
    return np.asarray(cv2.resize(fine, frame_wh, interpolation=cv2.INTER_AREA), np.uint8)


@lru_cache(maxsize=4)
def _rays(lens: Lens, frame_wh: tuple[int, int]) -> NDArray[np.float32]:
    """Undistorted place of every ray, by fixed-point iteration to far below a pixel: float32, (H * 2, W * 2, 2)."""
    axis_x, axis_y = ((np.arange(side * _RAYS) + 0.5) / _RAYS - 0.5 for side in frame_wh)
    pixels = np.stack(np.meshgrid(axis_x, axis_y), axis=-1)
    ideal = pixels.copy()
    for _ in range(12):
        ideal += pixels - lens.distort(ideal)
    return np.asarray(ideal, np.float32)
