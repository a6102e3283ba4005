"""Batches out of shards: decoded by threads, in an order that depends on nothing but (seed, epoch).

Invariants:
- Batch b of epoch e is a pure function of (shards, options, e, b). A run that resumes at (e, b) therefore sees what an
  uninterrupted one would have seen, for any number of threads.
- No random crops: they cut items out of the picture and so corrupt the label. Mirroring keeps it.
- Arrays are fresh for every batch and belong to the caller. No torch here: `torch.from_numpy` costs nothing.

Threads, not processes: decoding and numpy release the interpreter, and pixels need not be copied between processes.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bundle import images, preprocess
from bundle.errors import ConfigError, InputError
from train.data.columns import column
from train.data.shards import FORMAT_VERSION, INDEX, INDEX_NAME, PLAN_NAME

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from bundle.manifest import Preprocessing

_NPY_MAGIC = b"\x93NUMPY"
_NPY_HEAD_BYTES = 10


class Shards:
    """Packed photos with random access. Safe to share between threads.

    Attributes:
        folder: Where they lie.
        dataset: Digest of the dataset that they were made from.
        size: Width and height of the pictures, in px.
        fit: `squash` or `letterbox`.

    Args:
        folder: A folder written by `train.data.shards.write_shards`.

    Raises:
        InputError: Not shards, unfinished, or of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            plan = json.loads((folder / PLAN_NAME).read_text())
            self._table = pq.read_table(folder / INDEX_NAME)
            version, self.dataset = plan["format"], str(plan["dataset"])
            self.size, self.fit = int(plan["options"]["size"]), str(plan["options"]["fit"])
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowInvalid) as exc:
            raise InputError(
                f"{folder} holds no finished shards", got=str(exc), fix="Make them with `bintally data shards`."
            ) from exc
        if version != FORMAT_VERSION or not self._table.schema.equals(INDEX):
            raise InputError(f"{folder} has another format", got=version, expected=FORMAT_VERSION)
        names = sorted(path.name for path in folder.glob("*.tar"))
        wanted = int(column(self._table, "shard").to_numpy().max(initial=-1)) + 1
        if len(names) != wanted:
            raise InputError(f"{folder} is incomplete", got=f"{len(names)} tars", expected=wanted, fix="Pack it again.")
        self._names = names
        self._places: NDArray[np.int64] = np.stack(
            [column(self._table, name).to_numpy().astype(np.int64) for name in ("shard", "offset", "size")], axis=1
        )
        self._files: dict[int, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @property
    def counts(self) -> NDArray[np.int32]:
        """Items in each bin: int32, (photos,)."""
        values: NDArray[np.int32] = column(self._table, "count").to_numpy()
        return values

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row of each photo in the dataset's manifest: int64, (photos,)."""
        values: NDArray[np.int64] = column(self._table, "row").to_numpy()
        return values

    def select(
        self, *, split: str | Collection[str] | None = None, counts: Collection[int] | None = None
    ) -> NDArray[np.int64]:
        """Find photos.

        Args:
            split: Name or names to keep, in one text joined by commas; None keeps all.
            counts: Counts to keep; None keeps all.

        Returns:
            int64, (n,), ascending positions in the shards.
        """
        keep = np.ones(len(self), dtype=np.bool_)
        if split is not None:
            names = pa.array(split.split(",") if isinstance(split, str) else sorted(split))
            keep &= pc.is_in(column(self._table, "split"), value_set=names).to_numpy(zero_copy_only=False)
        if counts is not None:
            keep &= np.isin(self.counts, np.fromiter(counts, np.int64))
        return np.flatnonzero(keep)

    def read(self, position: int) -> NDArray[np.uint8]:
        """Decode one picture.

        Args:
            position: Which.

        Returns:
            uint8, (size, size, 3), BGR, 0..255.

        Raises:
            InputError: The tar was cut or altered.
        """
        shard, offset, size = (int(value) for value in self._places[position])
        data = os.pread(self._file(shard), size, offset)
        if data.startswith(_NPY_MAGIC):
            start = _NPY_HEAD_BYTES + int.from_bytes(data[8:_NPY_HEAD_BYTES], "little")
            expected = self.size * self.size * 3
            if len(data) - start == expected:
                return np.frombuffer(data, np.uint8, offset=start).reshape(self.size, self.size, 3)
            raise InputError(f"{self._names[shard]} is damaged", got=f"{len(data) - start} bytes", expected=expected)
        return images.decode(data, name=f"{self._names[shard]} at {offset}")

    def _file(self, shard: int) -> int:
        handle = self._files.get(shard)
        if handle is None:
            with self._lock:
                handle = self._files.get(shard)
                if handle is None:
                    handle = self._files[shard] = os.open(self.folder / self._names[shard], os.O_RDONLY)
        return handle

    def close(self) -> None:
        """Close the tars. Reading opens them again."""
        with self._lock:
            for handle in self._files.values():
                os.close(handle)
            self._files.clear()


@dataclass(frozen=True, slots=True)
class Batch:
    """Some photos, ready for a step.

    Attributes:
        images: uint8, (N, h, w, 3), BGR, 0..255; or float32, (N, 3, h, w), normalised, when the loader has a `spec`.
        counts: int32, (N,): items in each bin.
        positions: int64, (N,): where they lie in the shards.
    """

    images: NDArray[np.uint8] | NDArray[np.float32]
    counts: NDArray[np.int32]
    positions: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LoaderOptions:
    """How to batch.

    Attributes:
        batch: Photos in a batch; the last one of an epoch may be smaller.
        shuffle: Another order in each epoch; False keeps the given one.
        mirror: Mirror every second picture, by chance.
        spec: Finish the preprocessing: float32, normalised. None hands out uint8, for a device that normalises.
        seed: Decides order and mirroring.
        workers: Decoding threads.
    """

    batch: int = 64
    shuffle: bool = True
    mirror: bool = True
    spec: Preprocessing | None = None
    seed: int = 7
    workers: int = 2


class ShardLoader:
    """Batches of chosen photos, epoch by epoch.

    Args:
        shards: Where they lie.
        positions: int64, (n,): which; a position may stand several times (oversampling).
        options: How.

    Raises:
        ConfigError: No photos, or an option is out of range.
    """

    def __init__(self, shards: Shards, positions: NDArray[np.int64], options: LoaderOptions | None = None) -> None:
        self.shards, self.positions, self.options = shards, positions, options or LoaderOptions()
        if len(positions) == 0 or self.options.batch < 1 or self.options.workers < 1:
            raise ConfigError(
                "a loader needs photos, a batch size and a thread",
                got=f"{len(positions)} photos, batch {self.options.batch}, {self.options.workers} threads",
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return math.ceil(len(self.positions) / self.options.batch)

    def epoch(self, epoch: int, *, start: int = 0) -> Iterator[Batch]:
        """Go through all photos once.

        Args:
            epoch: Number of the epoch.
            start: First batch, to go on where a run was interrupted.

        Yields:
            Batches, in order.

        Raises:
            InputError: A tar was cut or altered.
        """
        order, mirrored = self._draw(epoch)
        pending: deque[Future[Batch]] = deque()
        with ThreadPoolExecutor(self.options.workers) as pool:
            try:
                for index in range(start, len(self)):
                    chosen = slice(index * self.options.batch, (index + 1) * self.options.batch)
                    pending.append(pool.submit(self._make, order[chosen], mirrored[chosen]))
                    if len(pending) > self.options.workers + 1:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def _draw(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the order of an epoch, and which of its pictures are mirrored."""
        random = np.random.default_rng([self.options.seed, epoch])
        count = len(self.positions)
        order = self.positions[random.permutation(count)] if self.options.shuffle else self.positions
        mirrored = random.random(count) < 0.5 if self.options.mirror else np.zeros(count, dtype=np.bool_)  # noqa: PLR2004
        return order, mirrored

    def _make(self, positions: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> Batch:
        spec = self.options.spec
        width, height = (self.shards.size, self.shards.size) if spec is None else spec.size_wh
        pixels = np.empty((len(positions), height, width, 3), np.uint8)
        for index, position in enumerate(positions):
            image = self.shards.read(int(position))
            if spec is not None:
                image = preprocess.resize(image, spec)
            if mirrored[index]:
                # Six times as fast as a copy of image[:, ::-1], which reads backwards by three bytes at a time.
                cv2.flip(image, 1, dst=pixels[index])
            else:
                pixels[index] = image
        done = pixels if spec is None else preprocess.normalize_batch(pixels, spec)
        return Batch(done, self.shards.counts[positions], positions)
