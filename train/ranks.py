# ruff: noqa: TID253 - this file owns torch.distributed
"""Several processes that judge one set of photos: whole batches are dealt out, none is padded, none is seen twice.

`torchrun` tells each process its rank through the environment; without it there is one rank and nothing is set up. A
batch is the same photos whatever the number of ranks, so every answer is the same to the last bit.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch.distributed as dist

from bundle.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which process this is, of how many.

    Attributes:
        rank: From 0.
        world: Processes in all.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this process reports."""
        return self.rank == 0

    def rows(self, photos: int, batch_size: int) -> NDArray[np.int64]:
        """Photos that this rank judges: every world-th batch.

        Args:
            photos: How many there are in all.
            batch_size: Photos per batch.

        Returns:
            int64, ascending rows; the ranks' rows are disjoint and cover all photos.
        """
        rows = np.arange(photos, dtype=np.int64)
        return np.asarray(rows[rows // batch_size % self.world == self.rank])

    def gather(self, rows: NDArray[np.int64], values: NDArray[np.float32], photos: int) -> NDArray[np.float32]:
        """Put the answers of all ranks together.

        Args:
            rows: int64 (n,), what `rows` gave.
            values: float32 (n, K), this rank's answers.
            photos: How many there are in all.

        Returns:
            float32 (photos, K), in the order of the photos, on every rank.
        """
        if self.world == 1:
            return values
        parts: list[tuple[NDArray[np.int64], NDArray[np.float32]] | None] = [None] * self.world
        dist.all_gather_object(parts, (rows, values))
        found = [part for part in parts if part is not None and len(part[0])]
        joined = np.empty((photos, found[0][1].shape[1]), np.float32)
        for its_rows, its_values in found:
            joined[its_rows] = its_values
        return joined


@contextmanager
def joined_ranks() -> Iterator[Ranks]:
    """Join the other processes that torchrun started, if any.

    Yields:
        This process's place.

    Raises:
        ConfigError: The environment says that there are others, and they cannot be reached.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Ranks()
        return
    try:
        dist.init_process_group("gloo")
    except (RuntimeError, ValueError) as exc:
        raise ConfigError(
            "cannot join the other processes",
            got=str(exc)[:200],
            fix="Start with `torchrun --nproc-per-node N`, or unset WORLD_SIZE.",
        ) from exc
    try:
        yield Ranks(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
