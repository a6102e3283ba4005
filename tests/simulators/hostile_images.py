"""Images as an enemy, a broken camera or a bad disk would leave them: a seeded stream of files.

Each is made from a sound photo by one of the ways in `WAYS`. `REFUSED` names the ways whose files must never be
counted; the others may be counted or refused, but once.
"""

from __future__ import annotations

import random
import struct
import zlib
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bundle.images import encode_jpeg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    Image = NDArray[np.uint8]
    Way = Callable[[random.Random, Image], bytes]

_PNG = b"\x89PNG\r\n\x1a\n"
_EOI, _SOS = b"\xff\xd9", b"\xff\xda"
_STRANGERS = (
    b"GIF89a", b"GIF87a", b"RIFF\x10\x00\x00\x00WEBPVP8 ", b"II*\x00\x08\x00\x00\x00", b"MM\x00*\x00\x00\x00\x08",
    b"\x00\x00\x00\x18ftypheic", b"\x00\x00\x00\x18ftypavif", b"<svg xmlns='http://www.w3.org/2000/svg'>", b"%PDF-1.7",
    b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'b'>]>", b"PK\x03\x04", b"\x7fELF", b"#!/bin/sh\n", b"8BPS\x00\x01",
    b"\x00\x00\x00\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51", b"v/1\x01", b"#?RADIANCE\n", b"P6\n9 9\n255\n", b"BM",
)  # fmt: skip
_HUGE = (65_535, 65_500, 50_000, 32_768)


def hostile_images(seed: int, amount: int, photos: Sequence[Image]) -> Iterator[tuple[str, str, bytes]]:
    """Draw files.

    Args:
        seed: The same seed gives the same files.
        amount: How many.
        photos: What they are made from: uint8, (H, W, 3), BGR.

    Yields:
        The way, the suffix of the file's name, and its bytes.
    """
    rng = random.Random(seed)
    names = list(WAYS)
    for number in range(amount):
        way = names[number] if number < len(names) else rng.choices(names, [_RARE.get(name, 1.0) for name in names])[0]
        yield way, rng.choice((".jpg", ".jpg", ".jpeg", ".png", ".JPG")), WAYS[way](rng, rng.choice(photos))


def jpeg(rng: random.Random, photo: Image) -> bytes:
    """A sound JPEG of one of several make-ups."""
    options = [cv2.IMWRITE_JPEG_QUALITY, rng.choice((5, 60, 90, 100))]
    options += [cv2.IMWRITE_JPEG_PROGRESSIVE, rng.randrange(2), cv2.IMWRITE_JPEG_RST_INTERVAL, rng.choice((0, 0, 1, 7))]
    return bytes(cv2.imencode(".jpg", photo, options)[1])


def chunk(kind: bytes, data: bytes, length: int | None = None, crc: int | None = None) -> bytes:
    """A chunk of a PNG, which may lie."""
    told = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data) if length is None else length) + kind + data + struct.pack(">I", told)


def png(photo: Image, *extra: bytes, header: bytes | None = None, pixels: bytes | None = None) -> bytes:
    """A PNG of true colour, with chunks before its pixels."""
    height, width = photo.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in photo[:, :, ::-1])
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0) if header is None else header
    body = zlib.compress(rows, 1) if pixels is None else pixels
    return _PNG + chunk(b"IHDR", head) + b"".join(extra) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _segment(marker: int, data: bytes, length: int | None = None) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", (len(data) + 2 if length is None else length) & 0xFFFF) + data


def _after_start(data: bytes, *segments: bytes) -> bytes:
    return data[:2] + b"".join(segments) + data[2:]


