"""The outline of an item in the picture: its own silhouette, and what of it remains visible.

A silhouette is rasterised over its whole extent, also where it leaves the picture or hides behind the lip, so that the
visible fraction says how much of the thing itself can be seen. Elastic bands are see-through and hide nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from demo.items import unit_corners

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from demo.items import Design, Solid
    from demo.pixels import Mask, Points, Polygon
    from demo.view import View

_CIRCLE = np.linspace(0.0, 2 * np.pi, 28, endpoint=False)
_HALF_CIRCLE = np.linspace(0.0, np.pi, 9)


@dataclass(frozen=True, slots=True)
class Silhouette:
    """A rasterised outline.

    Attributes:
        outline: The polygon, in pixels of the picture.
        mask: uint8, (h, w), 255 inside; covers the polygon's bounding rectangle and nothing is cut off.
        corner_xy: Where the mask's upper left pixel lies in the picture; may be negative.
        area_px: Pixels inside.
    """

    outline: Polygon
    mask: Mask
    corner_xy: tuple[int, int]
    area_px: int


def silhouette(solid: Solid, view: View) -> Silhouette:
    """Rasterise the outline of an item.

    Args:
        solid: The item at its place.
        view: The camera.

    Returns:
        The silhouette.
    """
    outline = _outline(solid, view)
    x, y, width, height = cv2.boundingRect(outline)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [outline - np.array([x, y], np.int32)], 255)
    return Silhouette(outline, mask, (x, y), int(cv2.countNonZero(mask)))


def window(
    picture: NDArray[np.uint8], corner_xy: tuple[int, int], patch: NDArray[np.uint8]
) -> tuple[slice, slice, slice, slice]:
    """Find the part of a patch that lies inside the picture.

    Args:
        picture: uint8, (H, W) or (H, W, C).
        corner_xy: Where the patch's upper left pixel lies in the picture; may be outside.
        patch: uint8, (h, w) or (h, w, C).

    Returns:
        Row and column slices into the picture, then row and column slices into the patch.
    """
    (height, width), (x, y), (patch_height, patch_width) = picture.shape[:2], corner_xy, patch.shape[:2]
    left, top = min(max(x, 0), width), min(max(y, 0), height)
    right, bottom = max(left, min(x + patch_width, width)), max(top, min(y + patch_height, height))
    return slice(top, bottom), slice(left, right), slice(top - y, bottom - y), slice(left - x, right - x)


def identify(silhouettes: Sequence[Silhouette], frame: Mask) -> NDArray[np.uint8]:
    """Say which item every pixel shows.

    Args:
        silhouettes: Back to front.
        frame: uint8, (H, W), non-zero where the pod's own cloth stands in front of the cell.

    Returns:
        uint8, (H, W): 1 + index into `silhouettes`, 0 where no item is seen.
    """
    ids: Mask = np.zeros(frame.shape, np.uint8)
    for number, item in enumerate(silhouettes, start=1):
        rows, columns, own_rows, own_columns = window(ids, item.corner_xy, item.mask)
        ids[rows, columns][item.mask[own_rows, own_columns] > 0] = number
    ids[frame > 0] = 0
    return ids


def visible_pixels(ids: NDArray[np.uint8], count: int) -> list[int]:
    """Count every item's pixels.

    Args:
        ids: What `identify` returned.
        count: Number of items.

    Returns:
        Pixels per item, in the order of the silhouettes.
    """
    found: list[int] = np.bincount(ids.ravel(), minlength=count + 1)[1 : count + 1].tolist()
    return found


def _outline(solid: Solid, view: View) -> Polygon:
    kind = solid.design.kind
    if kind in {"box", "book"}:
        return _hull(view.project(solid.place(unit_corners() * np.array(solid.design.size_cm))))
    if kind == "jar":
        return _hull(view.project(solid.place(np.concatenate([disc(solid.design, -0.5), disc(solid.design, 0.5)]))))
    outline: Polygon = np.round(view.project(solid.place(profile(solid.design)))).astype(np.int32)
    return outline


def _hull(points_px: Points) -> Polygon:
    hull = cv2.convexHull(np.round(points_px).astype(np.int32))
    return np.asarray(hull, np.int32).reshape(-1, 2)


def disc(design: Design, z: float) -> Points:
    """Trace the round end of a jar that lies with its lid to the front.

    Args:
        design: A jar.
        z: -0.5 for the front end, 0.5 for the back.

    Returns:
        float64, (N, 3), local centimetres.
    """
    radius = design.size_cm[0] / 2
    return np.stack(
        [radius * np.cos(_CIRCLE), radius + radius * np.sin(_CIRCLE), np.full(len(_CIRCLE), z * design.size_cm[2])],
        axis=1,
    )


def profile(design: Design) -> Points:
    """Trace the flat outline of a bottle or a bag, through the middle of its depth.

    Args:
        design: A bottle or a bag.

    Returns:
        float64, (N, 3), local centimetres.
    """
    across_up = _bottle(design) if design.kind == "bottle" else _bag(design)
    scaled = across_up * np.array(design.size_cm[:2])
    return np.concatenate([scaled, np.zeros((len(scaled), 1))], axis=1)


def _bottle(design: Design) -> Points:
    shoulder = 0.68 if design.look == "round" else 0.8
    bow = np.stack([0.5 * np.cos(_HALF_CIRCLE), -0.035 * np.sin(_HALF_CIRCLE) + 0.035], axis=1)
    left = [[-0.5, shoulder], [-0.42, shoulder + 0.06], [-0.2, shoulder + 0.11], [-0.2, 1.0]]
    right = [[0.2, 1.0], [0.2, shoulder + 0.11], [0.42, shoulder + 0.06], [0.5, shoulder]]
    return np.concatenate([bow, np.array(left + right)])


def _bag(design: Design) -> Points:
    rng = np.random.default_rng([design.print_seed, 3])
    radius = 1 + 0.05 * np.sin(2 * _CIRCLE + rng.uniform(0, 6)) + rng.normal(0, 0.025, len(_CIRCLE))
    # A superellipse: a filled bag is rounder than a box and squarer than a ball, and its corners stick out like ears.
    radius += rng.uniform(0.02, 0.12) * np.abs(np.sin(2 * _CIRCLE)) ** 6
    across = np.sign(np.cos(_CIRCLE)) * np.abs(np.cos(_CIRCLE)) ** 0.5
    up = np.sign(np.sin(_CIRCLE)) * np.abs(np.sin(_CIRCLE)) ** 0.6
    points = np.stack([0.5 * across * radius, 0.5 + 0.5 * up * radius], axis=1)
    low, high = points.min(axis=0), points.max(axis=0)
    fitted: Points = (points - low) / (high - low) - np.array([0.5, 0.0])
    return fitted
