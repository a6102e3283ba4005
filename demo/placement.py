"""How a bin gets filled: items stand side by side, in two rows, lean, lie on each other, and never run into another.

Whether an arrangement can be counted is judged on masks, never guessed: it is kept only when every item shows at least
the fraction asked for. Tries are bounded, and the last resort is a plain row, in which nothing hides anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bundle.errors import InputError
from demo.items import Box, Design, Solid, extent, sample_design
from demo.order import back_to_front
from demo.outlines import Silhouette, identify, silhouette, visible_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from demo.pixels import Mask
    from demo.view import Cell, View

_MAX_TRIES = 60
_PLACES_PER_ITEM = 14
_MIN_VISIBLE_PX = 750  # in a picture 490 pixels wide: about a 27 x 27 patch, enough to see that something is there
_GAP_CM = 0.25
# How much of every item should show: (share of pictures, fraction). The promise itself is `min_visible`.
_COMFORT = ((0.12, 0.0), (0.3, 0.45), (0.58, 0.62))


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Items in a bin, ready to be painted.

    Attributes:
        solids: Back to front.
        silhouettes: One per solid.
        visible: Visible fraction per solid: pixels seen / pixels of its own silhouette.
    """

    solids: tuple[Solid, ...]
    silhouettes: tuple[Silhouette, ...]
    visible: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """What does not change while items are being placed.

    Attributes:
        cell: The bin.
        view: The camera.
        frame: uint8, (H, W), non-zero where the pod's cloth hides the cell.
    """

    cell: Cell
    view: View
    frame: Mask


def arrange(rng: np.random.Generator, stage: Stage, count: int, min_visible: float) -> Arrangement:
    """Fill a bin so that every item can be counted.

    Args:
        rng: Source of chance.
        stage: Bin, camera and frame.
        count: Number of items.
        min_visible: Least visible fraction of every item.

    Returns:
        The arrangement; its visible fractions are measured, not assumed.

    Raises:
        InputError: Not even a plain row shows that much of every item.
    """
    designs, ease = _designs(rng, count, 1.0), 1.0
    comfort = float(rng.choice([level for _, level in _COMFORT], p=[share for share, _ in _COMFORT]))
    for attempt in range(_MAX_TRIES):
        relaxed = max(min_visible, comfort * (1 - attempt / _MAX_TRIES))
        solids = _fill(rng, stage.cell, designs)
        if solids is None:
            ease *= 0.97
            designs = _designs(rng, count, ease) if attempt % 4 == 3 else [_shrunk(one, 0.97) for one in designs]  # noqa: PLR2004
            continue
        arrangement = measure(solids, stage)
        if _countable(arrangement, stage, relaxed):
            return arrangement
    return _row(stage, designs, min_visible)


def measure(solids: Sequence[Solid], stage: Stage) -> Arrangement:
    """Order items back to front and measure how much of each is seen.

    Args:
        solids: Items, in any order.
        stage: Bin, camera and frame.

    Returns:
        The measured arrangement.
    """
    ordered = back_to_front(solids, stage.view.eye_cm)
    silhouettes = tuple(silhouette(solid, stage.view) for solid in ordered)
    seen = visible_pixels(identify(silhouettes, stage.frame), len(ordered))
    fractions = tuple(pixels / item.area_px for pixels, item in zip(seen, silhouettes, strict=True))
    return Arrangement(ordered, silhouettes, fractions)


def _countable(arrangement: Arrangement, stage: Stage, least: float) -> bool:
    least_px = _MIN_VISIBLE_PX * stage.view.scale**2
    return all(
        fraction >= least and fraction * item.area_px >= least_px
        for fraction, item in zip(arrangement.visible, arrangement.silhouettes, strict=True)
    )


def _designs(rng: np.random.Generator, count: int, ease: float) -> list[Design]:
    factor = ease * 1.65 / (1 + 0.095 * max(0, count - 1)) * rng.uniform(0.8, 1.1)
    designs: list[Design] = []
    copies = rng.random() < 0.3  # noqa: PLR2004 - share of bins that hold several of the same thing
    while len(designs) < count:
        if copies and designs and rng.random() < 0.65:  # noqa: PLR2004 - a share
            designs.append(designs[int(rng.integers(len(designs)))])
        else:
            designs.append(sample_design(rng, factor * rng.uniform(0.85, 1.2)))
    return sorted(designs, key=lambda design: -design.size_cm[0] * design.size_cm[2])


def _shrunk(design: Design, factor: float) -> Design:
    width, height, depth = design.size_cm
    return replace(design, size_cm=(width * factor, height * factor, depth * factor))


