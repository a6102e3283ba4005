"""Visits for the tiny bundle of tests.simulators.bundle_factory: textured pictures whose brightness is the count.

Every bin has a texture of its own, so that bins can be told apart; noise on the brightness makes the counter err at a
known rate.
"""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import cv2
import numpy as np

from tests.simulators.bundle_factory import brightness_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

SIZE_WH = (64, 48)


def scene(rng: np.random.Generator, count: float, *, texture: float = 14.0) -> NDArray[np.uint8]:
    """A picture of a bin: uint8, (48, 64, 3), BGR, whose mean grey level the model counts as `count`."""
    width, height = SIZE_WH
    blobs = cv2.resize(rng.normal(0, 1, (7, 9, 3)).astype(np.float32), SIZE_WH, interpolation=cv2.INTER_CUBIC)
    grain = rng.normal(0, 2, (height, width, 3))
    pattern = (blobs - blobs.mean(axis=(0, 1))) * texture + grain - grain.mean(axis=(0, 1))
    return np.asarray(np.clip(brightness_for(count) + pattern, 0, 255).round(), np.uint8)


def write_table(
    folder: Path, visits: int, seed: int, *, noise: float = 0.25, top: int = 5, labelled: bool = True
) -> Path:
    """Write visits with a `visits.csv`; the count that the model sees is off by `noise` (standard deviation)."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(visits):
        truth = int(rng.integers(0, top + 1))
        name = f"{index:05d}.png"
        cv2.imwrite(str(folder / name), scene(rng, truth + rng.normal(0, noise)))
        rows.append({"photo": name, "count": truth if labelled else "", "bin_id": f"bin-{index}"})
    with (folder / "visits.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, ["photo", "count", "bin_id"])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def write_records(  # noqa: PLR0913 - a fixture with knobs
    folder: Path,
    visits: int,
    seed: int,
    *,
    noise: float = 0.25,
    labelled: bool = True,
    start: int = 0,
    label: Callable[[int], int] = int,
    change: Callable[[NDArray[np.uint8]], NDArray[np.uint8]] | None = None,
    bins: int | None = None,
) -> Path:
    """Write visits in the machine's layout: pictures first, then the record that makes the visit exist.

    Args:
        folder: Created if needed.
        visits: How many.
        seed: Of the pictures.
        noise: Standard deviation of what the model sees around the truth.
        labelled: Whether a person gave counts.
        start: Number of the first visit.
        label: Turns the truth into what the person said.
        change: Applied to every picture.
        bins: Number of different bins; None makes every visit another one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in range(start, start + visits):
        truth = int(rng.integers(0, 6))
        picture = scene(rng, truth + rng.normal(0, noise))
        name = f"v{index:05d}"
        cv2.imwrite(str(folder / f"{name}-0.png"), picture if change is None else change(picture))
        record = {
            "visit": name,
            "bin_id": f"bin-{index if bins is None else index % bins}",
            "frames": [f"{name}-0.png"],
            "captured_at": "2026-01-02T03:04:05Z",
            "label": label(truth) if labelled else None,
        }
        (folder / f"{name}.json").write_text(json.dumps(record), encoding="utf-8")
    return folder
