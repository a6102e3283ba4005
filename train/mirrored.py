# ruff: noqa: TID253 - wraps a torch network
"""A network that looks at a picture and at its mirror image, and answers with the mean."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
        return torch.unflatten(logits, 0, (2, -1)).mean(dim=0)