def _fill(rng: np.random.Generator, cell: Cell, designs: Sequence[Design]) -> list[Solid] | None:
    placed: list[Solid] = []
    for design in designs:
        found = _find_place(rng, cell, design, placed)
        if found is None:
            return None
        placed.append(found)
    return placed


def _find_place(rng: np.random.Generator, cell: Cell, design: Design, placed: Sequence[Solid]) -> Solid | None:
    yaw = _yaw(rng, design)
    size = extent(design, yaw)
    if size[0] > cell.width_cm or size[1] > 0.95 * cell.height_cm or size[2] > cell.depth_cm:
        return None
    supports = [solid for solid in placed if design.roll_deg == 0 and _carries(solid, size)]
    taken = [solid.box() for solid in placed]
    for _ in range(_PLACES_PER_ITEM):
        if supports and rng.random() < 0.3:  # noqa: PLR2004 - share of places tried on top of something
            base = _on_top(rng, supports[int(rng.integers(len(supports)))], size)
        else:
            base = _on_floor(rng, cell, size, placed)
        solid = Solid(design, base, yaw)
        box = solid.box()
        if _inside(box, cell) and not any(_collide(box, other) for other in taken):
            return solid
    return None


def _yaw(rng: np.random.Generator, design: Design) -> float:
    if design.kind == "box":
        return float(rng.normal(0, 9))
    return float(rng.normal(0, 4)) if design.kind == "book" else 0.0


def _carries(solid: Solid, size: tuple[float, float, float]) -> bool:
    low, high = solid.box()
    flat = solid.design.kind in {"box", "book"} and solid.design.roll_deg == 0
    return flat and size[0] < 1.15 * (high[0] - low[0]) and size[2] < 1.25 * (high[2] - low[2])


def _on_top(rng: np.random.Generator, support: Solid, size: tuple[float, float, float]) -> tuple[float, float, float]:
    low, high = support.box()
    x = support.base_cm[0] + rng.uniform(-0.2, 0.2) * (high[0] - low[0])
    z = low[2] + size[2] / 2 + rng.uniform(0.0, 1.0)
    return float(x), high[1], float(z)


def _on_floor(
    rng: np.random.Generator, cell: Cell, size: tuple[float, float, float], placed: Sequence[Solid]
) -> tuple[float, float, float]:
    reach = (cell.width_cm - size[0]) / 2
    room = cell.depth_cm - size[2]
    x = rng.uniform(-reach, reach)
    z = rng.uniform(0.4, min(5.0, max(room, 0.5))) if rng.random() < 0.7 else rng.uniform(0.0, max(room, 0.1))  # noqa: PLR2004
    if placed and rng.random() < 0.4:  # noqa: PLR2004 - share of places tried snugly beside a neighbour
        low, high = placed[int(rng.integers(len(placed)))].box()
        gap = _GAP_CM + rng.uniform(0.05, 0.6)
        x = high[0] + gap + size[0] / 2 if rng.random() < 0.5 else low[0] - gap - size[0] / 2  # noqa: PLR2004
        z = max(0.2, low[2] + rng.uniform(-1.0, 1.5))
    return float(x), 0.0, float(z + size[2] / 2)


def _inside(box: Box, cell: Cell) -> bool:
    low, high = box
    half = cell.width_cm / 2
    return low[0] >= -half and high[0] <= half and high[1] <= 0.97 * cell.height_cm and high[2] <= cell.depth_cm


def _collide(one: Box, other: Box) -> bool:
    (low, high), (other_low, other_high) = one, other
    apart = (low[axis] >= other_high[axis] + gap or other_low[axis] >= high[axis] + gap for axis, gap in _GAPS)
    return not any(apart)


# Stacked items touch; neighbours keep a finger's breadth.
_GAPS = ((0, _GAP_CM), (1, -1e-6), (2, _GAP_CM))


def _row(stage: Stage, designs: Sequence[Design], min_visible: float) -> Arrangement:
    slot = stage.cell.width_cm / max(1, len(designs))
    solids = []
    for number, design in enumerate(designs):
        width, height, depth = extent(design, 0.0)
        factor = min(0.82 * slot / width, 0.8 * stage.cell.height_cm / height, 0.8 * stage.cell.depth_cm / depth, 1.0)
        x = -stage.cell.width_cm / 2 + (number + 0.5) * slot
        solids.append(Solid(_shrunk(design, factor), (x, 0.0, 0.5 + factor * depth / 2), 0.0))
    arrangement = measure(solids, stage)
    worst = min(arrangement.visible, default=1.0)
    if worst < min_visible:
        raise InputError(
            "these items cannot all be seen that well",
            got=f"at best {worst:.2f} of the least visible one",
            expected=f"min_visible={min_visible}",
            fix="ask for a lower min_visible or a smaller count",
        )
    return arrangement
