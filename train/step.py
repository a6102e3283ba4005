# ruff: noqa: TID253 - a step is torch
"""One step of a training: forward, loss, backward, the exchange between processes, update.

Everything random in it (dropout) comes from (seed, epoch, batch, rank), so nothing but the learner moves.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from train.loss import count_loss, pair_loss
from train.mixup import draw_blend
from train.optimizer import set_rate
from train.probe import Probe, gradient_record, is_probed
from train.saver import diverged

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from train.batches import Batch
    from train.config import TrainConfig
    from train.learner import Learner
    from train.mixup import Blend
    from train.ranks import Ranks
    from train.teachers import Teachers

_STEP_STREAM = 0x9E3779B97F4A7C15
_RANK_STREAM = 0x632BE59BD9B4E019
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LEAST_SCALE = 1e-3
"""A loss scaled below this and still overflowing has left the numbers, not just fp16."""


class Stepper:
    """Moves a learner.

    Args:
        learner: What to move.
        config: What to compute.
        ranks: Which of several processes this is.
        teachers: Whom to learn from besides the labels.
        channels_last: Memory order of activations.
        compiled: Run the network through torch.compile.
    """

    def __init__(
        self,
        learner: Learner,
        config: TrainConfig,
        ranks: Ranks,
        *,
        teachers: Teachers | None = None,
        channels_last: bool = True,
        compiled: bool = False,
    ) -> None:
        self._learner, self._config, self._ranks, self._teachers = learner, config, ranks, teachers
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self._device = next(learner.model.parameters()).device
        self._forward: Callable[[Tensor], Tensor] = torch.compile(learner.model) if compiled else learner.model
        self._trainable = [parameter for parameter in learner.model.parameters() if parameter.requires_grad]
        self._statistics = [buffer for buffer in learner.model.buffers() if buffer.is_floating_point()]
        self._losses = torch.zeros(1, dtype=torch.float64)
        self._batches = 0
        self._probed: dict[str, Any] | None = None

    def take_probe(self) -> list[dict[str, Any]]:
        """Hand over the newest look at the network's insides.

        Returns:
            Its record, or nothing.
        """
        record, self._probed = self._probed, None
        return [] if record is None or "gradients" not in record else [record]

    def backward(self, batch: Batch) -> None:
        """Add a batch's gradient.

        Args:
            batch: This rank's part of it.
        """
        self._batches += 1
        if len(batch.targets) == 0:
            return
        here, config = self._learner.position, self._config
        stream = config.seed * _STEP_STREAM + here.epoch * 1_000_003 + here.batch + self._ranks.rank * _RANK_STREAM
        torch.manual_seed(stream % (1 << 63))
        images = torch.from_numpy(batch.inputs).to(self._device).contiguous(memory_format=self._layout)
        alpha = config.mixup.alpha
        blend = draw_blend(len(images), alpha, stream % (1 << 63)) if alpha > 0 else None
        images = images if blend is None else blend.images(images)
        with Probe(self._learner.model, active=is_probed(here.step)) as probe:
            with torch.autocast(self._device.type, _DTYPES[config.precision], enabled=config.precision != "fp32"):
                logits = self._forward(images)
            if probe.activations:
                self._probed = {"kind": "probe", "step": here.step + 1, "activations": probe.activations}
        loss = self._loss(logits.float(), images, batch, blend) / batch.whole
        self._losses += float(loss.detach())
        torch.autograd.backward(self._learner.scaler.scale(loss / config.accumulate))

    def _loss(self, logits: Tensor, images: Tensor, batch: Batch, blend: Blend | None) -> Tensor:
        """Sum of the photos' losses."""
        config = self._config
        targets = torch.from_numpy(batch.targets).to(self._device)

        def labels(wanted: Tensor) -> Tensor:
            return count_loss(logits, wanted, config.loss)

        losses = labels(targets) if blend is None else blend.losses(labels, targets)
        if self._teachers is not None:
            share = config.distill.weight
            shown = (targets,) if blend is None else (targets, targets[blend.partners])
            losses = (1 - share) * losses + share * self._teachers.loss(logits, images, *shown)
        total = losses.sum()
        if config.pairs.weight > 0:
            total = total + config.pairs.weight * pair_loss(logits, targets, batch.groups)
        return total

    def update(self, rate: float, *, asked_to_stop: bool = False) -> tuple[dict[str, Any], bool]:
        """Exchange gradients with the other ranks, and move.

        Args:
            rate: Learning rate of the head.
            asked_to_stop: Whether this process was asked to.

        Returns:
            The step's record with the mean loss of the batches since the last update, and whether any rank was asked to
            stop.

        Raises:
            DivergedError: The loss or the gradient is not a number any more.
        """
        learner, here = self._learner, self._learner.position
        asked = self._exchange(asked_to_stop=asked_to_stop)
        loss = float(self._losses[0]) / max(1, self._batches)
        here.loss_sum += float(self._losses[0])
        self._losses.zero_()
        self._batches = 0
        if not math.isfinite(loss):
            self._record_gradients(nonfinite=True)
            raise diverged("the loss", loss, here)
        set_rate(learner.optimizer, rate)
        learner.scaler.unscale_(learner.optimizer)
        norm = self._clipped_norm()
        if is_probed(here.step) and math.isfinite(norm):
            self._record_gradients()
        learner.scaler.step(learner.optimizer)
        learner.scaler.update()
        learner.optimizer.zero_grad(set_to_none=True)
        learner.average.update_parameters(learner.model)
        here.step += 1
        record = {"kind": "step", "epoch": here.epoch, "step": here.step, "loss": loss, "lr": rate}
        return record | {"gradient_norm": norm}, asked

    def _clipped_norm(self) -> float:
        learner, here = self._learner, self._learner.position
        norm = float(torch.nn.utils.clip_grad_norm_(self._trainable, self._config.optimizer.clip or math.inf))
        # In fp16 a scale that was too high overflows now and then: that update is left out, and the scale halved.
        lost = not learner.scaler.is_enabled() or learner.scaler.get_scale() < _LEAST_SCALE
        if not math.isfinite(norm) and lost:
            self._record_gradients(nonfinite=True)
            raise diverged("the gradient", norm, here)
        return norm

    def _exchange(self, *, asked_to_stop: bool) -> bool:
        """Sum gradients, losses and wishes to stop over the ranks, and average the normalisation's statistics."""
        if self._ranks.world == 1:
            return asked_to_stop
        for parameter in self._trainable:
            if parameter.grad is None:  # this rank had no photo of a small batch
                parameter.grad = torch.zeros_like(parameter)
        wish = torch.tensor([float(asked_to_stop)], dtype=torch.float64)
        gradients = [parameter.grad for parameter in self._trainable if parameter.grad is not None]
        self._ranks.sum_in_place([*gradients, *self._statistics])
        self._ranks.sum_in_place([wish, self._losses])
        for buffer in self._statistics:
            buffer.div_(self._ranks.world)
        return bool(wish[0] > 0)

    def _record_gradients(self, *, nonfinite: bool = False) -> None:
        """Complete the probe's record; with what is not finite it is written even outside of its turn."""
        record = self._probed or {"kind": "probe", "step": self._learner.position.step + 1, "activations": {}}
        self._probed = record | gradient_record(self._learner.model, only_broken=nonfinite)
