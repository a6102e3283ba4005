"""The array types that the renderer's rooms hand to each other."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

ImageBgr: TypeAlias = NDArray[np.uint8]
"""uint8, (H, W, 3), BGR, 0..255."""

Mask: TypeAlias = NDArray[np.uint8]
"""uint8, (H, W), 0 outside and 255 inside, values between on soft edges."""

Points: TypeAlias = NDArray[np.float64]
"""float64, (N, 2) in pixels (x right, y down) or (N, 3) in centimetres (x right, y up, z into the bin)."""

Polygon: TypeAlias = NDArray[np.int32]
"""int32, (N, 2), pixels, x right and y down; may reach outside the picture."""

Colour: TypeAlias = tuple[int, int, int]
"""Blue, green, red, 0..255."""


def scaled(colour: Colour, factor: float) -> Colour:
    """Make a colour lighter or darker.

    Args:
        colour: Blue, green, red.
        factor: 1 leaves it, 0 makes it black; results are clipped at 255.

    Returns:
        The new colour.
    """
    blue, green, red = (min(255, max(0, round(channel * factor))) for channel in colour)
    return blue, green, red


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    """Blend two colours.

    Args:
        one: What share 0 gives.
        other: What share 1 gives.
        share: Between 0 and 1.

    Returns:
        The blend.
    """
    blue, green, red = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return blue, green, red