def _flip(rng: random.Random, data: bytes, begin: int, end: int, times: int) -> bytes:
    changed = bytearray(data)
    for _ in range(times):
        changed[rng.randrange(begin, end)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _header_flips(rng: random.Random, photo: Image) -> bytes:
    data = jpeg(rng, photo)
    return _flip(rng, data, 2, data.find(_SOS) + 14, rng.randint(1, 4))


def _scan_flips(rng: random.Random, photo: Image) -> bytes:
    data = jpeg(rng, photo)
    return _flip(rng, data, data.find(_SOS), len(data) - 2, rng.randint(1, 40))


def _png_flips(rng: random.Random, photo: Image) -> bytes:
    data = png(photo)
    return _flip(rng, data, 8, rng.choice((60, len(data) - 12)), rng.randint(1, 6))


def _cut(rng: random.Random, data: bytes) -> bytes:
    """At the very beginning, within the headers, in the pixels, just before the end."""
    end = len(data)
    return data[: rng.choice((rng.randint(0, 30), rng.randint(0, 700), rng.randrange(end), end - rng.randint(1, 12)))]


def _jpeg_bomb(rng: random.Random, photo: Image) -> bytes:
    """A header that promises gigabytes."""
    data = jpeg(rng, photo)
    frame = min(at for at in (data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) if at > 0)
    return data[: frame + 5] + struct.pack(">HH", rng.choice(_HUGE), rng.choice(_HUGE)) + data[frame + 9 :]


def _png_bomb(rng: random.Random, photo: Image) -> bytes:
    sides = rng.choice((*_HUGE, 2**31 - 1, 2**32 - 1)), rng.choice((*_HUGE, 2**31 - 1))
    header = struct.pack(">IIBBBBB", *sides, rng.choice((1, 8, 16)), rng.choice((0, 2, 6)), 0, 0, rng.randrange(2))
    return png(photo, header=header, pixels=zlib.compress(bytes(1 << 16), 9))


def _empty_size(rng: random.Random, photo: Image) -> bytes:
    return png(photo, header=struct.pack(">IIBBBBB", 0, rng.randrange(2), 8, 2, 0, 0, 0))


def _large_black(rng: random.Random, photo: Image) -> bytes:
    """Large and within the limit: 30 megapixels in a few kilobytes."""
    header = struct.pack(">IIBBBBB", 6000, 5000, 1, 0, 0, 0, 0)
    return png(photo, header=header, pixels=zlib.compress(bytes(751 * rng.choice((5000, 100))), 9))


def _scan_bomb(rng: random.Random, photo: Image) -> bytes:
    """A progressive JPEG that comes back to its millions of pixels thousands of times."""
    data = bytes(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1])
    frame, last = data.find(b"\xff\xc2"), data.rfind(_SOS)
    scan = data[last:-2][: rng.choice((12, 40, 4000))]
    large = data[: frame + 5] + struct.pack(">HH", 5000, 6000) + data[frame + 9 : last]
    return large + scan * rng.randint(500, 5000) + _EOI


def _many_scans(rng: random.Random, photo: Image) -> bytes:
    """Fewer, of a small picture."""
    data = bytes(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1])
    last = data.rfind(_SOS)
    return data[:last] + data[last:-2] * rng.randint(2, 60) + _EOI


def _endless_markers(rng: random.Random, _: Image) -> bytes:
    return b"\xff\xd8" + rng.choice((b"\xff", b"\xff\x01", b"\xff\xd0", b"\xff\xe0\x00\x00")) * (1 << 18) + _EOI


def _polyglot(rng: random.Random, photo: Image) -> bytes:
    tail = rng.choice(_STRANGERS) + rng.randbytes(rng.randrange(300))
    return rng.choice((jpeg(rng, photo), png(photo))) + tail + rng.choice((b"", _EOI))


def _comment(rng: random.Random, photo: Image) -> bytes:
    """A script in a comment, the file a picture."""
    words = b"*/<script>alert(1)</script><?php phpinfo();?>\r\n%n%s" + bytes(rng.randrange(60_000))
    return _after_start(jpeg(rng, photo), _segment(0xFE, words, rng.choice((None, None, 0, 1, 2, 65_535))))


def _chunk_lies(rng: random.Random, photo: Image) -> bytes:
    kind = rng.choice((b"gAMA", b"tEXt", b"PLTE", b"IDAT", b"IEND", b"IHDR", b"tRNS", b"cHRM", b"aaaa", b"\0\0\0\0"))
    length = rng.choice((None, 0, 1, 2**31 - 1, 2**31, 2**32 - 1))
    return png(photo, chunk(kind, rng.randbytes(rng.randrange(40)), length, rng.choice((None, 0))))


def _text(rng: random.Random, photo: Image) -> bytes:
    """Text without end, packed and not."""
    large = zlib.compress(bytes(rng.choice((1 << 16, 40 << 20))), 9)
    texts = (
        chunk(b"tEXt", b"Comment\0" + b"A" * rng.choice((1 << 12, 1 << 20))),
        chunk(b"zTXt", b"Comment\0\0" + large),
        chunk(b"iTXt", b"Comment\0\1\0\0\0" + large),
        b"".join(chunk(b"tEXt", b"k\0v") for _ in range(3000)),
    )
    return png(photo, rng.choice(texts))


