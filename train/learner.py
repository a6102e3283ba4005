# ruff: noqa: TID253 - a learner is torch
"""What moves while a run trains, all of it in a checkpoint: network, average, update rule, position."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.optim.swa_utils import AveragedModel

from train.optimizer import build_optimizer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from train.config import TrainConfig


@dataclass(slots=True)
class Position:
    """Where a run stands, and the sums since its last line.

    Attributes:
        epoch: Epochs finished.
        batch: Batches of the current epoch that were learned from.
        step: Updates done.
        loss_sum: Sum of the batches' losses in the current epoch.
        best: Best RMSE of the posterior mean so far.
        best_epoch: Where it was.
        stream_bytes: Size of metrics.jsonl.
        stopped: Whether the run ended before its last epoch, because nothing got better or a rule said so.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    best: float = math.inf
    best_epoch: int = -1
    stream_bytes: int = 0
    stopped: bool = False

    def as_dict(self) -> dict[str, float]:
        """The position as plain numbers for a checkpoint.

        Returns:
            Numbers by name.
        """
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(slots=True)
class Learner:
    """The network and everything that moves with it.

    Attributes:
        model: Raw weights.
        average: Their moving average; judged and exported.
        optimizer: The update rule and its moments.
        scaler: Scales the loss in fp16; does nothing otherwise.
        position: Where the run stands.
        best: Averaged weights of the best epoch, when the best is asked for.
    """

    model: nn.Module
    average: AveragedModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    position: Position = field(default_factory=Position)
    best: dict[str, Tensor] | None = None

    def state(self) -> dict[str, Any]:
        """Everything a checkpoint needs.

        Returns:
            Tensors, numbers, lists and dicts.
        """
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "position": self.position.as_dict(),
            "best": self.best,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a checkpoint.

        Args:
            state: From `state`.
        """
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.position = Position(**state["position"])
        self.best = state["best"]


def build_learner(model: nn.Module, config: TrainConfig, device: str, *, channels_last: bool) -> Learner:
    """Put a fresh network to its starting line.

    Args:
        model: From `train.model.build_model`.
        config: The run's configuration.
        device: Where torch computes.
        channels_last: Memory order of activations.

    Returns:
        The learner at step 0.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    model = model.to(device).to(memory_format=layout)
    average = AveragedModel(model, multi_avg_fn=_averaging(config.ema), use_buffers=True)
    scaler = torch.amp.GradScaler(torch.device(device).type, enabled=config.precision == "fp16")
    return Learner(model, average, build_optimizer(model, config.optimizer), scaler)


def _averaging(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Moving average that starts short, so that early weights are forgotten quickly."""

    def average(averaged: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int) -> None:
        seen = float(updates)
        keep = min(decay, (1 + seen) / (10 + seen))
        for old, new in zip(averaged, current, strict=True):
            if old.is_floating_point():
                old.lerp_(new, 1 - keep)
            else:
                old.copy_(new)

    return average
