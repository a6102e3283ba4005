"""Which photos form a step, and their pixels, prepared ahead by threads.

The order of an epoch and every photo's augmentation depend on (seed, epoch, photo) alone, so a resumed run
sees what the uninterrupted one would have seen, for any number of threads. Threads, not processes: the pixels
are shared, and OpenCV and numpy let go of the interpreter while they work.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
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

_ORDER_STREAM = 0x6F72646572


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


def epoch_batches(photos: int, config: TrainConfig, epoch: int) -> list[NDArray[np.int64]]:
    """Rows of every step of one epoch.

    The rest that does not fill a batch is left out (another one in every epoch), because normalisation over
    two photos would disturb the running statistics; a dataset smaller than one batch is one batch.

    Args:
        photos: How many there are.
        config: Seed and batch size.
        epoch: From 0.

    Returns:
        Row numbers per batch.
    """
    order = epoch_order(photos, seed=config.seed, epoch=epoch)
    if photos < config.batch_size:
        return [order]
    whole = photos // config.batch_size
    return np.split(order[: whole * config.batch_size], whole)


def training_batches(
    photos: PhotoSet, config: TrainConfig, *, epoch: int, start: int, workers: int, size: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Augmented network inputs of one epoch, in order.

    Args:
        photos: The training photos.
        config: Seed, batch size and augmentation.
        epoch: From 0.
        start: First batch to give, for a resumed epoch.
        workers: Threads that prepare batches ahead; 0 prepares in the caller.
        size: Input width and height of this epoch.

    Yields:
        (float32 (B, 3, size, size), int64 (B,) class indices).

    Raises:
        InputError: A photo has to be decoded again and cannot be.
    """

    def prepare(rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        stack = np.empty((len(rows), size, size, 3), np.uint8)
        for slot, row in enumerate(rows):
            rng = photo_rng(config.seed, epoch, photos.photos[row].id)
            stack[slot] = augment(scaled(photos.image(int(row)), size), config.augment, rng)
        return preprocess.normalize_batch(stack, photos.spec), photos.targets[rows]

    batches = epoch_batches(len(photos), config, epoch)[start:]
    if workers == 0:
        yield from map(prepare, batches)
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[tuple[NDArray[np.float32], NDArray[np.int64]]]] = deque()
        for rows in batches:
            ahead.append(pool.submit(prepare, rows))
            if len(ahead) > workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def plain_batches(photos: PhotoSet, batch_size: int) -> Iterator[NDArray[np.float32]]:
    """Network inputs without augmentation, in the order of the set: for judging.

    Args:
        photos: Any photos.
        batch_size: Most photos per batch.

    Yields:
        float32 (B, 3, h, w).

    Raises:
        InputError: A photo has to be decoded again and cannot be.
    """
    for start in range(0, len(photos), batch_size):
        stop = min(start + batch_size, len(photos))
        stack = np.stack([photos.image(row) for row in range(start, stop)])
        yield preprocess.normalize_batch(stack, photos.spec)
