"""Frames of a dataset for export: a bounded, evenly spread choice, decoded and brought to the network's size."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bundle import images
from bundle.errors import InputError
from bundle.manifest import class_index
from bundle.preprocess import normalize_batch, resize

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from bundle.manifest import CountClasses, Preprocessing
    from train.data.manifest import Dataset

GOLDEN_WH = (320, 240)
"""Golden frames are stored at this size, larger than most networks' input, so that resizing is part of the proof."""


@dataclass(frozen=True, slots=True)
class Frames:
    """Labelled frames of one split.

    Attributes:
        rows: int64, (N,), positions in the dataset.
        pixels: uint8, (N, h, w, 3), BGR, at the network's size.
        truth: int64, (N,), class indices.
    """

    rows: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    truth: NDArray[np.int64]

    def tensors(self, preprocessing: Preprocessing) -> NDArray[np.float32]:
        """The network's input for every frame.

        Args:
            preprocessing: The one that `pixels` were resized with.

        Returns:
            float32, (N, 3, h, w).
        """
        return normalize_batch(self.pixels, preprocessing)


def load_frames(
    dataset: Dataset, split: str | Collection[str], classes: CountClasses, preprocessing: Preprocessing, *, limit: int
) -> Frames:
    """Read the frames of a split whose count the classes cover.

    Args:
        dataset: An opened dataset.
        split: Name of the split, or names.
        classes: Count classes; frames outside them are left out.
        preprocessing: Of the network.
        limit: At most so many frames, evenly spread over the split.

    Returns:
        The frames.

    Raises:
        InputError: The split does not exist or holds nothing of these classes, or a photo cannot be read.
    """
    rows = dataset.select(split=split)
    indices = [class_index(classes, int(count)) for count in dataset.counts[rows]]
    covered = np.array([index is not None for index in indices], dtype=np.bool_)
    truth = np.array([-1 if index is None else index for index in indices], dtype=np.int64)
    rows, truth = rows[covered], truth[covered]
    if len(rows) == 0:
        raise InputError(
            f"split {split} of dataset {dataset.folder} holds no photo of the classes {' '.join(classes)}",
            fix="Name another split, or split the dataset again.",
        )
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(np.int64))
    rows, truth = rows[chosen], truth[chosen]
    with ThreadPoolExecutor() as pool:
        pixels = list(pool.map(lambda row: resize(images.read(dataset.path_of(row)), preprocessing), rows))
    return Frames(rows, np.stack(pixels), truth)


def golden_frames(dataset: Dataset, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Photos for golden.npz.

    Args:
        dataset: An opened dataset.
        rows: int64, (N,), positions in it.

    Returns:
        uint8, (N, 240, 320, 3), BGR.

    Raises:
        InputError: A photo cannot be read.
    """
    photos = (images.read(dataset.path_of(row)) for row in rows)
    return np.stack([np.asarray(cv2.resize(photo, GOLDEN_WH, interpolation=cv2.INTER_AREA)) for photo in photos])
