"""One self-contained HTML page that shows what a dataset is before anybody trains on it.

The numbers come from the manifest's columns, for any number of photos in one pass; photos are opened only for the about
hundred pictures shown. The same dataset gives the same page, byte by byte.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bundle import durable, images
from bundle.errors import InputError
from train.data import grouping
from train.data.audit import Audit, audit, neighbours_of
from train.data.columns import NOTICES_NAME, REJECTED_NAME
from train.data.disk import writing
from train.data.identity import equal_texts
from train.data.listed import Listed

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from train.data.manifest import Dataset

TOP_CLASS = 6
"""Pictures are shown for 0 to 5 items, and for this many or more."""
BLURRED_BELOW = 40.0
"""Variance of the Laplacian below which a photo of native size shows clear motion blur (judged by eye)."""
_PER_CLASS = 8
_PAIRS = 8
_EXTREMES = 8
_DUPLICATES = 12
_THUMB_PX = 132
_SEED = 11


@dataclass(frozen=True, slots=True)
class Thumb:
    """A small picture of one photo.

    Attributes:
        id: The photo's id.
        count: Items in the bin.
        data_uri: The picture as a data: address, or "" when the photo cannot be read any more.
        remark: What to say below it.
    """

    id: str
    count: int
    data_uri: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that the page shows.

    Attributes:
        name: Name of the dataset folder.
        digest: sha256 of the manifest.
        note: How the manifest came about.
        counts: int32, (rows,): items in each bin.
        split_names: The splits.
        split_codes: int64, (rows,): position in `split_names`, -1 unassigned.
        audit: The leak audit, or None without a split.
        widths: int32, (known,): of the photos that were opened.
        heights: int32, (known,): the same.
        blurs: float32, (known,): the same.
        brightnesses: float32, (known,): the same.
        group_sizes: int64, (groups,): photos in each group.
        siblings: Pairs of photos of the same bin.
        differences: int64, (pairs,): count of the later photo minus that of the earlier one.
        articles: Different ASINs in all records.
        duplicates: Pairs of ids with identical files, the first few; and how many there are.
        duplicate_pairs: Number of them.
        samples: Thumbnails by class.
        pairs: Thumbnails of a few sibling pairs.
        extremes: Thumbnails of the most blurred, darkest and brightest photos.
        rejected: What the import did not take.
        notices: What it took with a remark.
    """

    name: str
    digest: str
    note: dict[str, object]
    counts: NDArray[np.int32]
    split_names: tuple[str, ...]
    split_codes: NDArray[np.int64]
    audit: Audit | None
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    blurs: NDArray[np.float32]
    brightnesses: NDArray[np.float32]
    group_sizes: NDArray[np.int64]
    siblings: int
    differences: NDArray[np.int64]
    articles: int
    duplicates: tuple[tuple[str, str], ...]
    duplicate_pairs: int
    samples: dict[str, list[Thumb]]
    pairs: list[tuple[Thumb, Thumb]]
    extremes: dict[str, list[Thumb]]
    rejected: tuple[Listed, ...]
    notices: tuple[Listed, ...]


def write_report(dataset: Dataset, path: Path) -> Findings:
    """Write the page.

    Args:
        dataset: The dataset.
        path: The HTML file to write.

    Returns:
        What it shows.

    Raises:
        ConfigError: The file cannot be written.
        DiskError: The disk is full.
    """
    from train.data.report_page import render

    found = examine(dataset)
    with writing(path):
        durable.write_bytes(path, render(found).encode())
    return found


def examine(dataset: Dataset) -> Findings:
    """Collect everything that the page shows.

    Args:
        dataset: The dataset.

    Returns:
        Numbers and thumbnails.
    """
    photos = neighbours_of(dataset)
    links = grouping.sibling_links(photos)
    twins = equal_texts(dataset.hashes)
    opened = dataset.widths > 0
    group_sizes = np.bincount(dataset.groups)
    return Findings(
        name=dataset.folder.resolve().name,
        digest=dataset.digest,
        note=dict(dataset.note),
        counts=dataset.counts,
        split_names=dataset.split_names(),
        split_codes=dataset.split_codes(),
        audit=audit(dataset) if dataset.split_names() else None,
        widths=dataset.widths[opened],
        heights=dataset.heights[opened],
        blurs=dataset.blurs[opened],
        brightnesses=dataset.brightnesses[opened],
        group_sizes=group_sizes[group_sizes > 0],
        siblings=len(links),
        differences=(dataset.counts[links[:, 1]] - dataset.counts[links[:, 0]]).astype(np.int64),
        articles=int(photos.contents.codes.max(initial=-1)) + 1,
        duplicates=tuple((dataset.id_of(left), dataset.id_of(right)) for left, right in twins[:_DUPLICATES]),
        duplicate_pairs=len(twins),
        samples=_samples(dataset),
        pairs=_sibling_pairs(dataset, links),
        extremes=_extremes(dataset),
        rejected=_read_listed(dataset.folder / REJECTED_NAME),
        notices=_read_listed(dataset.folder / NOTICES_NAME),
    )


def _samples(dataset: Dataset) -> dict[str, list[Thumb]]:
    classes = np.minimum(dataset.counts, TOP_CLASS)
    random = np.random.default_rng(_SEED)
    samples = {}
    for label in range(TOP_CLASS + 1):
        rows = np.flatnonzero(classes == label)
        chosen = np.sort(random.permutation(len(rows))[:_PER_CLASS])
        name = f"{label}+" if label == TOP_CLASS else str(label)
        samples[name] = [_thumb(dataset, int(row)) for row in rows[chosen]]
    return samples


def _sibling_pairs(dataset: Dataset, links: NDArray[np.int64]) -> list[tuple[Thumb, Thumb]]:
    chosen = np.sort(np.random.default_rng(_SEED).permutation(len(links))[:_PAIRS])
    return [(_thumb(dataset, int(left)), _thumb(dataset, int(right))) for left, right in links[chosen]]


def _extremes(dataset: Dataset) -> dict[str, list[Thumb]]:
    opened = np.flatnonzero(dataset.widths > 0)
    blurs, lights = dataset.blurs, dataset.brightnesses
    wanted = {
        "most blurred": (opened[np.argsort(blurs[opened], kind="stable")], blurs, "sharp"),
        "darkest": (opened[np.argsort(lights[opened], kind="stable")], lights, "grey"),
        "brightest": (opened[np.argsort(-lights[opened], kind="stable")], lights, "grey"),
    }
    return {
        title: [_thumb(dataset, int(row), f"{unit} {values[row]:.0f}") for row in rows[:_EXTREMES]]
        for title, (rows, values, unit) in wanted.items()
    }


def _thumb(dataset: Dataset, row: int, remark: str = "") -> Thumb:
    try:
        image = images.read(dataset.path_of(row))
    except InputError:
        return Thumb(dataset.id_of(row), int(dataset.counts[row]), "", remark)
    scale = _THUMB_PX / image.shape[0]
    size = max(1, round(image.shape[1] * scale)), _THUMB_PX
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    data = base64.b64encode(images.encode_jpeg(np.asarray(small, dtype=np.uint8), quality=82)).decode()
    return Thumb(dataset.id_of(row), int(dataset.counts[row]), f"data:image/jpeg;base64,{data}", remark)


def _read_listed(path: Path) -> tuple[Listed, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return tuple(Listed(**json.loads(line)) for line in lines)
    except (OSError, ValueError, TypeError):
        # The lists are for people; a dataset without them is still a dataset.
        return ()
