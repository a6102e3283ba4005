"""Bytes to pixels: the one way a photo enters bintally.

Only JPEG and PNG are read. The size stands in the header and is checked BEFORE anything is decoded, because a 109 kB
PNG can ask for gigabytes. A truncated file is refused, because OpenCV decodes the rest of a cut JPEG as grey without a
word. A lying header is caught after decoding: the pixels must have the size that the header promised. What would hold
the decoder up is refused before: a JPEG that goes over its pixels again and again, a PNG that promises more bytes than
it has (OpenCV takes gigabytes for them).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bundle.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

MAX_PIXELS = 40_000_000
"""Largest picture that is decoded by default: 40 megapixels are 120 MB as BGR, above any bin camera."""
MAX_BYTES = 64 << 20
"""Largest file that is read by default, in bytes."""
PHOTO_SUFFIXES = (".jpg", ".jpeg", ".png")
"""What a file's name ends with, in small letters, when a folder is searched for photos."""

_JPEG_START = b"\xff\xd8"
_JPEG_END = b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER_BYTES = 24
_PNG_CHUNK_BYTES = 12
_JPEG_SCAN = b"\xff\xda"
_MAX_SCANS = 100
"""Progressive JPEGs have about ten. Each costs a pass over all pixels, and a few bytes are enough for one."""
_MAX_SEGMENTS = 10_000
"""Before the frame header; a photo with a large colour profile has some hundred."""
_MARKERS_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_FRAME_HEADER_BYTES = 9


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What a file says of itself before it is decoded.

    Attributes:
        format: "jpeg" or "png".
        width: Pixels.
        height: Pixels.
    """

    format: str
    width: int
    height: int


def header(data: bytes, *, name: str) -> ImageHeader:
    """Read the format and the size without decoding.

    Args:
        data: The file's bytes.
        name: What to call it in an error.

    Returns:
        The header.

    Raises:
        InputError: Neither JPEG nor PNG, or the header is damaged.
    """
    if data.startswith(_JPEG_START):
        width, height = _jpeg_size(data, name)
        found = ImageHeader("jpeg", width, height)
    elif data.startswith(_PNG_START) and len(data) >= _PNG_HEADER_BYTES:
        width, height = struct.unpack(">II", data[16:_PNG_HEADER_BYTES])
        found = ImageHeader("png", width, height)
    else:
        raise InputError(
            f"{name} is not a photo that bintally reads",
            got=f"first bytes {data[:8]!r}",
            expected="JPEG or PNG",
            fix="Remove the file, or convert it to JPEG.",
        )
    if min(found.width, found.height) < 1:
        raise InputError(
            f"{name} has an empty picture", got=f"{found.width}x{found.height}", fix="Take the photo again."
        )
    return found


def _jpeg_size(data: bytes, name: str) -> tuple[int, int]:
    """Walk the marker segments up to the frame header (ITU T.81, annex B)."""
    position = len(_JPEG_START)
    for _ in range(_MAX_SEGMENTS):
        if position + _FRAME_HEADER_BYTES > len(data) or data[position] != 0xFF:  # noqa: PLR2004 - marker prefix
            break
        marker = data[position + 1]
        if marker in _FRAME_MARKERS:
            height, width = struct.unpack(">HH", data[position + 5 : position + 9])
            return width, height
        if marker == 0xFF:  # noqa: PLR2004 - fill byte
            position += 1
        elif marker in _MARKERS_WITHOUT_LENGTH:
            position += 2
        else:
            position += 2 + struct.unpack(">H", data[position + 2 : position + 4])[0]
    raise InputError(f"{name} is a damaged JPEG", got="no frame header", fix="Copy or take the photo again.")


def decode(data: bytes, *, name: str, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode a whole JPEG or PNG.

    EXIF orientation is applied, transparency is dropped. Bytes that were altered in the middle of a JPEG can decode to
    wrong pixels without an error, in every decoder: only a hash from where the photo was taken shows that.

    Args:
        data: The file's bytes.
        name: What to call it in an error.
        max_pixels: Pictures with more pixels are refused before they are decoded.

    Returns:
        uint8, (H, W, 3), BGR, 0..255.

    Raises:
        InputError: Not a photo, too large, truncated or damaged.
    """
    found = header(data, name=name)
    pixels = found.width * found.height
    if pixels > max_pixels:
        raise InputError(
            f"{name} is too large to decode safely",
            got=f"{found.width}x{found.height} = {pixels} pixels",
            expected=f"at most {max_pixels}",
            fix="Scale the photo down, or raise the limit if the camera really is that large.",
        )
    _require_complete(data, found.format, name)
    scans = data.count(_JPEG_SCAN) if found.format == "jpeg" else 1
    if scans > _MAX_SCANS:
        raise _damaged(name, f"its pixels are coded in {scans} scans, at most {_MAX_SCANS} are read")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as exc:
        raise _damaged(name, str(exc).strip()) from exc
    if image is None:
        raise _damaged(name, "no pixels from the decoder")
    if sorted(image.shape[:2]) != sorted((found.height, found.width)):
        raise _damaged(name, f"{image.shape[1]}x{image.shape[0]} where its header says {found.width}x{found.height}")
    return np.asarray(image, dtype=np.uint8)


