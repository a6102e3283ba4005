# ruff: noqa: TID253 - this file computes in torch
"""What a wrong count costs: cross entropy plus an ordinal neighbour term.

Cross entropy alone thinks that 1 for 5 is as wrong as 4 for 5. On this task a neighbour term left the exact
accuracy where it was and lowered the RMSE by 11 % (0.907 -> 0.803); alone, without cross entropy, it
destroyed the accuracy.

All functions take float32 logits (N, K) over ordered count classes and int64 targets (N,), and return one
loss per photo, float32 (N,). The top class may be open: its distance to its neighbour then counts as one
item, the least it can be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from train.sections import LossConfig


def count_loss(logits: Tensor, targets: Tensor, config: LossConfig) -> Tensor:
    """Loss of each photo.

    Args:
        logits: float32 (N, K), unnormalised.
        targets: int64 (N,), class indices.
        config: Which neighbour term, and how much of it.

    Returns:
        float32 (N,).
    """
    exact = functional.cross_entropy(logits, targets, reduction="none")
    if config.neighbour == "none" or config.weight == 0:
        return exact
    near = _TERMS[config.neighbour](logits, targets, config.sigma)
    return (1 - config.weight) * exact + config.weight * near


def soft_targets(targets: Tensor, classes: int, sigma: float) -> Tensor:
    """A bell of probability around the true class, cut at both ends and summing to one.

    Args:
        targets: int64 (N,), class indices.
        classes: Number of classes.
        sigma: Width of the bell, classes.

    Returns:
        float32 (N, classes).
    """
    distance = torch.arange(classes, device=targets.device) - targets[:, None]
    return torch.softmax(-0.5 * (distance / sigma).square(), dim=1)


def soft_neighbours(logits: Tensor, targets: Tensor, sigma: float) -> Tensor:
    """Cross entropy to `soft_targets`.

    Args:
        logits: float32 (N, K).
        targets: int64 (N,).
        sigma: Width of the bell, classes.

    Returns:
        float32 (N,).
    """
    wanted = soft_targets(targets, logits.shape[1], sigma)
    return -(wanted * functional.log_softmax(logits, dim=1)).sum(dim=1)


def ranked_probability(logits: Tensor, targets: Tensor, _sigma: float = 0.0) -> Tensor:
    """Ranked probability score: squared distance between the cumulative posterior and the truth's step.

    A proper scoring rule, so an honest posterior minimises it.

    Args:
        logits: float32 (N, K).
        targets: int64 (N,).

    Returns:
        float32 (N,), 0 for a certain hit, K - 1 for certainty at the wrong end.
    """
    cumulative = torch.softmax(logits, dim=1).cumsum(dim=1)[:, :-1]
    edges = torch.arange(logits.shape[1] - 1, device=targets.device)
    step = (edges >= targets[:, None]).to(cumulative.dtype)
    return (cumulative - step).square().sum(dim=1)


def multilabel_neighbours(logits: Tensor, targets: Tensor, _sigma: float = 0.0) -> Tensor:
    """Multi-label soft margin with k-1, k and k+1 all marked as right (Tezcan and Konrad, 2017).

    Args:
        logits: float32 (N, K).
        targets: int64 (N,).

    Returns:
        float32 (N,).
    """
    distance = torch.arange(logits.shape[1], device=targets.device) - targets[:, None]
    wanted = (distance.abs() <= 1).to(logits.dtype)
    return functional.multilabel_soft_margin_loss(logits, wanted, reduction="none")


def pair_loss(logits: Tensor, targets: Tensor, groups: NDArray[np.int64]) -> Tensor:
    """How far the difference between neighbouring photos of one group is from the true one.

    Args:
        logits: float32 (N, K).
        targets: int64 (N,).
        groups: int64 (N,), group numbers; photos of one group stand side by side.

    Returns:
        float32, sum over the pairs of the Huber error of (difference of posterior means - difference of classes).
    """
    first = torch.from_numpy(np.flatnonzero((groups[1:] == groups[:-1]) & (groups[1:] >= 0))).to(logits.device)
    mean = torch.softmax(logits, dim=1) @ torch.arange(logits.shape[1], dtype=logits.dtype, device=logits.device)
    said, true = mean[first + 1] - mean[first], (targets[first + 1] - targets[first]).to(logits.dtype)
    return functional.smooth_l1_loss(said, true, reduction="sum")


_TERMS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "soft": soft_neighbours,
    "ranked": ranked_probability,
    "multilabel": multilabel_neighbours,
}
