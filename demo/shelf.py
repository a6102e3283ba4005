"""The bins of a tour: photos in a folder, what is in them, and what the inventory system believes is in them."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle.durable import write_bytes
from bundle.errors import InputError
from bundle.images import PHOTO_SUFFIXES, encode_jpeg
from demo.render import render_bin
from demo.seeds import MAX_SEED, tour_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

_JPEG_QUALITY = 90
_WRONG_RECORDS = 0.1  # share of bins whose record is off by one or two, which is what a count is there to find


@dataclass(frozen=True, slots=True)
class Shelf:
    """What a tour's robot drives along.

    Attributes:
        source: Folder, video, camera index or device, as the agent's configuration takes it.
        truth: Items per bin_id; empty where nobody knows.
        records: CSV file of the inventory system, None without one.
        frames: Photos in the folder; None where the end is not known.
    """

    source: int | str
    truth: Mapping[str, int]
    records: Path | None
    frames: int | None


def render_shelf(folder: Path, *, frames: int, seed: int, tick: Callable[[], None] | None = None) -> Shelf:
    """Render the bins of a tour.

    Args:
        folder: An existing folder; photos go to `folder/bins`.
        frames: Number of bins.
        seed: The tour's.
        tick: Called after each bin.

    Returns:
        The shelf, with truth and records.

    Raises:
        InputError: The seed is out of range.
    """
    if not 0 <= seed <= MAX_SEED:
        raise InputError("the seed of a tour", got=seed, expected=f"0 to {MAX_SEED}")
    bins = folder / "bins"
    bins.mkdir()
    truth: dict[str, int] = {}
    for index in range(frames):
        rendered = render_bin(tour_seed(seed, index))
        bin_id = f"bin-{index:05d}"
        (bins / f"{bin_id}.jpg").write_bytes(encode_jpeg(rendered.image_bgr, quality=_JPEG_QUALITY))
        truth[bin_id] = rendered.count
        if tick is not None:
            tick()
    records = folder / "records.csv"
    write_bytes(records, _csv(believed(truth, seed)))
    return Shelf(str(bins), truth, records, frames)


def borrow_shelf(source: str, folder: Path, frames: int | None) -> Shelf:
    """Use somebody's own pictures; what is in them is then not known.

    Args:
        source: A folder of photos, a video file, a device or the index of a camera.
        folder: An existing folder for links, where only the first photos of a folder are wanted.
        frames: At most so many.

    Returns:
        The shelf.

    Raises:
        InputError: Nothing is there.
    """
    from pathlib import Path

    if source.isdecimal():
        return Shelf(int(source), {}, None, None)
    if source.startswith("/dev/") or "://" in source:
        return Shelf(source, {}, None, None)
    path = Path(source).expanduser().resolve()
    if not path.exists():
        raise InputError(
            f"--source {source} does not exist", expected="a folder of photos, a video file or a camera index"
        )
    if not path.is_dir():
        return Shelf(str(path), {}, None, None)
    photos = sorted(file for file in path.iterdir() if file.suffix.lower() in PHOTO_SUFFIXES)
    if not photos:
        raise InputError(f"--source {source} holds no photos", expected=".jpg, .jpeg or .png")
    if frames is None or frames >= len(photos):
        return Shelf(str(path), {}, None, len(photos))
    links = folder / "bins"
    links.mkdir()
    for photo in photos[:frames]:
        (links / photo.name).symlink_to(photo)
    return Shelf(str(links), {}, None, frames)


def believed(truth: Mapping[str, int], seed: int) -> dict[str, int]:
    """Make the inventory system's records: mostly the truth, and sometimes not, as in a warehouse.

    Args:
        truth: Items per bin_id.
        seed: The tour's.

    Returns:
        Records per bin_id.
    """
    rng = np.random.default_rng([seed, 4])
    records = {}
    for bin_id, count in truth.items():
        error = int(rng.choice((-2, -1, 1, 2))) if rng.random() < _WRONG_RECORDS else 0
        records[bin_id] = max(0, count + error)
    return records


def _csv(records: Mapping[str, int]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("bin_id", "record"))
    writer.writerows(records.items())
    return text.getvalue().encode()
