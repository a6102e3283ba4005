"""The elastic bands across the front of a bin: flat ribbons of thin threads, see-through, pale, sometimes shimmering.

They lie over everything and hide nothing completely, so they do not enter any visible fraction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from demo.pixels import ImageBgr, Polygon

_SUPPORTS = 9  # points per thread; ribbons bow gently, so few are enough


def paint_bands(rng: np.random.Generator, image: ImageBgr, edge: Polygon, scale: float) -> None:
    """Paint zero to three ribbons.

    Args:
        rng: Source of chance.
        image: Painted into.
        edge: The opening's outline.
        scale: Pixels here per pixel of a 490 pixel wide picture.
    """
    top, bottom = int(edge[:, 1].min()), int(edge[:, 1].max())
    for share in _heights(rng):
        middle = top + (bottom - top) * (share + rng.uniform(-0.05, 0.05))
        _ribbon(rng, image, middle, (bottom - top) * rng.uniform(0.17, 0.27), scale)
    if rng.random() < 0.08:  # noqa: PLR2004 - share of bins with a loose cord
        y = top + (bottom - top) * rng.uniform(0.5, 0.95, 3)
        cord = _thread(np.array([-5.0, image.shape[1] / 2, image.shape[1] + 5.0]), y)
        for colour, thickness in (((60, 110, 130), 5), ((110, 180, 205), 3)):
            cv2.polylines(
                image, [cord], isClosed=False, color=colour, thickness=round(thickness * scale), lineType=cv2.LINE_AA
            )


def _heights(rng: np.random.Generator) -> tuple[float, ...]:
    choices = ((), (0.72,), (0.3, 0.72), (0.22, 0.5, 0.78))
    return choices[int(rng.choice(len(choices), p=(0.05, 0.2, 0.63, 0.12)))]


def _ribbon(rng: np.random.Generator, image: ImageBgr, middle: float, height: float, scale: float) -> None:
    width = image.shape[1]
    x = np.linspace(-5, width + 5, _SUPPORTS)
    along = np.linspace(-1, 1, _SUPPORTS)
    bow = rng.uniform(-6, 10) * scale * (1 - along**2) + rng.normal(0, 5) * scale * along
    threads = int(rng.integers(8, 17))
    haze = np.zeros(image.shape[:2], np.uint8)
    outline = _thread(x, middle - height / 2 + bow), _thread(x, middle + height / 2 + bow)[::-1]
    cv2.fillPoly(haze, [np.concatenate(outline)], int(rng.uniform(22, 60)), lineType=cv2.LINE_AA)
    strength = rng.uniform(60, 150)
    spread = np.linspace(-0.5, 0.5, threads) + rng.normal(0, 0.006, threads)
    for offset in spread:
        lines = [_thread(x, middle + offset * height + bow * (1 + 0.3 * offset))]
        opacity = int(strength * rng.uniform(0.7, 1.15))
        cv2.polylines(
            haze,
            lines,
            isClosed=False,
            color=opacity,
            thickness=max(1, round(rng.uniform(0.6, 2.0) * scale)),
            lineType=cv2.LINE_AA,
        )
    if rng.random() < 0.35:  # noqa: PLR2004 - share of ribbons whose plastic clip is in view
        left = 0 if rng.random() < 0.5 else width - round(22 * scale)  # noqa: PLR2004
        clip = (left, round(middle - 0.4 * height)), (left + round(22 * scale), round(middle + 0.4 * height))
        cv2.rectangle(haze, clip[0], clip[1], 130, -1)
        cv2.rectangle(haze, clip[0], clip[1], 190, 2)
    _blend(rng, image, haze)


def _thread(
    x: np.ndarray[tuple[int, ...], np.dtype[np.float64]], y: np.ndarray[tuple[int, ...], np.dtype[np.float64]]
) -> Polygon:
    line: Polygon = np.round(np.stack([x, y], axis=1)).astype(np.int32)
    return line


def _blend(rng: np.random.Generator, image: ImageBgr, haze: ImageBgr) -> None:
    used = np.flatnonzero(haze.any(axis=1))
    if not len(used):
        return
    rows = slice(int(used[0]), int(used[-1]) + 1)
    opacity = cv2.cvtColor(np.ascontiguousarray(haze[rows]), cv2.COLOR_GRAY2BGR)
    pale = np.full_like(opacity, rng.uniform(165, 205) + rng.uniform(-8, 8, 3))
    if rng.random() < 0.3:  # noqa: PLR2004 - share of ribbons that shimmer in colours, as fine threads do on a sensor
        tint = np.array([[1.15, 0.95, 0.88], [0.9, 1.0, 1.1], [0.95, 1.06, 0.96]])[np.arange(pale.shape[0]) % 3]
        pale = np.clip(pale * tint[:, None, :], 0, 255).astype(np.uint8)
    covered = cv2.multiply(pale, opacity, scale=1 / 255)
    image[rows] = cv2.add(cv2.multiply(image[rows], cv2.bitwise_not(opacity), scale=1 / 255), covered)
