"""Opening photos, many at once: hashes, sizes, blur and brightness, in chunks over processes.

Invariants: a chunk's result depends on its files alone, and chunks come back in order, so the result does not depend on
the number of processes. Nothing is written here.
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pyarrow as pa

from bundle import images
from bundle.errors import InputError
from train.data.abid import BinRecord, parse_sidecar
from train.data.listed import Listed
from train.data.workers import run_in_order

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

CHUNK_PHOTOS = 64
"""Photos per task: about 0.2 s of work, so that progress moves and Ctrl-C is answered."""
SCANNED = pa.schema(
    {
        "row": pa.int64(),
        "count": pa.int32(),
        "asins": pa.list_(pa.string()),
        "sha256": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "blur": pa.float32(),
        "brightness": pa.float32(),
    }
)
"""One row per good photo: its position in the scanned sequence, and what was found. count and asins are null without a
sidecar; the rest is "", 0 or NaN where photos stay closed, as in the manifest."""


@dataclass(frozen=True, slots=True)
class ScanTask:
    """A chunk of photos to open.

    Attributes:
        start: Position of the first photo in the whole sequence.
        image_root: Folder that the paths start from.
        paths: Relative paths of the photos.
        sidecars: For each photo its JSON sidecar, relative to `image_root`; None where the counts are known already.
        open_photos: False reads the sidecars only and leaves the photos closed.
    """

    start: int
    image_root: Path
    paths: list[str]
    sidecars: list[str] | None
    open_photos: bool


@dataclass(slots=True)
class Scan:
    """What was found.

    Attributes:
        batches: Columns of `SCANNED`.
        rejected: What is not good, and why.
        notices: What is good and deserves a look.
    """

    batches: list[pa.RecordBatch] = field(default_factory=list)
    rejected: list[Listed] = field(default_factory=list)
    notices: list[Listed] = field(default_factory=list)

    def extend(self, other: Scan) -> None:
        """Append a later chunk.

        Args:
            other: The chunk's result.
        """
        self.batches += other.batches
        self.rejected += other.rejected
        self.notices += other.notices

    def table(self) -> pa.Table:
        """Return all columns.

        Returns:
            A table with the columns of `SCANNED`.
        """
        return pa.Table.from_batches(self.batches, schema=SCANNED)


def scan(
    image_root: Path,
    paths: pa.Array,
    *,
    sidecars: pa.Array | None = None,
    open_photos: bool = True,
    workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scan:
    """Open many photos.

    Args:
        image_root: Folder that the paths start from.
        paths: Arrow strings: relative paths of the photos.
        sidecars: Arrow strings: the JSON sidecar of each photo, or None where the counts are known already.
        open_photos: False reads the sidecars only.
        workers: Processes; None takes one per core. 1 stays in this process.
        on_progress: Called with (photos done, photos in all).

    Returns:
        Everything found, in the order of `paths`.

    Raises:
        ConfigError: A worker process died.
    """
    if sidecars is None and not open_photos:
        return _unopened(len(paths))
    starts = range(0, len(paths), CHUNK_PHOTOS)
    tasks = (
        ScanTask(
            start,
            image_root,
            paths.slice(start, CHUNK_PHOTOS).to_pylist(),
            None if sidecars is None else sidecars.slice(start, CHUNK_PHOTOS).to_pylist(),
            open_photos,
        )
        for start in starts
    )
    whole = Scan()
    done = 0
    for part in run_in_order(scan_chunk, tasks, workers=min(workers or os.cpu_count() or 1, len(starts))):
        whole.extend(part)
        done = min(done + CHUNK_PHOTOS, len(paths))
        if on_progress is not None:
            on_progress(done, len(paths))
    return whole


def _unopened(count: int) -> Scan:
    unknown = {"sha256": pa.array(np.full(count, "")), "row": pa.array(np.arange(count))}
    unknown |= {name: pa.array(np.zeros(count, np.int32)) for name in ("width", "height")}
    unknown |= {name: pa.array(np.full(count, np.nan, np.float32)) for name in ("blur", "brightness")}
    unknown |= {name: pa.nulls(count, SCANNED.field(name).type) for name in ("count", "asins")}
    return Scan([pa.record_batch([unknown[name] for name in SCANNED.names], schema=SCANNED)])


def scan_chunk(task: ScanTask) -> Scan:
    """Open the photos of one chunk, one after the other.

    Args:
        task: What to open.

    Returns:
        What was found; a bad photo is listed and never stops the chunk.
    """
    found = Scan()
    rows = []
    for index, path in enumerate(task.paths):
        try:
            record = None if task.sidecars is None else _read_sidecar(task.image_root, task.sidecars[index])
        except FileNotFoundError as exc:
            missing = f"no {exc.filename}: a photo without a record has no label"
            found.rejected.append(Listed(path, "metadata_missing", missing))
            continue
        except (InputError, OSError) as exc:
            found.rejected.append(Listed(path, "metadata_malformed", str(exc)))
            continue
        try:
            look = _look(task.image_root, path) if task.open_photos else ("", 0, 0, math.nan, math.nan)
        except InputError as exc:
            found.rejected.append(Listed(path, "photo_unreadable", str(exc)))
            continue
        label = (None, None) if record is None else (record.count, record.asins)
        rows.append((task.start + index, *label, *look))
        if record is not None and record.quantities_sum != record.count:
            differs = f"EXPECTED_QUANTITY is {record.count}, its articles add up to {record.quantities_sum}"
            found.notices.append(Listed(path, "quantity_sum_differs", differs))
    columns = zip(*rows, strict=True) if rows else [()] * len(SCANNED)
    arrays = [pa.array(column, kind) for column, kind in zip(columns, SCANNED.types, strict=True)]
    found.batches.append(pa.record_batch(arrays, schema=SCANNED))
    return found


def _read_sidecar(image_root: Path, path: str) -> BinRecord:
    return parse_sidecar((image_root / path).read_bytes(), name=path)


def _look(image_root: Path, path: str) -> tuple[str, int, int, float, float]:
    data = images.read_bytes(image_root / path)
    image_bgr = images.decode(data, name=path)
    height, width = image_bgr.shape[:2]
    return (hashlib.sha256(data).hexdigest(), width, height, *sharpness(image_bgr))


def sharpness(image_bgr: NDArray[np.uint8]) -> tuple[float, float]:
    """Measure blur and brightness.

    Args:
        image_bgr: uint8, (H, W, 3), BGR, 0..255.

    Returns:
        Variance of the Laplacian of the grey picture (low is blurred) and mean grey value, 0..255.
    """
    grey = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY)
    _, deviation = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))
    return float(deviation[0, 0]) ** 2, float(cv2.mean(grey)[0])
