"""Which photos form a step, and their pixels, prepared ahead by threads.

The order of an epoch and every photo's augmentation depend on (seed, epoch, photo) alone, so a resumed run
sees what the uninterrupted one would have seen, for any number of threads. Threads, not processes: the pixels
are shared, and OpenCV and numpy let go of the interpreter while they work. With several ranks, each takes its own
part of every batch, so a step learns from the same photos whatever their number.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle import preprocess
from train.augment import augment, photo_rng
from train.photos import scaled

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from train.config import TrainConfig
    from train.photos import PhotoSet
    from train.ranks import Ranks

_ORDER_STREAM = 0x6F72646572


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's part of a batch.

    Attributes:
        inputs: float32 (n, 3, size, size), augmented and normalised.
        targets: int64 (n,), class indices.
        groups: int64 (n,), the photos' groups.
        whole: Photos of the batch over all ranks.
    """

    inputs: NDArray[np.float32]
    targets: NDArray[np.int64]
    groups: NDArray[np.int64]
    whole: int


@dataclass(frozen=True, slots=True)
class Reading:
    """Which part of an epoch is read, and how.

    Attributes:
        epoch: From 0.
        start: First batch to give, for a resumed epoch.
        size: Input width and height of this epoch.
        workers: Threads that prepare batches ahead; 0 prepares in the caller.
        ranks: Which of several processes this is.
    """

    epoch: int
    start: int
    size: int
    workers: int
    ranks: Ranks


def epoch_order(photos: int, *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Order of the photos in one epoch.

    Args:
        photos: How many there are.
        seed: The run's seed.
        epoch: From 0.

    Returns:
        int64 (photos,), a permutation.
    """
    return np.random.default_rng([_ORDER_STREAM, seed, epoch]).permutation(photos)


def grouped_order(groups: NDArray[np.int64], *, seed: int, epoch: int) -> NDArray[np.int64]:
    """Order of the photos in one epoch, photos of one group side by side.

    Args:
        groups: int64 (photos,), group numbers.
        seed: The run's seed.
        epoch: From 0.

    Returns:
        int64 (photos,), a permutation; groups follow each other at random, and so do the photos in each.
    """
    shuffled = epoch_order(len(groups), seed=seed, epoch=epoch)
    _, first_seen, member = np.unique(groups[shuffled], return_index=True, return_inverse=True)
    # A group stands where its first photo stood; a stable sort keeps the shuffled order within it.
    return np.asarray(shuffled[np.argsort(first_seen[member.reshape(-1)], kind="stable")])


def epoch_batches(photos: PhotoSet, config: TrainConfig, epoch: int) -> list[NDArray[np.int64]]:
    """Rows of every step of one epoch.

    The rest that does not fill a batch is left out (another one in every epoch), because normalisation over
    two photos would disturb the running statistics; a dataset smaller than one batch is one batch.

    Args:
        photos: What there is.
        config: Seed, batch size, and whether pairs belong together.
        epoch: From 0.

    Returns:
        Row numbers per batch.
    """
    if config.pairs.weight > 0:
        order = grouped_order(photos.groups, seed=config.seed, epoch=epoch)
    else:
        order = epoch_order(len(photos), seed=config.seed, epoch=epoch)
    if len(photos) < config.batch_size:
        return [order]
    whole = len(photos) // config.batch_size
    return np.split(order[: whole * config.batch_size], whole)


def training_batches(photos: PhotoSet, config: TrainConfig, reading: Reading) -> Iterator[Batch]:
    """Augmented network inputs of one epoch, in order.

    Args:
        photos: The training photos.
        config: Seed, batch size and augmentation.
        reading: Which part of the epoch, and how.

    Yields:
        This rank's parts of the batches.

    Raises:
        InputError: A photo has to be decoded again and cannot be.
    """
    size, ranks = reading.size, reading.ranks

    def prepare(batch: NDArray[np.int64]) -> Batch:
        rows = np.array_split(batch, ranks.world)[ranks.rank]
        stack = np.empty((len(rows), size, size, 3), np.uint8)
        for slot, row in enumerate(rows):
            rng = photo_rng(config.seed, reading.epoch, photos.photos[row].id)
            stack[slot] = augment(scaled(photos.image(int(row)), size), config.augment, rng)
        inputs = preprocess.normalize_batch(stack, photos.spec)
        return Batch(inputs, photos.targets[rows], photos.groups[rows], len(batch))

    batches = epoch_batches(photos, config, reading.epoch)[reading.start :]
    if reading.workers == 0:
        yield from map(prepare, batches)
        return
    with ThreadPoolExecutor(reading.workers) as pool:
        ahead: deque[Future[Batch]] = deque()
        for rows in batches:
            ahead.append(pool.submit(prepare, rows))
            if len(ahead) > reading.workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def plain_batches(photos: PhotoSet, rows: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.float32]]:
    """Network inputs without augmentation: for judging.

    Args:
        photos: Any photos.
        rows: int64 (n,), which of them, in this order.
        batch_size: Most photos per batch.

    Yields:
        float32 (B, 3, h, w).

    Raises:
        InputError: A photo has to be decoded again and cannot be.
    """
    for start in range(0, len(rows), batch_size):
        stack = np.stack([photos.image(int(row)) for row in rows[start : start + batch_size]])
        yield preprocess.normalize_batch(stack, photos.spec)
