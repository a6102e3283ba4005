"""Changes to a photo that leave its count as it was.

Nothing here may take an item out of the picture: no erased patches, no crop (but on the explicit wish to reproduce
somebody's), and every geometric change keeps all four corners of the photo inside the frame (`inside_affine`), so the
border is padded, never cut. The padding repeats the edge pixels: a mirrored border would show items twice.

Every photo's changes are drawn from (seed, epoch, id) alone, so they do not depend on batch, worker or resume.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from train.sections import AugmentConfig

_BLUR_SIZES = (3, 5)


def photo_rng(seed: int, epoch: int, photo_id: str) -> np.random.Generator:
    """Random numbers that belong to one photo in one epoch.

    Args:
        seed: The run's seed.
        epoch: From 0.
        photo_id: The photo's id; its spelling counts.

    Returns:
        A generator that is the same in every process.
    """
    key = hashlib.blake2b(f"{seed}/{epoch}/{photo_id}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))


def augment(image_bgr: NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Change a photo at random within the configured limits.

    Args:
        image_bgr: uint8, (h, w, 3), BGR; left as it is.
        config: Limits.
        rng: The photo's own generator.

    Returns:
        uint8, (h, w, 3), BGR, contiguous.
    """
    # Drawn all at once and in one fixed order, so that switching one change off leaves the others as they were.
    flip, geometry, grey, blur, noise = rng.random(5) < (
        config.flip,
        config.geometry,
        config.grey,
        config.blur,
        config.noise,
    )
    image = _crop(image_bgr, config.crop, rng) if config.crop < 1 else image_bgr
    image = image[:, ::-1] if flip else image
    if geometry:
        matrix = inside_affine(image.shape[1], image.shape[0], config, rng)
        image = _warp(np.ascontiguousarray(image), matrix)
    image = _recolour(image, config, rng, grey=bool(grey))
    if blur:
        image = _blur(image, rng)
    if noise:
        image = _noise(image, rng)
    return np.ascontiguousarray(image)


def inside_affine(width: int, height: int, config: AugmentConfig, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a rotation, shrink and shift that keep the whole picture inside the frame.

    Args:
        width: Of picture and frame, pixels.
        height: Likewise.
        config: `rotate_deg` and `shrink` are the limits.
        rng: The photo's own generator.

    Returns:
        float64, (2, 3): maps source pixels to target pixels.
    """
    angle, shrink, shift_x, shift_y = rng.uniform(-1, 1, 4)
    radians = np.deg2rad(angle * config.rotate_deg)
    cos, sin = np.cos(radians), np.sin(radians)
    spread = np.array([abs(cos) * width + abs(sin) * height, abs(sin) * width + abs(cos) * height])
    frame = np.array([width, height], dtype=np.float64)
    # Smaller than the frame by what the rotation needs, and by the drawn share besides.
    scale = float((frame / spread).min()) * (1 - config.shrink * abs(shrink))
    room = (frame - scale * spread) / 2
    linear = scale * np.array([[cos, -sin], [sin, cos]])
    centre = (frame - 1) / 2
    offset = centre - linear @ centre + room * (shift_x, shift_y)
    return np.concatenate([linear, offset[:, None]], axis=1)


def _crop(image: NDArray[np.uint8], smallest: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The random resized crop of the published pipelines: an area share, an aspect ratio of 3:4 to 4:3, a place."""
    height, width = image.shape[:2]
    share, aspect = rng.uniform(smallest, 1.0), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
    crop_w = min(width, max(1, round(float(np.sqrt(width * height * share * aspect)))))
    crop_h = min(height, max(1, round(float(np.sqrt(width * height * share / aspect)))))
    left, top = int(rng.integers(width - crop_w + 1)), int(rng.integers(height - crop_h + 1))
    part = image[top : top + crop_h, left : left + crop_w]
    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _warp(image: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    size = (image.shape[1], image.shape[0])
    warped = cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(warped, dtype=np.uint8)


def _recolour(
    image: NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator, *, grey: bool
) -> NDArray[np.uint8]:
    """Exposure, contrast and white balance as one look-up table per channel."""
    draws = rng.uniform(-1, 1, 5)
    gain = (1 + draws[0] * config.contrast) * (1 + draws[2:5] * config.colour)
    levels = np.arange(256, dtype=np.float64)[:, None]
    table = (levels - 127.5) * gain + 127.5 + 255 * draws[1] * config.brightness
    lookup = np.clip(np.rint(table), 0, 255).astype(np.uint8)[None]
    changed = cv2.LUT(np.ascontiguousarray(image), lookup)
    if grey:
        changed = cv2.cvtColor(cv2.cvtColor(changed, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return np.asarray(changed, dtype=np.uint8)


def _blur(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    size = _BLUR_SIZES[int(rng.integers(len(_BLUR_SIZES)))]
    if rng.random() < 0.5:  # noqa: PLR2004 - a fair coin between the two kinds
        return np.asarray(cv2.GaussianBlur(image, (size, size), 0), dtype=np.uint8)
    # The camera moves along the shelf: motion blur is horizontal.
    return np.asarray(cv2.blur(image, (size, 1)), dtype=np.uint8)


def _noise(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    sigma = rng.uniform(2, 8)
    grain = rng.standard_normal(image.shape[:2], dtype=np.float32)[..., None] * np.float32(sigma)
    return np.asarray(np.clip(image + grain, 0, 255), dtype=np.uint8)
