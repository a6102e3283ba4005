"""The painter's order, on blocks whose mutual hiding is known."""

from __future__ import annotations

import pytest

from demo.items import Design, Solid
from demo.order import back_to_front

EYE = (0.0, 15.0, -90.0)


def block(x: float, y: float, z: float, size: tuple[float, float, float] = (10.0, 8.0, 6.0)) -> Solid:
    return Solid(Design("box", size, 0.0, (1, 2, 3), (4, 5, 6), "white", 0), (x, y, z), 0.0)


@pytest.mark.parametrize(
    ("behind", "before"),
    [
        (block(0, 0, 20), block(0, 0, 5)),  # two rows
        (block(0, 0, 5), block(0, 8, 5)),  # the lower one ends below the eye: the upper one stands on what it shows
        (
            block(11, 0, 3, (10, 8, 6)),
            block(0, 0, 8, (10, 8, 16)),
        ),  # the one nearer the axis hides, though farther back
    ],
)
def test_back_to_front_of_two_blocks_paints_the_hidden_one_first(behind: Solid, before: Solid) -> None:
    assert back_to_front([behind, before], EYE) == (behind, before)
    assert back_to_front([before, behind], EYE) == (behind, before)


def test_back_to_front_of_nothing_is_nothing() -> None:
    assert back_to_front([], EYE) == ()
