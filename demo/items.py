"""What may lie in a bin: designs (what an item is) and solids (where one of them stands).

A design carries everything that identical copies share: kind, size, colours and the seed of its print. Sizes are in
centimetres, of the order of the things in the photos: boxes, books, bottles, jars seen end-on, and bags.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from demo.pixels import mixed

if TYPE_CHECKING:
    from collections.abc import Callable

    from demo.pixels import Colour, Points

Kind: TypeAlias = Literal["box", "book", "bottle", "jar", "bag"]
_Lengths: TypeAlias = tuple[float, float, float]
Box: TypeAlias = tuple[_Lengths, _Lengths]
KINDS: tuple[Kind, ...] = ("box", "book", "bottle", "jar", "bag")
_KIND_SHARES = (0.36, 0.22, 0.14, 0.12, 0.16)

_CARDBOARD: Colour = (84, 114, 168)
_DUST: Colour = (108, 116, 124)  # little in the photos is as vivid as it was in the shop
_BLACK: Colour = (46, 44, 44)
_COLOURS: tuple[Colour, ...] = (
    (48, 52, 190), (40, 96, 214), (150, 84, 40), (96, 58, 34), (70, 128, 52), (44, 74, 40), (196, 150, 70),
    (72, 60, 110), (60, 190, 225), (70, 70, 74), (38, 38, 42), (150, 150, 60), (160, 120, 200), (60, 60, 110),
)  # fmt: skip
_PALE: tuple[Colour, ...] = ((225, 228, 230), (205, 216, 224), (228, 220, 208), (190, 200, 205))


@dataclass(frozen=True, slots=True)
class Design:
    """One product; identical copies share it.

    Attributes:
        kind: What it is.
        size_cm: Width, height, depth as it stands, before it is turned.
        roll_deg: Turn in the picture plane: leaning books, lying bottles.
        colour: Its main colour.
        accent: Its print, cap or label colour.
        look: Which of the kind's looks it has, for example "spine" or "pages" for a book.
        print_seed: Seed of what is printed on it.
    """

    kind: Kind
    size_cm: tuple[float, float, float]
    roll_deg: float
    colour: Colour
    accent: Colour
    look: str
    print_seed: int


@dataclass(frozen=True, slots=True)
class Solid:
    """A design at its place in the bin.

    Attributes:
        design: What stands there.
        base_cm: Middle of its bounding box's lower face.
        yaw_deg: Turn about the vertical.
    """

    design: Design
    base_cm: tuple[float, float, float]
    yaw_deg: float

    def place(self, local_cm: Points) -> Points:
        """Carry points of the untouched item (x across, y up from its base, z back, origin at its base) into the world.

        Args:
            local_cm: float64, (N, 3).

        Returns:
            float64, (N, 3).
        """
        turned = local_cm @ _rotation(self.design.roll_deg, self.yaw_deg).T
        low, high = _bounds(self.design.size_cm, self.design.roll_deg, self.yaw_deg)
        middle = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
        placed: Points = turned - middle + np.array(self.base_cm)
        return placed

    def box(self) -> Box:
        """Give the axis-parallel bounding box.

        Returns:
            Lowest and highest corner, centimetres.
        """
        width, height, depth = extent(self.design, self.yaw_deg)
        x, y, z = self.base_cm
        return (x - width / 2, y, z - depth / 2), (x + width / 2, y + height, z + depth / 2)


def unit_corners() -> Points:
    """Give the corners of the unit block: x and z in -0.5..0.5, y in 0..1.

    Returns:
        float64, (8, 3), x changing fastest, then y, then z.
    """
    return np.array([[x, y, z] for z in (-0.5, 0.5) for y in (0.0, 1.0) for x in (-0.5, 0.5)])


def extent(design: Design, yaw_deg: float) -> tuple[float, float, float]:
    """Measure the axis-parallel bounding box of a turned item.

    Args:
        design: The item.
        yaw_deg: Turn about the vertical.

    Returns:
        Width, height, depth in centimetres.
    """
    low, high = _bounds(design.size_cm, design.roll_deg, yaw_deg)
    return high[0] - low[0], high[1] - low[1], high[2] - low[2]


@lru_cache(maxsize=512)
def _bounds(size_cm: _Lengths, roll_deg: float, yaw_deg: float) -> tuple[_Lengths, _Lengths]:
    corners = (unit_corners() * np.array(size_cm)) @ _rotation(roll_deg, yaw_deg).T
    low, high = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])


def _rotation(roll_deg: float, yaw_deg: float) -> Points:
    cos_r, sin_r = math.cos(math.radians(roll_deg)), math.sin(math.radians(roll_deg))
    cos_y, sin_y = math.cos(math.radians(yaw_deg)), math.sin(math.radians(yaw_deg))
    roll = np.array([[cos_r, -sin_r, 0.0], [sin_r, cos_r, 0.0], [0.0, 0.0, 1.0]])
    yaw = np.array([[cos_y, 0.0, sin_y], [0.0, 1.0, 0.0], [-sin_y, 0.0, cos_y]])
    product: Points = yaw @ roll
    return product


def sample_design(rng: np.random.Generator, size_factor: float) -> Design:
    """Draw a product.

    Args:
        rng: Source of chance.
        size_factor: Multiplies every length; fuller bins hold smaller things.

    Returns:
        The design.
    """
    kind = KINDS[int(rng.choice(len(KINDS), p=_KIND_SHARES))]
    size, roll, look = _SHAPES[kind](rng)
    colour, accent = _colours(rng, kind, look)
    scaled = tuple(side * size_factor for side in size)
    return Design(kind, (scaled[0], scaled[1], scaled[2]), roll, colour, accent, look, int(rng.integers(1 << 31)))


_Shape: TypeAlias = tuple[tuple[float, float, float], float, str]


def _box(rng: np.random.Generator) -> _Shape:
    look = ("cardboard", "retail", "white")[int(rng.choice(3, p=(0.4, 0.42, 0.18)))]
    return (rng.uniform(8, 17), rng.uniform(6, 17), rng.uniform(6, 14)), 0.0, look


def _book(rng: np.random.Generator) -> _Shape:
    thick, tall, deep = rng.uniform(2.4, 4.8), rng.uniform(12, 18), rng.uniform(9, 14)
    look = "spine" if rng.random() < 0.7 else "pages"  # noqa: PLR2004 - a share
    pose = rng.random()
    if pose < 0.4:  # noqa: PLR2004 - lying, its spine to the front
        return (tall, thick, deep), 0.0, look
    if pose < 0.75:  # noqa: PLR2004 - standing
        return (thick, tall, deep), 0.0, look
    return (thick, tall, deep), float(rng.choice((-1, 1)) * rng.uniform(8, 28)), look


def _bottle(rng: np.random.Generator) -> _Shape:
    across, tall = rng.uniform(4.8, 8.5), rng.uniform(11, 18)
    lying = rng.random() < 0.2  # noqa: PLR2004 - a share
    look = ("round", "square")[int(rng.integers(2))]
    return (across, tall, across), float(rng.choice((-90, 90))) if lying else 0.0, look


def _jar(rng: np.random.Generator) -> _Shape:
    across = rng.uniform(6, 11)
    return (across, across, rng.uniform(7, 14)), 0.0, ("lid", "roll")[int(rng.integers(2))]


def _bag(rng: np.random.Generator) -> _Shape:
    look = ("clear", "dark", "paper")[int(rng.choice(3, p=(0.5, 0.25, 0.25)))]
    return (
        (rng.uniform(10, 19), rng.uniform(6, 13), rng.uniform(5, 9)),
        float(rng.choice((0.0, rng.normal(0, 7)))),
        look,
    )


_SHAPES: dict[Kind, Callable[[np.random.Generator], _Shape]] = {
    "box": _box, "book": _book, "bottle": _bottle, "jar": _jar, "bag": _bag,
}  # fmt: skip


def _colours(rng: np.random.Generator, kind: Kind, look: str) -> tuple[Colour, Colour]:
    vivid = _jittered(rng, _COLOURS[int(rng.integers(len(_COLOURS)))])
    other = _jittered(rng, _COLOURS[int(rng.integers(len(_COLOURS)))])
    pale = _jittered(rng, _PALE[int(rng.integers(len(_PALE)))])
    if look in {"cardboard", "paper"}:
        return _jittered(rng, _CARDBOARD), (44, 54, 66)
    if look == "white":
        return pale, vivid
    if look == "dark":
        return _jittered(rng, _BLACK), pale
    if kind in {"bottle", "jar"} and rng.random() < 0.5:  # noqa: PLR2004 - a share
        return pale, vivid
    return (vivid, pale) if rng.random() < 0.7 else (vivid, other)  # noqa: PLR2004 - a share


def _jittered(rng: np.random.Generator, colour: Colour) -> Colour:
    shift = rng.integers(-8, 9, size=3) + rng.integers(-14, 15)
    blue, green, red = (int(min(245, max(14, c + s))) for c, s in zip(colour, shift, strict=True))
    return mixed((blue, green, red), _DUST, rng.uniform(0.1, 0.4))
