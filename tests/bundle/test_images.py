from __future__ import annotations

import resource
import struct
import subprocess
import sys
import zlib
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from bundle.errors import InputError
from bundle.images import decode, encode_jpeg, header, read

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def _noise(size_wh: tuple[int, int] = (120, 90)) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (size_wh[1], size_wh[0], 3), dtype=np.uint8)


def _png(image: NDArray[np.uint8]) -> bytes:
    return bytes(cv2.imencode(".png", image)[1])


def png_bomb(side: int = 30_000) -> bytes:
    """A valid PNG of side x side grey pixels in about a hundred kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    squeeze = zlib.compressobj(9)
    row = bytes(side + 1)
    pixels = b"".join(squeeze.compress(row) for _ in range(side)) + squeeze.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_decode_png_returns_the_pixels() -> None:
    image = _noise()
    assert np.array_equal(decode(_png(image), name="a.png"), image)


def test_decode_jpeg_is_close_to_the_pixels() -> None:
    smooth = np.asarray(cv2.GaussianBlur(_noise(), (0, 0), 5), dtype=np.uint8)
    decoded = decode(encode_jpeg(smooth, 95), name="a.jpg")
    assert np.abs(decoded.astype(int) - smooth).mean() < 2


def test_decode_grey_png_returns_three_channels() -> None:
    grey = _noise()[:, :, 0]
    assert decode(bytes(cv2.imencode(".png", grey)[1]), name="g.png").shape == (90, 120, 3)


@pytest.mark.parametrize(("encode", "kind"), [(_png, "png"), (encode_jpeg, "jpeg")])
def test_header_without_decoding_gives_format_and_size(encode: object, kind: str) -> None:
    assert callable(encode)
    found = header(encode(_noise()), name="a")
    assert (found.format, found.width, found.height) == (kind, 120, 90)


def test_decode_jpeg_with_rotation_in_exif_is_accepted_and_turned() -> None:
    data = encode_jpeg(_noise())
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00"  # orientation 6: turn by 90 degrees
    exif = b"Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01" + entry + b"\x00\x00\x00\x00"
    turned = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    assert decode(turned, name="turned.jpg").shape == (120, 90, 3)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("encode", [_png, encode_jpeg])
def test_decode_truncated_file_is_refused_by_name(share: float, encode: object) -> None:
    assert callable(encode)
    data = encode(_noise())
    with pytest.raises(InputError, match=r"cut\.jpg is truncated.*again"):
        decode(data[: int(len(data) * share)], name="cut.jpg")


def test_decode_jpeg_padded_with_zeros_is_accepted() -> None:
    assert decode(encode_jpeg(_noise()) + bytes(100_000), name="padded.jpg").shape == (90, 120, 3)


@pytest.mark.parametrize("data", [b"", b"hello, this is text\n", b"GIF89a" + bytes(50), b"\xff\xd8"])
def test_decode_what_is_no_photo_is_refused(data: bytes) -> None:
    with pytest.raises(InputError):
        decode(data, name="text.jpg")


def test_decode_text_named_jpg_says_what_it_expected() -> None:
    with pytest.raises(InputError, match=r"text\.jpg is not a photo.*expected JPEG or PNG"):
        decode(b"just words", name="text.jpg")


def test_decode_jpeg_with_lying_header_is_refused() -> None:
    data = bytearray(_png(_noise()))
    data[16:24] = struct.pack(">II", 60, 45)
    with pytest.raises(InputError):
        decode(bytes(data), name="liar.png")


def test_decode_jpeg_that_goes_over_its_pixels_thousands_of_times_is_refused_before_it_does() -> None:
    data = bytes(cv2.imencode(".jpg", _noise(), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1])
    assert decode(data, name="sound.jpg").shape == (90, 120, 3)
    bomb = data[:-2] + data[data.rfind(b"\xff\xda") : -2] * 5000 + data[-2:]
    with pytest.raises(InputError, match=r"bomb\.jpg is damaged.*5010 scans"):
        decode(bomb, name="bomb.jpg")


def test_decode_png_whose_chunk_promises_more_than_there_is_is_refused() -> None:
    data = _png(_noise())
    promise = struct.pack(">I", 2**31 - 1) + b"tEXt" + bytes(8)
    with pytest.raises(InputError, match=r"liar\.png is truncated"):
        decode(data[:33] + promise + data[33:], name="liar.png")


def test_decode_png_with_something_behind_its_end_is_accepted() -> None:
    assert decode(_png(_noise()) + b"PK\x03\x04", name="two.png").shape == (90, 120, 3)


def test_header_of_a_jpeg_of_markers_alone_is_refused() -> None:
    with pytest.raises(InputError, match="no frame header"):
        header(b"\xff\xd8" + b"\xff\x01" * (1 << 20), name="markers.jpg")


def test_decode_bomb_is_refused_before_memory_is_taken(tmp_path: Path, repository: Path) -> None:
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(png_bomb())
    assert bomb.stat().st_size < 2_000_000
    code = f"""
import resource
from pathlib import Path
from bundle.errors import InputError
from bundle.images import read
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read(Path({str(bomb)!r}))
except InputError as exc:
    print(exc)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    message, grown_kib = done.stdout.strip().splitlines()
    assert "30000x30000" in message
    assert int(grown_kib) < 20_000


def test_read_missing_file_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.jpg cannot be read"):
        read(tmp_path / "gone.jpg")


def test_read_file_over_the_byte_limit_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "large.jpg"
    file.write_bytes(encode_jpeg(_noise()))
    with pytest.raises(InputError, match="too large a file"):
        read(file, max_bytes=100)


def test_decode_damaged_bytes_never_raises_anything_else() -> None:
    rng = np.random.default_rng(7)
    original = encode_jpeg(_noise((64, 48)))
    refused = 0
    for _ in range(300):
        data = bytearray(original)
        for position in rng.integers(2, len(data), 8):
            data[position] = int(rng.integers(256))
        try:
            decode(bytes(data), name="damaged.jpg")
        except InputError:
            refused += 1
    assert refused > 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 8 << 20
