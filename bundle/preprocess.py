"""THE preprocessing: camera image in, network input out. Training, export, calibration and the agent all call this.

Two halves, so that training can keep the small uint8 pictures of the first half and save the second for later:
`resize` is geometry, `normalize` is numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from bundle.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bundle.manifest import Preprocessing

_INTERPOLATION = {"area": cv2.INTER_AREA, "linear": cv2.INTER_LINEAR}
_IMAGE_AXES = 3


def preprocess(image_bgr: NDArray[np.uint8], spec: Preprocessing) -> NDArray[np.float32]:
    """Turn a camera image into the network's input.

    Args:
        image_bgr: uint8, (H, W, 3), BGR, 0..255, any size.
        spec: The bundle's preprocessing.

    Returns:
        float32, (3, h, w) with (w, h) = `spec.size_wh`, channels in `spec.color` order, normalised.

    Raises:
        InputError: The array is not such an image.
    """
    return normalize(resize(image_bgr, spec), spec)


def resize(image_bgr: NDArray[np.uint8], spec: Preprocessing) -> NDArray[np.uint8]:
    """Bring an image to the network's size.

    Args:
        image_bgr: uint8, (H, W, 3), BGR, 0..255, any size.
        spec: The bundle's preprocessing.

    Returns:
        uint8, (h, w, 3), BGR. The input itself when it already has that size.

    Raises:
        InputError: The array is not such an image.
    """
    if image_bgr.ndim != _IMAGE_AXES or image_bgr.shape[2] != _IMAGE_AXES or image_bgr.dtype != np.uint8:
        raise InputError(
            "a frame is not a colour image",
            got=f"{image_bgr.dtype} {image_bgr.shape}",
            expected="uint8 (H, W, 3), BGR",
        )
    width, height = spec.size_wh
    if image_bgr.shape[:2] == (height, width):
        return image_bgr
    if spec.resize == "squash":
        return _scale(image_bgr, width, height, spec)
    return _letterbox(image_bgr, spec)


def _scale(image: NDArray[np.uint8], width: int, height: int, spec: Preprocessing) -> NDArray[np.uint8]:
    enlarges = width > image.shape[1] or height > image.shape[0]
    # INTER_AREA degrades to blocks when it enlarges.
    how = cv2.INTER_LINEAR if enlarges else _INTERPOLATION[spec.interpolation]
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), dtype=np.uint8)


def _letterbox(image: NDArray[np.uint8], spec: Preprocessing) -> NDArray[np.uint8]:
    width, height = spec.size_wh
    scale = min(width / image.shape[1], height / image.shape[0])
    inner_w = max(1, min(width, round(image.shape[1] * scale)))
    inner_h = max(1, min(height, round(image.shape[0] * scale)))
    canvas = np.full((height, width, 3), spec.pad, np.uint8)
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    canvas[top : top + inner_h, left : left + inner_w] = _scale(image, inner_w, inner_h, spec)
    return canvas


def normalize(image_bgr: NDArray[np.uint8], spec: Preprocessing) -> NDArray[np.float32]:
    """Turn the resized picture into numbers: x = (pixel / 255 - mean) / std.

    Args:
        image_bgr: uint8, (h, w, 3), BGR, 0..255.
        spec: The bundle's preprocessing.

    Returns:
        float32, (3, h, w), contiguous, channels in `spec.color` order.
    """
    return np.asarray(normalize_batch(image_bgr[np.newaxis], spec)[0])


def normalize_batch(images_bgr: NDArray[np.uint8], spec: Preprocessing) -> NDArray[np.float32]:
    """`normalize` for many pictures of one size.

    Args:
        images_bgr: uint8, (N, h, w, 3), BGR, 0..255.
        spec: The bundle's preprocessing.

    Returns:
        float32, (N, 3, h, w), contiguous, channels in `spec.color` order.
    """
    out = np.empty((len(images_bgr), 3, *images_bgr.shape[1:3]), np.float32)
    for image, planes in zip(images_bgr, out, strict=True):
        normalize_into(planes, image, spec)
    return out


def normalize_into(planes: NDArray[np.float32], image_bgr: NDArray[np.uint8], spec: Preprocessing) -> None:
    """`normalize` into memory that the caller has.

    Args:
        planes: Where to: float32, (3, h, w), any content.
        image_bgr: uint8, (h, w, 3), BGR, 0..255.
        spec: The bundle's preprocessing.
    """
    order = (2, 1, 0) if spec.color == "RGB" else (0, 1, 2)
    # Split first: arithmetic on every third byte costs nine times as much as on a plane of its own.
    channels = cv2.split(image_bgr)
    for channel, source in enumerate(order):
        # One fused multiply-add per channel: (pixel / 255 - mean) / std = pixel * gain + offset.
        gain = np.float32(1.0 / (255.0 * spec.std[channel]))
        offset = np.float32(-spec.mean[channel] / spec.std[channel])
        np.multiply(channels[source], gain, out=planes[channel])
        planes[channel] += offset