def _require_complete(data: bytes, image_format: str, name: str) -> None:
    # Cameras pad files with zeros, and some append a thumbnail: the end mark must exist, not be the very last byte.
    if not (_is_whole_jpeg(data.rstrip(b"\0")) if image_format == "jpeg" else _is_whole_png(data)):
        raise InputError(
            f"{name} is truncated",
            got=f"{len(data)} bytes of {image_format.upper()} without an end mark",
            fix="Copy or take the photo again.",
        )


def _is_whole_jpeg(data: bytes) -> bool:
    return data.rfind(_JPEG_END, len(data) // 2) > 0


def _is_whole_png(data: bytes) -> bool:
    """Walk the chunks up to the last one (PNG specification, 5.3)."""
    position = len(_PNG_START)
    while position + _PNG_CHUNK_BYTES <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        is_last = data[position + 4 : position + 8] == b"IEND"
        position += _PNG_CHUNK_BYTES + length
        if is_last:
            return position <= len(data)
    return False


def _damaged(name: str, got: str) -> InputError:
    return InputError(f"{name} is damaged", got=got, fix="Copy or take the photo again.")


def read(path: Path, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> NDArray[np.uint8]:
    """Read and decode a photo.

    Args:
        path: The file.
        max_pixels: See `decode`.
        max_bytes: Files above this are refused unread.

    Returns:
        uint8, (H, W, 3), BGR, 0..255.

    Raises:
        InputError: The file cannot be read, or see `decode`.
    """
    return decode(read_bytes(path, max_bytes=max_bytes), name=str(path), max_pixels=max_pixels)


def read_bytes(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Read a photo's file, bounded.

    Args:
        path: The file.
        max_bytes: Files above this are refused unread.

    Returns:
        The undecoded bytes.

    Raises:
        InputError: The file is too large or cannot be read.
    """
    try:
        with path.open("rb") as file:
            # Reserving room for the largest file takes longer than reading a photo. A pipe has no size.
            size = os.fstat(file.fileno()).st_size or max_bytes
            data = b"" if size > max_bytes else file.read(size + 1)
    except OSError as exc:
        raise InputError(f"{path} cannot be read", got=exc.strerror, fix="Check the path and its rights.") from exc
    if max(size, len(data)) > max_bytes:
        raise InputError(
            f"{path} is too large a file",
            got=f"over {max_bytes} bytes",
            expected=f"at most {max_bytes}",
            fix="Scale the photo down.",
        )
    return data


def encode_jpeg(image_bgr: NDArray[np.uint8], quality: int = 90) -> bytes:
    """Compress a picture.

    Args:
        image_bgr: uint8, (H, W, 3), BGR, 0..255.
        quality: JPEG quality, 1..100.

    Returns:
        A whole JPEG file.

    Raises:
        InputError: The array is not a picture.
    """
    try:
        done, data = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    except cv2.error as exc:
        raise InputError("an image cannot be compressed", got=f"{image_bgr.dtype} {image_bgr.shape}") from exc
    if not done:
        raise InputError("an image cannot be compressed", got=f"{image_bgr.dtype} {image_bgr.shape}")
    return bytes(data)
