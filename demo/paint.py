"""Paint one item: its faces in perspective, light, print, and the shadow it throws on what is behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from demo import prints
from demo.outlines import disc, profile, window
from demo.pixels import mixed, scaled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from demo.items import Solid
    from demo.outlines import Silhouette
    from demo.pixels import Colour, ImageBgr, Points
    from demo.view import View

_TEXTURE_PX_PER_CM = 9.0
_WHITE: Colour = (235, 238, 240)

# Each face of the unit block: its light, and its corners seen from outside, clockwise from the top left one.
_FACES: tuple[tuple[str, float, Points], ...] = (
    ("top", 1.16, np.array([[-0.5, 1, 0.5], [0.5, 1, 0.5], [0.5, 1, -0.5], [-0.5, 1, -0.5]])),
    ("under", 0.5, np.array([[-0.5, 0, -0.5], [0.5, 0, -0.5], [0.5, 0, 0.5], [-0.5, 0, 0.5]])),
    ("left", 0.66, np.array([[-0.5, 1, 0.5], [-0.5, 1, -0.5], [-0.5, 0, -0.5], [-0.5, 0, 0.5]])),
    ("right", 0.66, np.array([[0.5, 1, -0.5], [0.5, 1, 0.5], [0.5, 0, 0.5], [0.5, 0, -0.5]])),
    ("front", 1.0, np.array([[-0.5, 1, -0.5], [0.5, 1, -0.5], [0.5, 0, -0.5], [-0.5, 0, -0.5]])),
)


@dataclass(frozen=True, slots=True)
class Light:
    """Where light comes from, and how much reaches the depth of the bin.

    Attributes:
        shift_px: Where shadows fall, right and down.
        strength: How dark a shadow is, 0..1.
        falloff_per_cm: Loss of light per centimetre of depth.
        side: Brightness of faces that look left, as a factor; faces that look right get the reverse.
    """

    shift_px: tuple[int, int]
    strength: float
    falloff_per_cm: float
    side: float


def sample_light(rng: np.random.Generator, depth_cm: float, scale: float) -> Light:
    """Draw the light in one bin.

    Args:
        rng: Source of chance.
        depth_cm: Depth of the cell.
        scale: Pixels here per pixel of a 490 pixel wide picture.

    Returns:
        The light.
    """
    shift = (round(rng.uniform(-5, 5) * scale), round(rng.uniform(1, 4) * scale))
    return Light(shift, rng.uniform(0.45, 0.7), rng.uniform(0.15, 0.42) / depth_cm, rng.uniform(0.8, 1.25))


def paint(canvas: ImageBgr, solid: Solid, outline: Silhouette, view: View, light: Light) -> None:
    """Paint an item over what is already there.

    Args:
        canvas: uint8, (H, W, 3), BGR; painted into.
        solid: The item.
        outline: Its silhouette; nothing is painted outside it but the shadow.
        view: The camera.
        light: The light.
    """
    _shadow(canvas, outline, light, view.scale)
    patch = np.zeros((*outline.mask.shape, 3), np.uint8)
    origin = np.array(outline.corner_xy, np.float64)
    kind = solid.design.kind
    if kind in {"box", "book"}:
        _block(patch, solid, origin, view, light)
    elif kind == "jar":
        _jar(patch, solid, origin, view, light)
    elif kind == "bottle":
        _bottle(patch, solid, origin, view, light)
    else:
        _bag(patch, solid, outline, light)
    rows, columns, own_rows, own_columns = window(canvas, outline.corner_xy, patch)
    cv2.copyTo(patch[own_rows, own_columns], outline.mask[own_rows, own_columns], canvas[rows, columns])


def _shadow(canvas: ImageBgr, outline: Silhouette, light: Light, scale: float) -> None:
    margin = round(14 * scale)
    wide = cv2.copyMakeBorder(outline.mask, margin, margin, margin, margin, cv2.BORDER_CONSTANT, value=(0,))
    soft = cv2.blur(wide, (margin | 1, margin | 1))
    keep = np.asarray(cv2.bitwise_not(cv2.convertScaleAbs(soft, alpha=light.strength)), np.uint8)
    corner = (
        outline.corner_xy[0] - margin + light.shift_px[0],
        outline.corner_xy[1] - margin + light.shift_px[1],
    )
    rows, columns, own_rows, own_columns = window(canvas, corner, keep)
    factor = cv2.cvtColor(np.ascontiguousarray(keep[own_rows, own_columns]), cv2.COLOR_GRAY2BGR)
    canvas[rows, columns] = cv2.multiply(canvas[rows, columns], factor, scale=1 / 255)


def _brightness(solid: Solid, light: Light) -> float:
    return 1.0 - light.falloff_per_cm * solid.box()[0][2]


def _block(patch: ImageBgr, solid: Solid, origin: Points, view: View, light: Light) -> None:
    bright = _brightness(solid, light)
    size = np.array(solid.design.size_cm)
    for name, shade, corners in _FACES:
        quad = view.project(solid.place(corners * size)) - origin
        if _turned_away(quad):
            continue
        lit = shade * bright * _side_factor(name, light)
        polygon = np.round(quad).astype(np.int32)
        if name == "front":
            _print_on(patch, solid, quad, lit)
        else:
            cv2.fillConvexPoly(patch, polygon, scaled(_plain(solid, name), lit))
            _seam(patch, solid, name, quad, lit)
        edge = scaled(solid.design.colour, 0.55 * bright)
        cv2.polylines(patch, [polygon], isClosed=True, color=edge, thickness=1, lineType=cv2.LINE_AA)


def _side_factor(name: str, light: Light) -> float:
    return {"left": light.side, "right": 1 / light.side}.get(name, 1.0)


def _turned_away(quad: Points) -> bool:
    ahead = np.roll(quad, -1, axis=0)
    return float(np.sum(quad[:, 0] * ahead[:, 1] - ahead[:, 0] * quad[:, 1])) <= 1.0


def _plain(solid: Solid, name: str) -> Colour:
    design = solid.design
    paper = design.kind == "book" and name == ("top" if design.size_cm[1] > design.size_cm[0] else "right")
    return _WHITE if paper else design.colour


def _seam(patch: ImageBgr, solid: Solid, name: str, quad: Points, lit: float) -> None:
    if solid.design.kind != "box" or name != "top":
        return
    start, end = np.round((quad[0] + quad[3]) / 2), np.round((quad[1] + quad[2]) / 2)
    ends = [(int(point[0]), int(point[1])) for point in (start, end)]
    tape = mixed(solid.design.colour, _WHITE, 0.25)
    cv2.line(patch, ends[0], ends[1], scaled(tape, lit), 3)
    cv2.line(patch, ends[0], ends[1], scaled(solid.design.colour, 0.6 * lit), 1)


def _print_on(patch: ImageBgr, solid: Solid, quad: Points, lit: float) -> None:
    width, height = solid.design.size_cm[:2]
    size = (_texture_px(width), _texture_px(height))
    flat = cv2.convertScaleAbs(prints.face(solid.design, size), alpha=lit)
    _warp(patch, np.asarray(flat, np.uint8), quad)


def _warp(patch: ImageBgr, flat: ImageBgr, quad: Points) -> None:
    height, width = flat.shape[:2]
    source = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    carry = cv2.getPerspectiveTransform(source, quad.astype(np.float32))
    warped = cv2.warpPerspective(flat, carry, (patch.shape[1], patch.shape[0]), borderMode=cv2.BORDER_REPLICATE)
    inside = np.zeros(patch.shape[:2], np.uint8)
    cv2.fillConvexPoly(inside, np.round(quad).astype(np.int32), 255)
    cv2.copyTo(warped, inside, patch)


def _texture_px(length_cm: float) -> int:
    return int(min(170, max(16, length_cm * _TEXTURE_PX_PER_CM)))


def _bottle(patch: ImageBgr, solid: Solid, origin: Points, view: View, light: Light) -> None:
    width, height = solid.design.size_cm[:2]
    corners = np.array([[-0.5, 1, 0], [0.5, 1, 0], [0.5, 0, 0], [-0.5, 0, 0]]) * np.array([width, height, 0])
    flat = prints.wrap(solid.design, (_texture_px(width), _texture_px(height)))
    lit = cv2.convertScaleAbs(flat, alpha=_brightness(solid, light))
    quad = view.project(solid.place(corners)) - origin
    height_px, width_px = flat.shape[:2]
    source = np.array([[0, 0], [width_px, 0], [width_px, height_px], [0, height_px]], np.float32)
    carry = cv2.getPerspectiveTransform(source, quad.astype(np.float32))
    warped = cv2.warpPerspective(lit, carry, (patch.shape[1], patch.shape[0]), borderMode=cv2.BORDER_REPLICATE)
    np.copyto(patch, warped)
    outline = np.round(view.project(solid.place(profile(solid.design))) - origin).astype(np.int32)
    edge = scaled(solid.design.colour, 0.4)
    cv2.polylines(patch, [outline], isClosed=True, color=edge, thickness=1, lineType=cv2.LINE_AA)


def _jar(patch: ImageBgr, solid: Solid, origin: Points, view: View, light: Light) -> None:
    bright = _brightness(solid, light)
    design = solid.design
    patch[:] = scaled(design.accent, 0.5 * bright)
    front = np.round(view.project(solid.place(disc(design, -0.5))) - origin).astype(np.int32)
    low, high = front.min(axis=0), front.max(axis=0)
    centre = (int(low[0] + high[0]) // 2, int(low[1] + high[1]) // 2)
    radius = max(3, int(high[0] - low[0]) // 2)
    cv2.fillPoly(patch, [front], scaled(design.colour, bright), lineType=cv2.LINE_AA)
    if design.look == "lid":
        cv2.circle(patch, centre, round(radius * 0.86), scaled(design.colour, 0.82 * bright), 1, cv2.LINE_AA)
        cv2.circle(patch, centre, round(radius * 0.5), scaled(design.accent, 0.9 * bright), 2, cv2.LINE_AA)
    else:
        for ring in range(4, radius, 4):
            cv2.circle(patch, centre, ring, scaled(design.colour, 0.86 * bright), 1, cv2.LINE_AA)
        cv2.circle(patch, centre, max(2, radius // 4), scaled(design.colour, 0.3), -1, cv2.LINE_AA)
    cv2.polylines(
        patch, [front], isClosed=True, color=scaled(design.colour, 0.5 * bright), thickness=1, lineType=cv2.LINE_AA
    )


def _bag(patch: ImageBgr, solid: Solid, outline: Silhouette, light: Light) -> None:
    design = solid.design
    rng = np.random.default_rng([design.print_seed, 2])
    height, width = patch.shape[:2]
    bright = _brightness(solid, light)
    film = mixed(design.colour, _WHITE, 0.5) if design.look == "clear" else design.colour
    patch[:] = scaled(film, bright)
    if design.look == "clear":
        inset_x, inset_y = round(width * rng.uniform(0.08, 0.2)), round(height * rng.uniform(0.1, 0.22))
        content = scaled(design.colour, 0.95 * bright)
        cv2.rectangle(patch, (inset_x, inset_y), (width - inset_x, height - inset_y), content, -1)
        prints.word(rng, patch, (inset_x, inset_y, width - 2 * inset_x, height // 2), scaled(design.accent, bright))
    if rng.random() < 0.75 and width > 36 and height > 30:  # noqa: PLR2004 - a sticker, where there is room for one
        corner = int(rng.integers(width // 5, width // 2)), int(rng.integers(height // 4, height // 2))
        prints.barcode(rng, patch, (*corner, width // 3, height // 4))
    relief = _crumple(rng, outline, {"clear": 105.0, "dark": 75.0, "paper": 26.0}[design.look])
    np.copyto(patch, cv2.add(patch, cv2.merge([relief, relief, relief]), dtype=cv2.CV_8U))


def _crumple(rng: np.random.Generator, outline: Silhouette, gloss: float) -> NDArray[np.int16]:
    """Shape a bag by light alone: soft dents, a dark rim, and bright creases of film; int16, added to the colour."""
    height, width = outline.mask.shape
    dents = cv2.resize(rng.standard_normal((4, 6)).astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    creases = np.zeros((height, width), np.uint8)
    for _ in range(int(rng.integers(7, 15))):
        start = rng.uniform((0, 0), (width, height))
        steps = np.cumsum(
            rng.normal(0, 0.13, (3, 2)) * (width, height) + rng.normal(0, 0.06, 2) * (width, height), axis=0
        )
        line = np.round(np.concatenate([start[None], start + steps])).astype(np.int32)
        cv2.polylines(
            creases, [line], isClosed=False, color=int(rng.integers(90, 255)), thickness=int(rng.integers(1, 4))
        )
    sheen = cv2.blur(creases, (3, 3)).astype(np.float32) * (gloss / 255)
    rim = cv2.blur(outline.mask, (13, 13)).astype(np.float32) * (46 / 255) - 46
    falloff = np.linspace(12, -26, height, dtype=np.float32)[:, None]
    return np.asarray(np.round(sheen + rim + falloff + 11 * dents), np.int16)
