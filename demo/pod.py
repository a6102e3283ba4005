"""The pod around the items: cloth walls and floor behind them, lips, posts and bin labels before them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

from demo.pixels import scaled
from demo.prints import square_code

if TYPE_CHECKING:
    from demo.pixels import Colour, ImageBgr, Mask, Polygon
    from demo.view import Cell, View

_LABEL_COLOURS: tuple[Colour, ...] = (
    (84, 52, 34), (52, 56, 184), (60, 118, 214), (190, 160, 110),
    (160, 140, 220), (70, 170, 225), (96, 92, 90), (80, 50, 70),
)  # fmt: skip
_CLOTH_SEED = 20_160_401


@dataclass(frozen=True, slots=True)
class Pod:
    """How one pod looks.

    Attributes:
        cloth: Colour of the lips, where light falls.
        inside: Colour of the walls of the cell.
        frame: uint8, (H, W), 255 where lips and posts stand in front of the cell.
        edge: The opening's outline.
    """

    cloth: Colour
    inside: Colour
    frame: Mask
    edge: Polygon


def sample_pod(rng: np.random.Generator, cell: Cell, view: View) -> Pod:
    """Draw a pod: its cloth and how its lips sag.

    Args:
        rng: Source of chance.
        cell: The bin.
        view: The camera.

    Returns:
        The pod.
    """
    shift = rng.uniform(-10, 10) + rng.uniform(-4, 4, size=3)
    yellow = np.array([106.0, 172.0, 200.0]) + shift
    grey = np.array([130.0, 134.0, 140.0]) + shift
    cloth = yellow if rng.random() < 0.88 else grey  # noqa: PLR2004 - most pods are yellow
    inside = cloth * rng.uniform(0.66, 0.84)
    edge = _opening(rng, cell, view)
    frame = np.full((view.size_wh[1], view.size_wh[0]), 255, np.uint8)
    cv2.fillPoly(frame, [edge], 0)
    return Pod(_colour(cloth), _colour(inside), frame, edge)


def paint_inside(rng: np.random.Generator, pod: Pod, cell: Cell, view: View) -> ImageBgr:
    """Paint the empty cell: five cloth surfaces, darker into the depth and along the edges.

    Args:
        rng: Source of chance.
        pod: Its colours.
        cell: The bin.
        view: The camera.

    Returns:
        The picture so far.
    """
    front, back = (np.round(view.project(cell.corners(z))).astype(np.int32) for z in (-2.0, cell.depth_cm))
    image = np.full((view.size_wh[1], view.size_wh[0], 3), scaled(pod.inside, 0.7), np.uint8)
    cardboard = rng.random() < 0.4  # noqa: PLR2004 - share of bins with a stiff grey floor
    floor = (112, 118, 124) if cardboard else scaled(pod.inside, 1.04)
    for side, colour in (
        ((0, 1), scaled(pod.inside, 0.5)),
        ((3, 0), scaled(pod.inside, rng.uniform(0.72, 0.95))),
        ((1, 2), scaled(pod.inside, rng.uniform(0.72, 0.95))),
        ((2, 3), floor),
    ):
        quad = np.array([front[side[0]], front[side[1]], back[side[1]], back[side[0]]])
        cv2.fillConvexPoly(image, quad, colour)
    cv2.fillConvexPoly(image, back, scaled(pod.inside, rng.uniform(0.66, 0.86)))
    cv2.polylines(image, [back], isClosed=True, color=scaled(pod.inside, 0.5), thickness=2, lineType=cv2.LINE_AA)
    image = np.asarray(cv2.blur(image, (7, 7)), np.uint8)
    shaded = cv2.multiply(image, _gloom(rng, front, back, view), scale=1 / 200)
    return _woven(rng, np.asarray(shaded, np.uint8))


def paint_frame(rng: np.random.Generator, image: ImageBgr, pod: Pod, view: View) -> None:
    """Paint lips, posts, stitching and bin labels over the cell.

    Args:
        rng: Source of chance.
        image: Painted into.
        pod: Its colours and frame.
        view: The camera.
    """
    lip = np.full_like(image, pod.cloth)
    edge = [pod.edge]
    cv2.polylines(lip, edge, isClosed=True, color=scaled(pod.cloth, 0.7), thickness=max(2, round(9 * view.scale)))
    cv2.polylines(lip, edge, isClosed=True, color=scaled(pod.cloth, 1.12), thickness=max(1, round(4 * view.scale)))
    low, high = pod.edge.min(axis=0), pod.edge.max(axis=0)
    for x in (low[0] - round(9 * view.scale), high[0] + round(9 * view.scale)):
        cv2.line(lip, (int(x), 0), (int(x), lip.shape[0]), scaled(pod.cloth, 0.78), 2, cv2.LINE_AA)
    _label(rng, lip, int(high[1]) + round(rng.uniform(5, 16) * view.scale), view.scale)
    if rng.random() < 0.8:  # noqa: PLR2004 - the label of the bin above, cut by the upper edge
        _label(rng, lip, int(low[1]) - round(rng.uniform(34, 44) * view.scale), view.scale)
    woven = _woven(rng, lip)
    cv2.copyTo(woven, pod.frame, image)
    _lip_shadow(image, pod, view.scale)


def _opening(rng: np.random.Generator, cell: Cell, view: View) -> Polygon:
    top_left, top_right, bottom_right, bottom_left = view.project(cell.corners(0.0))
    along = np.linspace(0, 1, 12)[:, None]
    sag = np.array([[0.0, 1.0]]) * (4 * along * (1 - along)) * view.scale
    upper = top_left + (top_right - top_left) * along + sag * rng.uniform(-3, 9)
    lower = bottom_right + (bottom_left - bottom_right) * along + sag * rng.uniform(-8, 5)
    outline: Polygon = np.round(np.concatenate([upper, lower])).astype(np.int32)
    return outline


def _gloom(rng: np.random.Generator, front: Polygon, back: Polygon, view: View) -> ImageBgr:
    width, height = view.size_wh[0] // 4, view.size_wh[1] // 4
    light = np.full((height, width), rng.uniform(185, 215), np.float32)
    for one, other in zip(front // 4, back // 4, strict=True):
        cv2.line(light, (int(one[0]), int(one[1])), (int(other[0]), int(other[1])), (95.0,), 5)
    cv2.polylines(light, [back // 4], isClosed=True, color=(100.0,), thickness=5)
    light = cv2.blur(light, (15, 15)) + 9 * cv2.resize(rng.standard_normal((5, 7)).astype(np.float32), (width, height))
    wide = cv2.resize(np.clip(light, 0, 255).astype(np.uint8), view.size_wh, interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.cvtColor(wide, cv2.COLOR_GRAY2BGR), np.uint8)


@cache
def _cloth_tile() -> ImageBgr:
    """Weave and stains, made once per process from a fixed seed; pictures take different windows of it."""
    rng = np.random.default_rng(_CLOTH_SEED)
    weave = rng.normal(0, 3.2, (1024, 1024)).astype(np.float32)
    weave = cv2.blur(weave, (3, 1)) + cv2.blur(weave, (1, 5))
    stains = cv2.resize(rng.standard_normal((40, 40)).astype(np.float32), (1024, 1024), interpolation=cv2.INTER_CUBIC)
    tile = np.clip(128 + weave + 5 * stains, 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(tile, cv2.COLOR_GRAY2BGR), np.uint8)


def _woven(rng: np.random.Generator, image: ImageBgr) -> ImageBgr:
    tile = _cloth_tile()
    height, width = image.shape[:2]
    if height > tile.shape[0] or width > tile.shape[1]:
        tile = np.asarray(cv2.resize(tile, (max(width, 1024), max(height, 1024))), np.uint8)
    y, x = (int(rng.integers(tile.shape[axis] - image.shape[axis] + 1)) for axis in (0, 1))
    return np.asarray(cv2.multiply(image, tile[y : y + height, x : x + width], scale=1 / 128), np.uint8)


def _label(rng: np.random.Generator, lip: ImageBgr, top: int, scale: float) -> None:
    width, height = round(rng.uniform(118, 150) * scale), round(36 * scale)
    left = int(rng.integers(round(0.12 * lip.shape[1]), max(2, round(0.85 * lip.shape[1]) - width)))
    colour = _LABEL_COLOURS[int(rng.integers(len(_LABEL_COLOURS)))]
    card = np.full((height, width, 3), colour, np.uint8)
    inner = round(5 * scale)
    cv2.rectangle(card, (inner, inner), (width // 2, height - inner), (226, 230, 232), -1)
    text = f"{rng.integers(1, 5)}{'ABCDEFGHIJ'[int(rng.integers(10))]}"
    at = (inner + 2, height - round(10 * scale))
    cv2.putText(
        card, text, at, cv2.FONT_HERSHEY_DUPLEX, 0.82 * scale, (40, 36, 36), max(1, round(2 * scale)), cv2.LINE_AA
    )
    arrow = inner + 2 + round(42 * scale)
    cv2.arrowedLine(
        card, (arrow, height - inner - 3), (arrow, inner + 3), (40, 36, 36), max(1, round(2 * scale)), tipLength=0.4
    )
    code = square_code(rng, height - 2 * inner)
    card[inner : inner + code.shape[0], width * 5 // 8 : width * 5 // 8 + code.shape[1]] = code
    cut_top, cut_bottom = max(0, -top), min(height, lip.shape[0] - top)
    if cut_top < cut_bottom:
        around = round(4 * scale)
        corner = (left - around, top - around), (left + width + around, top + height + around)
        cv2.rectangle(lip, corner[0], corner[1], (150, 205, 222), 1, cv2.LINE_AA)
        lip[top + cut_top : top + cut_bottom, left : left + width] = card[cut_top:cut_bottom]


def _lip_shadow(image: ImageBgr, pod: Pod, scale: float) -> None:
    small = cv2.resize(pod.frame, (image.shape[1] // 4, image.shape[0] // 4), interpolation=cv2.INTER_AREA)
    spread = cv2.blur(
        cv2.warpAffine(small, np.array([[1, 0, 0], [0, 1, 4 * scale]]), (small.shape[1], small.shape[0])), (7, 7)
    )
    keep = cv2.bitwise_not(cv2.convertScaleAbs(cv2.resize(spread, (image.shape[1], image.shape[0])), alpha=0.5))
    keep[pod.frame > 0] = 255
    np.copyto(image, cv2.multiply(image, cv2.cvtColor(keep, cv2.COLOR_GRAY2BGR), scale=1 / 255))


def _colour(values: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Colour:
    blue, green, red = (int(min(255, max(0, value))) for value in values)
    return blue, green, red
