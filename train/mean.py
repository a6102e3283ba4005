# ruff: noqa: TID253 - wraps a torch network
"""Networks that answer with a mean: over a picture and its mirror image, over several networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Iterable


class Mirrored(nn.Module):
    """Averages the logits of a picture and its mirror image, in one pass over a batch of both.

    One pass, so that an exported graph holds every layer once: what quantises it sees the same network as before.

    Args:
        network: float32 (N, 3, h, w) -> (N, K) logits.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Answer.

        Args:
            images: float32 (N, 3, h, w).

        Returns:
            float32 (N, K), mean logits.
        """
        logits: Tensor = self.network(torch.cat([images, images.flip(3)]))
        # A plain number: an exported graph then needs no arithmetic on shapes, which nothing can quantise.
        classes = int(logits.shape[1])
        return logits.reshape(2, -1, classes).mean(dim=0)


class Ensemble(nn.Module):
    """Averages the logits of several networks.

    Args:
        members: Each float32 (N, 3, h, w) -> (N, K) logits.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        """Answer.

        Args:
            images: float32 (N, 3, h, w).

        Returns:
            float32 (N, K), mean logits.
        """
        return torch.stack([member(images) for member in self.members]).mean(dim=0)
