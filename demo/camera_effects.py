"""What the camera adds: exposure, white balance, vignetting, motion and focus blur, sensor noise, JPEG."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from demo.pixels import ImageBgr

_NOISE_SEED = 20_160_402
_NOISE_SIDE = 1024
_WARM = np.array([0.92, 0.98, 1.04])  # the pods are lit warmly
_NOISE_STEP = 32.0  # the tile holds noise of this standard deviation, scaled down per picture


def photograph(rng: np.random.Generator, image: ImageBgr) -> ImageBgr:
    """Turn a clean painting into something a pod camera might have taken.

    Args:
        rng: Source of chance.
        image: uint8, (H, W, 3), BGR.

    Returns:
        A picture of the same size.
    """
    scale = image.shape[1] / 490
    blurred = _blur(rng, image, scale)
    exposed = _expose(rng, _vignette(rng, blurred))
    return _compress(rng, _noise(rng, exposed))


def _blur(rng: np.random.Generator, image: ImageBgr, scale: float) -> ImageBgr:
    soft = cv2.GaussianBlur(image, (3, 3), rng.uniform(0.5, 1.0))
    fate = rng.random()
    if fate < 0.4:  # noqa: PLR2004 - the pod was still moving
        length = max(2, round(rng.uniform(2, 8) * scale))
        soft = cv2.blur(soft, (length, 1) if rng.random() < 0.75 else (1, length))  # noqa: PLR2004
    elif fate < 0.44:  # noqa: PLR2004 - moving fast
        soft = cv2.blur(soft, (round(rng.uniform(9, 15) * scale), 1))
    elif fate < 0.52:  # noqa: PLR2004 - out of focus
        size = 2 * round(rng.uniform(1, 2.6) * scale) + 1
        soft = cv2.blur(cv2.blur(soft, (size, size)), (size, size))
    return np.asarray(soft, np.uint8)


def _vignette(rng: np.random.Generator, image: ImageBgr) -> ImageBgr:
    height, width = image.shape[:2]
    x = np.linspace(-1, 1, width // 8, dtype=np.float32)[None, :] - rng.uniform(-0.3, 0.3)
    y = np.linspace(-1, 1, height // 8, dtype=np.float32)[:, None] - rng.uniform(-0.3, 0.3)
    fall = 255 * (1 - rng.uniform(0.02, 0.2) * (x * x + y * y) + rng.uniform(-0.06, 0.06) * x)
    wide = cv2.resize(np.clip(fall, 0, 255).astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.multiply(image, cv2.cvtColor(wide, cv2.COLOR_GRAY2BGR), scale=1 / 255), np.uint8)


def _expose(rng: np.random.Generator, image: ImageBgr) -> ImageBgr:
    gain = rng.uniform(0.74, 1.06) * _WARM * rng.uniform(0.98, 1.02, 3)
    veil = rng.uniform(12, 40)  # scattered light: blacks in the photos are never black
    gamma = rng.uniform(0.85, 1.1)
    levels = np.arange(256)[:, None] / 255
    table = veil + (255 - veil) * np.clip(gain * levels**gamma, 0, 1)
    return np.asarray(cv2.LUT(image, np.round(table).astype(np.uint8).reshape(256, 1, 3)), np.uint8)


@cache
def _noise_tile() -> NDArray[np.int16]:
    rng = np.random.default_rng(_NOISE_SEED)
    luma = rng.normal(0, _NOISE_STEP, (_NOISE_SIDE, _NOISE_SIDE, 1))
    chroma = rng.normal(0, _NOISE_STEP * 0.4, (_NOISE_SIDE, _NOISE_SIDE, 3))
    return np.round(luma + chroma).astype(np.int16)


def _noise(rng: np.random.Generator, image: ImageBgr) -> ImageBgr:
    height, width = image.shape[:2]
    amount = rng.uniform(0.8, 4.0) / _NOISE_STEP
    tile = _noise_tile()
    if height > _NOISE_SIDE or width > _NOISE_SIDE:
        tile = np.tile(tile, (-(-height // _NOISE_SIDE), -(-width // _NOISE_SIDE), 1))
    y, x = int(rng.integers(tile.shape[0] - height + 1)), int(rng.integers(tile.shape[1] - width + 1))
    return np.asarray(
        cv2.addWeighted(image, 1.0, tile[y : y + height, x : x + width], amount, 0.0, dtype=cv2.CV_8U), np.uint8
    )


def _compress(rng: np.random.Generator, image: ImageBgr) -> ImageBgr:
    quality = int(rng.integers(55, 93))
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
