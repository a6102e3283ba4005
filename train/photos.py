"""Photos in memory: decoded and resized once, as uint8, by the bundle's own preprocessing.

8,500 photos of 224 x 224 take 1.3 GB. What does not fit is decoded again for every batch; both give the same pixels.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from bundle import images, preprocess
from bundle.errors import InputError
from bundle.manifest import class_index, class_value
from train.data.balance import balance

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from bundle.manifest import CountClasses, Preprocessing
    from train.data.loader import Shards
    from train.data.manifest import Dataset

_DECODING_THREADS = 2


@dataclass(frozen=True, slots=True)
class Photo:
    """One labelled photo.

    Attributes:
        id: As spelled by the source; `1044` and `01044` are different bins.
        path: Where it lies.
        count: Items in the bin.
        group: Photos with the same number show the same bin (see `train.data.grouping`); -1 unknown.
        row: In the dataset's manifest; -1 unknown.
    """

    id: str
    path: Path
    count: int
    group: int = -1
    row: int = -1


@dataclass(frozen=True, slots=True)
class Packed:
    """Shards, and where each row of the dataset's manifest lies in them.

    Attributes:
        shards: The shards.
        positions: Position in the shards by manifest row.
    """

    shards: Shards
    positions: dict[int, int]

    @classmethod
    def of(cls, shards: Shards, spec: Preprocessing) -> Packed:
        """Take shards into use.

        Args:
            shards: The shards.
            spec: What the network wants.

        Returns:
            Shards with an index.

        Raises:
            InputError: They hold smaller pictures than the network wants, or pictures of another shape.
        """
        if shards.size < max(spec.size_wh) or shards.fit != spec.resize:
            raise InputError(
                f"the shards in {shards.folder} do not fit",
                got=f"{shards.size} px, {shards.fit}",
                expected=f"at least {max(spec.size_wh)} px, {spec.resize}",
                fix="Pack them again with `bintally data shards --size`.",
            )
        return cls(shards, {int(row): position for position, row in enumerate(shards.rows)})

    def read(self, photo: Photo) -> NDArray[np.uint8]:
        """Decode one picture.

        Args:
            photo: Which.

        Returns:
            uint8, (size, size, 3), BGR.

        Raises:
            InputError: It is not in the shards, or a tar was cut or altered.
        """
        if photo.row not in self.positions:
            raise InputError(f"photo {photo.id} is not in {self.shards.folder}", fix="Pack the dataset again.")
        return self.shards.read(self.positions[photo.row])


@dataclass(frozen=True, slots=True)
class PhotoSet:
    """Photos with their classes, ready to be learned from.

    Attributes:
        photos: What they are.
        targets: int64 (N,), class indices; -1 for a count that no class covers.
        pixels: uint8, (N, h, w, 3), BGR, 0..255, resized; None when they do not fit into memory.
        spec: The preprocessing that made `pixels`.
        packed: Where pictures come from instead of the photos' own files.
    """

    photos: tuple[Photo, ...]
    targets: NDArray[np.int64]
    pixels: NDArray[np.uint8] | None
    spec: Preprocessing
    packed: Packed | None = None

    def __len__(self) -> int:
        return len(self.photos)

    @property
    def groups(self) -> NDArray[np.int64]:
        """Photos with the same number show the same bin: int64 (N,), -1 unknown."""
        return np.array([photo.group for photo in self.photos], dtype=np.int64)

    def take(self, rows: NDArray[np.int64]) -> PhotoSet:
        """Some of the photos.

        Args:
            rows: int64 (M,), positions in `photos`.

        Returns:
            A set of those, their pixels copied.
        """
        pixels = None if self.pixels is None else self.pixels[rows]
        return PhotoSet(tuple(self.photos[row] for row in rows), self.targets[rows], pixels, self.spec, self.packed)

    def image(self, row: int) -> NDArray[np.uint8]:
        """One resized photo.

        Args:
            row: Position in `photos`.

        Returns:
            uint8, (h, w, 3), BGR.

        Raises:
            InputError: The photo has to be decoded again and cannot be.
        """
        if self.pixels is not None:
            return np.asarray(self.pixels[row])
        return _read(self.photos[row], self.spec, self.packed)


def load_photos(
    photos: Sequence[Photo],
    classes: CountClasses,
    spec: Preprocessing,
    *,
    max_bytes: int = 4 << 30,
    shards: Shards | None = None,
    progress: Callable[[int], None] | None = None,
) -> PhotoSet:
    """Decode and resize photos into one array.

    Args:
        photos: What to load.
        classes: Count classes of the head.
        spec: Input size and resize mode.
        max_bytes: Above this the pixels stay on disk.
        shards: Packed pictures to read instead of the photos' own files.
        progress: Called with the number of photos done.

    Returns:
        The photos, in the given order.

    Raises:
        InputError: No photos, or one that cannot be decoded.
    """
    if not photos:
        raise InputError("there are no photos to load", fix="Check the split and the counts.")
    found = [class_index(classes, photo.count) for photo in photos]
    targets = np.array([-1 if index is None else index for index in found], dtype=np.int64)
    packed = None if shards is None else Packed.of(shards, spec)
    width, height = spec.size_wh
    if len(photos) * width * height * 3 > max_bytes:
        return PhotoSet(tuple(photos), targets, None, spec, packed)
    pixels = np.empty((len(photos), height, width, 3), np.uint8)

    def load(row: int) -> None:
        pixels[row] = _read(photos[row], spec, packed)

    with ThreadPoolExecutor(_DECODING_THREADS) as pool:
        for done, _ in enumerate(pool.map(load, range(len(photos))), start=1):
            if progress is not None:
                progress(done)
    return PhotoSet(tuple(photos), targets, pixels, spec, packed)


def _read(photo: Photo, spec: Preprocessing, packed: Packed | None) -> NDArray[np.uint8]:
    return preprocess.resize(images.read(photo.path) if packed is None else packed.read(photo), spec)


def select_photos(
    dataset: Dataset, split: str, classes: CountClasses, *, balance_with: int | None = None
) -> list[Photo]:
    """Photos of a split that the count classes cover, each class with at least one.

    Args:
        dataset: An opened dataset.
        split: Name of the split, or several joined by commas.
        classes: Count classes.
        balance_with: Seed of an undersampling to equal classes; None keeps every photo.

    Returns:
        Photos in manifest order.

    Raises:
        InputError: No such split, or a class without photos.
    """
    low, high = class_value(classes[0]), class_value(classes[-1])
    rows = dataset.select(split=split)
    counts = dataset.counts[rows]
    covered = (counts >= low) & ((counts <= high) | classes[-1].endswith("+"))
    rows, counts = rows[covered], counts[covered]
    present = set(np.minimum(counts, high).tolist())
    empty = [name for name in classes if class_value(name) not in present]
    if empty:
        raise InputError(
            f"the {split!r} split of {dataset.folder} has no photos of {', '.join(empty)} items",
            got=f"{len(rows)} photos of the classes {', '.join(classes)}",
            fix="Choose other count classes with --counts, or import more photos.",
        )
    if balance_with is not None:
        rows = balance(rows, dataset.counts, "undersample", top=high, seed=balance_with).rows
        counts = dataset.counts[rows]
    return [
        Photo(dataset.id_of(row), dataset.path_of(row), int(count), int(dataset.groups[row]), int(row))
        for row, count in zip(rows, counts, strict=True)
    ]


def scaled(image_bgr: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Bring a resized photo to the size of a stage, smaller or larger than the one it is kept in.

    Args:
        image_bgr: uint8, (h, w, 3), BGR, square.
        size: Wanted width and height.

    Returns:
        uint8, (size, size, 3), BGR.
    """
    if image_bgr.shape[0] == size:
        return image_bgr
    how = (
        cv2.INTER_AREA if size < image_bgr.shape[0] else cv2.INTER_LINEAR
    )  # area averages turn to blocks when enlarged
    return np.asarray(cv2.resize(image_bgr, (size, size), interpolation=how), dtype=np.uint8)
