"""Render one bin whose count is known by construction.

Invariants:
- The same seed gives byte-equal pixels on the same machine; chance comes from a `numpy` Generator made from the seed.
- `count` is the number of items painted. Each item's visible fraction is measured on the id mask that the picture was
  painted from: its visible pixels over those of its own whole silhouette. Cloth and other items hide; see-through
  elastic bands and blur do not.
- By default every item shows at least a quarter of itself. An arrangement that breaks the promise is drawn again; the
  count is never changed to fit a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle.errors import InputError
from demo.bands import paint_bands
from demo.camera_effects import photograph
from demo.paint import paint, sample_light
from demo.placement import Stage, arrange
from demo.pod import Pod, paint_frame, paint_inside, sample_pod
from demo.view import sample_cell, sample_view

if TYPE_CHECKING:
    from demo.items import Kind
    from demo.pixels import ImageBgr
    from demo.placement import Arrangement

MAX_COUNT = 12
_MIN_SIDE_PX, _MAX_SIDE_PX = 64, 4096
_SHARES = (*([0.14] * 6), 0.044, 0.034, 0.026, 0.02, 0.015, 0.012, 0.009)


@dataclass(frozen=True, slots=True)
class RenderedItem:
    """One item in a rendered bin.

    Attributes:
        kind: What it is.
        visible: Visible fraction of its own silhouette, 0..1.
    """

    kind: Kind
    visible: float


@dataclass(frozen=True, slots=True)
class RenderedBin:
    """A picture and the truth about it.

    Attributes:
        image_bgr: uint8, (H, W, 3), BGR, 0..255.
        count: Number of items.
        items: Every item, back to front.
        seed: What it was rendered from.
    """

    image_bgr: ImageBgr
    count: int
    items: tuple[RenderedItem, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A bin before it is painted: where everything stands.

    Attributes:
        stage: Bin, camera and frame.
        pod: The cloth around it.
        arrangement: Items and their silhouettes, back to front.
    """

    stage: Stage
    pod: Pod
    arrangement: Arrangement


def render_bin(
    seed: int, *, count: int | None = None, size_wh: tuple[int, int] = (490, 340), min_visible: float = 0.25
) -> RenderedBin:
    """Render one bin.

    Args:
        seed: Not negative; decides everything.
        count: Number of items, 0..12; drawn from the seed when absent (0..5 equally often, 6..12 together in 16 %).
        size_wh: Picture size in pixels, 64 to 4096 each.
        min_visible: Least visible fraction of every item, 0..1.

    Returns:
        The picture, its count and its items.

    Raises:
        InputError: An argument is out of range, or not even a plain row of items shows that much of each.
    """
    layout = lay_out(seed, count=count, size_wh=size_wh, min_visible=min_visible)
    image = _paint(layout, seed)
    arrangement = layout.arrangement
    items = tuple(
        RenderedItem(solid.design.kind, fraction)
        for solid, fraction in zip(arrangement.solids, arrangement.visible, strict=True)
    )
    return RenderedBin(image, len(items), items, seed)


def lay_out(
    seed: int, *, count: int | None = None, size_wh: tuple[int, int] = (490, 340), min_visible: float = 0.25
) -> Layout:
    """Decide where everything stands, without painting it.

    Args:
        seed: As for `render_bin`.
        count: As for `render_bin`.
        size_wh: As for `render_bin`.
        min_visible: As for `render_bin`.

    Returns:
        The layout that `render_bin` paints for the same arguments.

    Raises:
        InputError: As for `render_bin`.
    """
    _check(seed, count, size_wh, min_visible)
    number = sample_count(seed) if count is None else count
    rng = np.random.default_rng([seed, 1])
    cell = sample_cell(rng, size_wh)
    view = sample_view(rng, cell, size_wh)
    pod = sample_pod(rng, cell, view)
    stage = Stage(cell, view, pod.frame)
    return Layout(stage, pod, arrange(rng, stage, number, min_visible))


def sample_count(seed: int) -> int:
    """Draw the count that belongs to a seed.

    Args:
        seed: Not negative.

    Returns:
        0..12.
    """
    return int(np.random.default_rng([seed, 0]).choice(MAX_COUNT + 1, p=_SHARES))


def _paint(layout: Layout, seed: int) -> ImageBgr:
    rng = np.random.default_rng([seed, 2])
    cell, view = layout.stage.cell, layout.stage.view
    image = paint_inside(rng, layout.pod, cell, view)
    light = sample_light(rng, cell.depth_cm, view.scale)
    for solid, outline in zip(layout.arrangement.solids, layout.arrangement.silhouettes, strict=True):
        paint(image, solid, outline, view, light)
    paint_frame(rng, image, layout.pod, view)
    paint_bands(rng, image, layout.pod.edge, view.scale)
    return photograph(rng, image)


def _check(seed: int, count: int | None, size_wh: tuple[int, int], min_visible: float) -> None:
    if seed < 0:
        raise InputError("the seed of a rendered bin", got=seed, expected="0 or more")
    if count is not None and not 0 <= count <= MAX_COUNT:
        raise InputError("the count of a rendered bin", got=count, expected=f"0 to {MAX_COUNT}")
    if not all(_MIN_SIDE_PX <= side <= _MAX_SIDE_PX for side in size_wh):
        raise InputError("the size of a rendered bin", got=size_wh, expected=f"{_MIN_SIDE_PX} to {_MAX_SIDE_PX} pixels")
    if not 0 <= min_visible <= 1:
        raise InputError("the least visible fraction", got=min_visible, expected="0 to 1")