def _icc(rng: random.Random, photo: Image) -> bytes:
    profile = rng.choice((b"", bytes(64 << 10), rng.randbytes(128), struct.pack(">I", 2**32 - 1) + rng.randbytes(140)))
    if rng.randrange(2):
        return png(
            photo,
            chunk(b"iCCP", b"x\0\0" + rng.choice((profile, zlib.compress(profile), zlib.compress(bytes(40 << 20))))),
        )
    told = bytes((rng.choice((0, 1, 255)), rng.choice((0, 1, 2, 255))))
    return _after_start(jpeg(rng, photo), _segment(0xE2, b"ICC_PROFILE\0" + told + profile[:60_000]))


def _exif(rng: random.Random, photo: Image) -> bytes:
    """Orientations that exist and others, of wrong types, in directories that point at themselves or far away."""
    mark, order = rng.choice(((b"MM\0*", ">"), (b"II*\0", "<"), (b"MM*\0", ">"), (b"II\0\0", "<")))
    count = rng.choice((1, 1, 0, 2, 2**31, 2**32 - 1))
    value = struct.pack(f"{order}HH", rng.choice((1, 3, 6, 8, 0, 9, 65_535)), 0)
    entry = struct.pack(f"{order}HHI", 0x0112, rng.choice((3, 3, 0, 2, 5, 12, 65_535)), count) + value
    entry = rng.choice((entry, rng.randbytes(12)))
    first = rng.choice((8, 8, 8, 0, 7, 2**31, 2**32 - 1))
    entries = struct.pack(f"{order}H", rng.choice((1, 1, 0, 300, 65_535))) + entry * rng.choice((1, 1, 40))
    tiff = mark + struct.pack(f"{order}I", first) + entries + struct.pack(f"{order}I", rng.choice((0, 8, 2**32 - 1)))
    if rng.randrange(3) == 0:
        return png(photo, chunk(b"eXIf", tiff))
    return _after_start(jpeg(rng, photo), _segment(0xE1, b"Exif\0\0" + tiff, rng.choice((None, None, None, 8, 20))))


def _interlaced(rng: random.Random, photo: Image) -> bytes:
    height, width = photo.shape[:2]
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    rows = b"".join(
        b"\0" + row.tobytes()
        for top, left, down, right in passes[: rng.choice((7, 7, 3))]
        for row in photo[top::down, left::right, ::-1]
    )
    return png(photo, header=struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1), pixels=zlib.compress(rows))


def _deep(rng: random.Random, photo: Image) -> bytes:
    """16 bits, grey, transparent."""
    kinds: tuple[NDArray[np.integer], ...] = (
        photo.astype(np.uint16) * 257,
        photo[:, :, 0].astype(np.uint16) * 257,
        photo[:, :, 0],
        np.dstack([photo, photo[:, :, 0]]),
    )
    return bytes(cv2.imencode(".png", rng.choice(kinds))[1])


def _palette(rng: random.Random, photo: Image) -> bytes:
    """Colours by number, most of which may not be there."""
    height, width = photo.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in photo[:, :, 0])
    colours = chunk(b"PLTE", rng.randbytes(3 * rng.choice((256, 2, 1, 0, 300))))
    return png(
        photo,
        *rng.choice(((colours,), (), (colours, colours), (colours, chunk(b"tRNS", rng.randbytes(256))))),
        header=struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0),
        pixels=zlib.compress(rows),
    )


def _odd_header(rng: random.Random, photo: Image) -> bytes:
    height, width = photo.shape[:2]
    rest = [
        rng.choice((1, 2, 4, 8, 16, 3, 0, 255)),
        rng.choice((0, 2, 3, 4, 6, 1, 7, 255)),
        *(rng.randrange(3) for _ in "123"),
    ]
    return png(photo, header=struct.pack(">IIBBBBB", width, height, *rest))


def _animated(rng: random.Random, photo: Image) -> bytes:
    """Animation with more frames than there are."""
    control = struct.pack(">II", rng.choice((0, 1, 2, 2**31 - 1, 2**32 - 1)), 0)
    height, width = rng.choice((photo.shape[:2], (1, 1), (2**31 - 1, 2**31 - 1)))
    frame = struct.pack(
        ">IIIIIHHBB", 0, width, height, rng.choice((0, 2**31)), 0, 1, 0, rng.randrange(4), rng.randrange(3)
    )
    data = png(photo, chunk(b"acTL", control), *[chunk(b"fcTL", frame)] * rng.randrange(3))
    return data[:-12] + chunk(b"fdAT", struct.pack(">I", 1) + rng.randbytes(50)) + data[-12:]


