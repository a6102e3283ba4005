# ruff: noqa: TID253 - blends torch tensors
"""Blends of photos: each photo of a batch with another one of it, all by one share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

_STREAM = 0x6D697875


@dataclass(frozen=True, slots=True)
class Blend:
    """Who is blended with whom.

    Attributes:
        share: Of each photo itself, 0..1; its partner has the rest.
        partners: int64 (N,), row of each photo's partner.
    """

    share: float
    partners: Tensor

    def images(self, images: Tensor) -> Tensor:
        """Blend pictures.

        Args:
            images: float32 (N, 3, h, w).

        Returns:
            float32 (N, 3, h, w), in the same memory order.
        """
        return torch.lerp(images[self.partners], images, self.share)

    def losses(self, loss: Callable[[Tensor], Tensor], targets: Tensor) -> Tensor:
        """Blend what the pictures cost.

        Args:
            loss: From targets int64 (N,) to losses float32 (N,).
            targets: The photos' own.

        Returns:
            float32 (N,).
        """
        return self.share * loss(targets) + (1 - self.share) * loss(targets[self.partners])


def draw_blend(photos: int, alpha: float, seed: int) -> Blend:
    """Draw partners and share.

    Args:
        photos: N.
        alpha: Of the Beta distribution, above 0.
        seed: The step's own: the same blend whenever the step is repeated.

    Returns:
        The blend.
    """
    rng = np.random.default_rng([_STREAM, seed])
    return Blend(float(rng.beta(alpha, alpha)), torch.from_numpy(rng.permutation(photos)))
