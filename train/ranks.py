# ruff: noqa: TID253 - this file owns torch.distributed
"""Several processes that work on one set of photos: none is padded, none is seen twice.

`torchrun` tells each process its rank through the environment; without it there is one rank and nothing is set up. When
photos are judged, whole batches are dealt out: a batch is the same photos whatever the number of ranks, so every
answer is the same to the last bit. When photos are learned, every batch is shared out, and gradients are summed.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from bundle.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which process this is, of how many.

    Attributes:
        rank: From 0.
        world: Processes in all.
        local: Rank within this machine, which is the number of its GPU.
    """

    rank: int = 0
    world: int = 1
    local: int = 0

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

    def sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all ranks, in one exchange.

        Args:
            tensors: Of one type on one device, the same shapes on every rank.
        """
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.flatten() for tensor in tensors])
        dist.all_reduce(flat)
        at = 0
        for tensor in tensors:
            tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
            at += tensor.numel()

    def share(self, value: Any) -> Any:  # noqa: ANN401 - whatever the first rank has
        """Give every rank what the first one has.

        Args:
            value: On the first rank, what to give; tensors on the CPU. Elsewhere not looked at.

        Returns:
            The first rank's value.
        """
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, device=torch.device("cpu"))
        return box[0]

    def any(self, *, here: bool) -> bool:
        """Say whether something is so on any rank.

        Args:
            here: Whether it is on this one.

        Returns:
            The same on every rank.
        """
        count = torch.tensor([float(here)])
        self.sum_in_place([count])
        return bool(count[0] > 0)


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
        # Answers and wishes travel over gloo, gradients on a GPU over nccl.
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    except (RuntimeError, ValueError) as exc:
        raise ConfigError(
            "cannot join the other processes",
            got=str(exc)[:200],
            fix="Start with `torchrun --nproc-per-node N`, or unset WORLD_SIZE.",
        ) from exc
    try:
        yield Ranks(dist.get_rank(), world, int(os.environ.get("LOCAL_RANK", "0")))
    finally:
        dist.destroy_process_group()