def _four_inks(rng: random.Random, photo: Image) -> bytes:
    """As if it had another number of colours: four inks, two, none."""
    data = jpeg(rng, photo)
    frame = min(at for at in (data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) if at > 0)
    inks = rng.choice((4, 4, 2, 1, 0, 255))
    parts = b"".join(bytes((number + 1, rng.choice((0x11, 0x22, 0x41, 0xFF, 0)), 0)) for number in range(min(inks, 10)))
    size = data[frame + 5 : frame + 9]
    changed = data[:frame] + _segment(data[frame + 1], b"\x08" + size + bytes((inks,)) + parts) + data[frame + 19 :]
    return _after_start(changed, _segment(0xEE, b"Adobe\0d\0\0\0\0" + bytes((rng.randrange(4),))))


def _tables(rng: random.Random, photo: Image) -> bytes:
    """Tables of wrong sizes, twice, or not at all."""
    data = jpeg(rng, photo)
    table = _segment(rng.choice((0xC4, 0xDB, 0xDD, 0xCC)), rng.randbytes(rng.choice((0, 1, 17, 65, 400))))
    return (
        _after_start(data, *[table] * rng.choice((1, 50)))
        if rng.randrange(2)
        else data.replace(b"\xff\xc4", b"\xff\xee", rng.randint(1, 4))
    )


def _other_coding(rng: random.Random, photo: Image) -> bytes:
    """A frame header of lossless, hierarchical or arithmetic coding."""
    data = jpeg(rng, photo)
    frame = min(at for at in (data.find(b"\xff\xc0"), data.find(b"\xff\xc2")) if at > 0)
    return data[: frame + 1] + bytes((rng.choice((0xC1, 0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xCF)),)) + data[frame + 2 :]


def _spliced(rng: random.Random, photo: Image) -> bytes:
    """The head of one file, the rest of another."""
    one, other = jpeg(rng, photo), rng.choice((jpeg(rng, photo[:40, :40].copy()), png(photo)))
    return one[: rng.randrange(2, len(one))] + other[rng.randrange(len(other)) :]


WAYS: dict[str, Way] = {
    "flips in a JPEG's headers": _header_flips,
    "flips in a JPEG's pixels": _scan_flips,
    "flips in a PNG": _png_flips,
    "JPEG cut": lambda rng, photo: _cut(rng, jpeg(rng, photo)),
    "PNG cut": lambda rng, photo: _cut(rng, png(photo)),
    "JPEG of gigabytes": _jpeg_bomb,
    "PNG of gigabytes": _png_bomb,
    "no pixels": _empty_size,
    "30 megapixels": _large_black,
    "scans without end": _scan_bomb,
    "many scans": _many_scans,
    "markers without end": _endless_markers,
    "polyglot": _polyglot,
    "script in a comment": _comment,
    "chunks that lie": _chunk_lies,
    "text without end": _text,
    "colour profile that lies": _icc,
    "EXIF": _exif,
    "interlaced": _interlaced,
    "16 bits, grey, transparent": _deep,
    "palette": _palette,
    "odd PNG header": _odd_header,
    "animation that lies": _animated,
    "four inks": _four_inks,
    "tables": _tables,
    "other coding": _other_coding,
    "spliced": _spliced,
    "wrong suffix": lambda rng, photo: rng.choice((png(photo), encode_jpeg(photo))),
    "another format": lambda rng, _: rng.choice(_STRANGERS) + rng.randbytes(rng.randrange(2000)),
    "nothing": lambda *_: b"",
    "zeros": lambda rng, _: bytes(rng.randrange(1, 5000)),
    "chance": lambda rng, _: rng.randbytes(rng.randrange(1, 5000)),
    "chance after a start mark": lambda rng, _: (
        rng.choice((b"\xff\xd8\xff", _PNG)) + rng.randbytes(rng.randrange(5000))
    ),
}
"""Each makes a file from a photo."""
REFUSED = frozenset(
    {"JPEG cut", "PNG cut", "JPEG of gigabytes", "PNG of gigabytes", "no pixels", "scans without end",
     "markers without end", "another format", "nothing", "zeros", "chance"}
)  # fmt: skip
"""Ways whose files must never be counted."""
_RARE = {"30 megapixels": 0.1, "scans without end": 0.3, "markers without end": 0.3, "text without end": 0.3}
