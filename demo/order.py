"""Which item hides which: a painter's order for blocks that do not run into each other.

Two separate blocks are split by a plane along one axis; the one on the eye's side of that plane can hide the other and
never the reverse. Sorting by distance alone gets neighbours of different depth wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from demo.items import Box, Solid


def back_to_front(solids: Sequence[Solid], eye_cm: tuple[float, float, float]) -> tuple[Solid, ...]:
    """Order items so that each one is painted after everything it may hide.

    Args:
        solids: Items that do not overlap.
        eye_cm: The camera's position.

    Returns:
        The same items, farthest first. Rings of items that hide each other (not seen in practice) are broken by depth.
    """
    boxes = [solid.box() for solid in solids]
    waiting = sorted(range(len(solids)), key=lambda number: -boxes[number][0][2])
    ordered: list[Solid] = []
    while waiting:
        farthest = next((one for one in waiting if not _hides_any(one, waiting, boxes, eye_cm)), waiting[0])
        waiting.remove(farthest)
        ordered.append(solids[farthest])
    return tuple(ordered)


def _hides_any(one: int, others: Sequence[int], boxes: Sequence[Box], eye_cm: tuple[float, float, float]) -> bool:
    return any(other != one and _in_front(boxes[one], boxes[other], eye_cm) for other in others)


def _in_front(one: Box, other: Box, eye_cm: tuple[float, float, float]) -> bool:
    (low, high), (other_low, other_high) = one, other
    for axis in (2, 1, 0):
        if high[axis] <= other_low[axis] + 1e-9:
            return eye_cm[axis] < other_low[axis]
        if other_high[axis] <= low[axis] + 1e-9:
            return eye_cm[axis] > low[axis]
    return low[2] < other_low[2]
