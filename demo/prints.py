"""What is printed on things: product names, paragraphs, barcodes, the square code of a bin label.

Every word is a plain noun; no brand is imitated. A print is drawn flat and carried into the picture by a homography.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from demo.pixels import mixed, scaled

if TYPE_CHECKING:
    from demo.items import Design
    from demo.pixels import Colour, ImageBgr

_WORDS = (
    "TEA", "SOAP", "BOLTS", "LAMP", "PAPER", "SALT", "GLUE", "CORD", "RICE", "SOCKS", "FILTER", "COFFEE",
    "TOOLS", "WAX", "PASTA", "CABLE", "BRUSH", "TAPE", "GAMES", "ATLAS", "RIVER", "NORTH", "STORIES", "GARDEN",
    "PUZZLE", "HONEY", "OATS",
)  # fmt: skip
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX)
_INK: Colour = (38, 38, 44)
_PAPER: Colour = (228, 232, 234)


def face(design: Design, size_wh: tuple[int, int]) -> ImageBgr:
    """Draw the front of a box or a book, lying flat.

    Args:
        design: A box or a book.
        size_wh: Size of the print in pixels.

    Returns:
        The print.
    """
    rng = np.random.default_rng([design.print_seed, 1])
    image = np.full((size_wh[1], size_wh[0], 3), design.colour, np.uint8)
    if design.kind == "book":
        return _book(rng, image, design)
    if design.look == "retail":
        return _retail(rng, image, design)
    _carton(rng, image, design)
    return image


def wrap(design: Design, size_wh: tuple[int, int]) -> ImageBgr:
    """Draw a bottle as seen from the front: body, label, cap, all in one flat print.

    Args:
        design: A bottle.
        size_wh: Size of the print in pixels.

    Returns:
        The print, light falling off to both sides as on a cylinder.
    """
    rng = np.random.default_rng([design.print_seed, 1])
    width, height = size_wh
    image = np.full((height, width, 3), design.colour, np.uint8)
    top, bottom = round(height * rng.uniform(0.36, 0.5)), round(height * rng.uniform(0.8, 0.93))
    cv2.rectangle(image, (0, top), (width, bottom), design.accent, -1)
    word(rng, image, (2, top, width - 4, (bottom - top) // 2), scaled(design.colour, 0.6))
    paragraph(
        rng, image, (width // 5, (top + bottom) // 2, width * 3 // 5, (bottom - top) // 3), scaled(design.colour, 0.7)
    )
    cv2.rectangle(
        image, (0, 0), (width, round(height * 0.12)), mixed(design.accent, design.colour, rng.uniform(0, 0.4)), -1
    )
    across = np.linspace(-1, 1, width)
    shade = 0.42 + 0.62 * np.sqrt(1 - across**2 * 0.95) + 0.3 * np.exp(-(((across + 0.35) / 0.12) ** 2))
    lit = np.clip(image * shade[None, :, None], 0, 255)
    return np.asarray(lit, np.uint8)


def word(rng: np.random.Generator, image: ImageBgr, box_xywh: tuple[int, int, int, int], ink: Colour) -> None:
    """Write one product name as large as its box allows.

    Args:
        rng: Source of chance.
        image: Drawn into.
        box_xywh: Left, top, width, height.
        ink: Colour of the letters.
    """
    x, y, width, height = box_xywh
    text = _WORDS[int(rng.integers(len(_WORDS)))]
    size = min(width / (19.0 * len(text)), height / 30.0)
    thickness = 1 + int(rng.integers(1, 3)) * (size > 0.6)  # noqa: PLR2004 - bold only where there is room
    at = (x + round((width - 18.5 * size * len(text)) / 2), y + round(height / 2 + 11 * size))
    cv2.putText(image, text, at, _FONTS[int(rng.integers(len(_FONTS)))], size, ink, thickness, cv2.LINE_AA)


def paragraph(rng: np.random.Generator, image: ImageBgr, box_xywh: tuple[int, int, int, int], ink: Colour) -> None:
    """Draw lines of small print, which the camera never resolves anyway.

    Args:
        rng: Source of chance.
        image: Drawn into.
        box_xywh: Left, top, width, height.
        ink: Colour of the lines.
    """
    x, y, width, height = box_xywh
    for line in range(0, height - 1, 4):
        cv2.line(image, (x, y + line), (x + round(width * rng.uniform(0.6, 1.0)), y + line), ink, 1)


def barcode(rng: np.random.Generator, image: ImageBgr, box_xywh: tuple[int, int, int, int]) -> None:
    """Stick a white label with a barcode on.

    Args:
        rng: Source of chance.
        image: Drawn into.
        box_xywh: Left, top, width, height.
    """
    x, y, width, height = box_xywh
    bars = np.repeat(rng.integers(0, 2, size=max(1, width // 2 - 2)), 2)
    cv2.rectangle(image, (x, y), (x + width, y + height), _PAPER, -1)
    target = image[y + 2 : y + height * 3 // 4, x + 2 : x + 2 + len(bars)]
    target[:, bars[: target.shape[1]] > 0] = _INK
    cv2.line(image, (x + 3, y + height - 3), (x + width - 4, y + height - 3), _INK, 1)


def square_code(rng: np.random.Generator, size_px: int) -> ImageBgr:
    """Draw a square code of black and white cells.

    Args:
        rng: Source of chance.
        size_px: Edge.

    Returns:
        uint8, (size_px, size_px, 3).
    """
    cells = rng.integers(0, 2, size=(11, 11)).astype(np.uint8)
    for corner in ((0, 0), (0, 8), (8, 0)):
        cells[corner[0] : corner[0] + 3, corner[1] : corner[1] + 3] = ((1, 1, 1), (1, 0, 1), (1, 1, 1))
    grey = np.where(cells > 0, 46, 226).astype(np.uint8)
    large = cv2.resize(grey, (size_px, size_px), interpolation=cv2.INTER_NEAREST)
    return np.asarray(cv2.cvtColor(large, cv2.COLOR_GRAY2BGR), np.uint8)


def _carton(rng: np.random.Generator, image: ImageBgr, design: Design) -> None:
    height, width = image.shape[:2]
    if rng.random() < 0.6:  # noqa: PLR2004 - share of cartons with tape over the seam
        tape = round(width * rng.uniform(0.42, 0.58))
        cv2.rectangle(image, (tape - 5, 0), (tape + 5, height), mixed(design.colour, _PAPER, 0.3), -1)
        cv2.line(image, (tape, 0), (tape, height), scaled(design.colour, 0.7), 1)
    if rng.random() < 0.55:  # noqa: PLR2004 - share of printed cartons
        word(rng, image, (6, height // 8, width - 12, height // 3), design.accent)
    if rng.random() < 0.6:  # noqa: PLR2004 - share of cartons with a shipping label
        w, h = max(12, width // 3), max(10, height // 4)
        barcode(rng, image, (int(rng.integers(2, max(3, width - w - 2))), height - h - max(3, height // 10), w, h))
    if rng.random() < 0.3:  # noqa: PLR2004 - share with handling notes
        paragraph(rng, image, (width // 8, height // 2, width // 2, height // 5), design.accent)


def _retail(rng: np.random.Generator, image: ImageBgr, design: Design) -> ImageBgr:
    height, width = image.shape[:2]
    band = round(height * rng.uniform(0.25, 0.5))
    if rng.random() < 0.5:  # noqa: PLR2004 - two ways to design a box
        cv2.rectangle(image, (0, band), (width, height), mixed(design.colour, design.accent, rng.uniform(0.3, 0.7)), -1)
    _motif(rng, image, band, design)
    word(rng, image, (4, 4, width - 8, max(8, band - 6)), design.accent)
    if rng.random() < 0.5:  # noqa: PLR2004 - share that shows its barcode
        barcode(rng, image, (width - width // 3 - 3, height - height // 5 - 3, width // 3, height // 5))
    if rng.random() < 0.5:  # noqa: PLR2004 - share with small print
        paragraph(rng, image, (width // 12, height * 4 // 5, width // 3, height // 6), scaled(design.colour, 0.5))
    return image


def _motif(rng: np.random.Generator, image: ImageBgr, band: int, design: Design) -> None:
    """Draw what shows the product: a spot, a photo, or slanted stripes."""
    height, width = image.shape[:2]
    choice = int(rng.integers(3))
    if choice == 0:
        centre = (round(width * rng.uniform(0.35, 0.65)), round(height * rng.uniform(0.58, 0.7)))
        cv2.ellipse(image, centre, (width // 4, height // 6), float(rng.uniform(-30, 30)), 0, 360, design.accent, -1)
    elif choice == 1:
        left, right, bottom = width // 10, width - width // 10, round(height * 0.8)
        tones = np.array(design.accent) + rng.normal(0, 45, (4, 5, 1)) + rng.normal(0, 16, (4, 5, 3))
        pixels = np.clip(tones, 0, 255).astype(np.uint8)
        image[band:bottom, left:right] = cv2.resize(
            pixels, (right - left, bottom - band), interpolation=cv2.INTER_CUBIC
        )
    else:
        shift, thick = round(width * rng.uniform(0.1, 0.4)), max(3, width // 12)
        for x in range(0, width, 3 * thick):
            cv2.line(image, (x, height), (x + shift, band), design.accent, thick, cv2.LINE_AA)


def _book(rng: np.random.Generator, image: ImageBgr, design: Design) -> ImageBgr:
    upright = image.shape[0] > image.shape[1]
    flat: ImageBgr = np.ascontiguousarray(np.rot90(image)) if upright else image
    height, width = flat.shape[:2]
    if design.look == "pages":
        leaf = max(2, height // 9)
        flat[leaf:-leaf] = _PAPER
        for row in range(leaf + 1, height - leaf, 3):
            flat[row] = scaled(_PAPER, 0.8)
    else:
        word(rng, flat, (width // 10, 0, width * 3 // 5, height), design.accent)
        cv2.rectangle(flat, (width * 7 // 8, 0), (width * 7 // 8 + 4, height), design.accent, -1)
        cv2.rectangle(flat, (width // 16, 0), (width // 16 + 2, height), design.accent, -1)
    return np.ascontiguousarray(np.rot90(flat, -1)) if upright else flat
