# ruff: noqa: TID253 - the loop is torch
"""The training loop: one linear story, resumable at every update.

What a step computes depends on its position alone: the order and the augmentation come from (seed, epoch,
photo), dropout from (seed, step), the learning rate from the step. So a checkpoint needs the weights, their
average, the optimiser and three numbers, and a run that was killed at any moment ends bit for bit like one
that was not (on CPU, with the same number of threads).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from train.batches import epoch_batches, training_batches
from train.judging import judge_epoch, probe_of
from train.loss import count_loss
from train.model import head_name
from train.optimizer import learning_rate, set_rate
from train.progress import epoch_line
from train.run import CHECKPOINT_NAME, STREAM_NAME
from train.saver import Saver, diverged
from train.stream import MetricStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from train.config import TrainConfig
    from train.learner import Learner
    from train.photos import PhotoSet
    from train.progress import Progress

_STEP_STREAM = 0x9E3779B97F4A7C15


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides how fast a run is, not what it computes.

    Attributes:
        folder: The run folder.
        config_sha256: Written into checkpoints.
        dataset_sha256: Likewise.
        device: Where torch computes.
        workers: Threads that prepare batches.
        checkpoint_s: Longest time between two checkpoints, seconds.
        log_every: Steps between two lines of metrics.jsonl.
        channels_last: Memory order of activations; faster on CPU and on tensor cores.
    """

    folder: Path
    config_sha256: str
    dataset_sha256: str
    device: str = "cpu"
    workers: int = 1
    checkpoint_s: float = 300.0
    log_every: int = 10
    channels_last: bool = True


class StopRequestedError(Exception):
    """The run was asked to stop; its checkpoint is on disk."""


def fit(  # noqa: PLR0913 - what to learn, from what, how, and who is told
    learner: Learner,
    photos: PhotoSet,
    judged_on: PhotoSet,
    config: TrainConfig,
    settings: Settings,
    *,
    progress: Progress,
    stop: Callable[[], bool] = lambda: False,
    on_epoch: Callable[[dict[str, Any]], None] = lambda _: None,
) -> None:
    """Train to the end, from wherever the learner stands.

    Args:
        learner: Fresh or restored; holds the result.
        photos: Training photos, every one with a class.
        judged_on: Photos to judge with after each epoch.
        config: What to compute.
        settings: How fast.
        progress: Where to report.
        stop: Asked after every update; True writes a checkpoint and ends.
        on_epoch: Told each epoch's record once its checkpoint is on disk; may raise to end the run.

    Raises:
        DivergedError: The loss is not a number any more.
        InputError: A photo cannot be read, or the disk refused a checkpoint.
        StopRequestedError: `stop` said so.
    """
    here = learner.position
    stream = MetricStream(settings.folder / STREAM_NAME, keep_bytes=here.stream_bytes)
    saver = Saver(
        learner,
        stream,
        settings.folder / CHECKPOINT_NAME,
        {"config_sha256": settings.config_sha256, "dataset_sha256": settings.dataset_sha256},
        settings.checkpoint_s,
    )
    probe = probe_of(photos, config)
    per_epoch = _updates(photos, config)
    total = per_epoch * config.epochs
    progress.stage("training", total)
    try:
        while here.epoch < config.epochs:
            began = time.monotonic()
            first_step = here.step
            for record in _train_epoch(learner, photos, config, settings, total):
                if here.step % settings.log_every == 0:
                    stream.append(record)
                progress.done(here.step, f"loss {record['loss']:.3f}  {record['images_per_s']:.0f}/s")
                if stop():
                    saver.save()
                    raise StopRequestedError
                saver.save_if_due()
            seconds = time.monotonic() - began
            saver.require_finite()
            record = judge_epoch(learner, judged_on, probe, config)
            record["images_per_s"] = (here.step - first_step) * config.batch_size * config.accumulate / seconds
            stream.append(record | {"seconds": round(seconds, 3)})
            progress.line(epoch_line(record | {"seconds": seconds}))
            saver.save()
            on_epoch(record)
    finally:
        stream.close()


def _train_epoch(
    learner: Learner, photos: PhotoSet, config: TrainConfig, settings: Settings, total: int
) -> Iterator[dict[str, Any]]:
    """Learn from the rest of the current epoch; yields one record per update, and ends at the epoch's end."""
    here = learner.position
    _set_training(learner.model, frozen=config.model.frozen)
    batches = training_batches(
        photos,
        config,
        epoch=here.epoch,
        start=here.batch,
        workers=settings.workers,
        size=config.size_at(here.epoch),
    )
    in_epoch = len(epoch_batches(len(photos), config, here.epoch))
    mark = time.monotonic()
    for inputs, targets in batches:
        ready = time.monotonic()
        loss = _backward(learner, inputs, targets, config, settings)
        here.batch += 1
        here.loss_sum += loss
        if here.batch % config.accumulate and here.batch < in_epoch:
            continue
        record = _update(learner, config, total)
        now = time.monotonic()
        yield record | {
            "loss": loss,
            "data_s": round(ready - mark, 5),
            "step_s": round(now - mark, 5),
            "images_per_s": round(len(targets) * config.accumulate / (now - mark), 2),
        }
        mark = now


def _backward(
    learner: Learner, inputs: NDArray[np.float32], targets: NDArray[np.int64], config: TrainConfig, settings: Settings
) -> float:
    here = learner.position
    torch.manual_seed((config.seed * _STEP_STREAM + here.epoch * 1_000_003 + here.batch) % (1 << 63))
    device = torch.device(settings.device)
    images = _tensor(inputs, device)
    if settings.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        logits = learner.model(images)
    loss = count_loss(logits.float(), torch.from_numpy(targets).to(device), config.loss).mean()
    value = float(loss.detach())
    if not math.isfinite(value):
        raise diverged("the loss", value, here)
    torch.autograd.backward(loss / config.accumulate)
    return value


def _update(learner: Learner, config: TrainConfig, total: int) -> dict[str, Any]:
    here = learner.position
    rate = learning_rate(here.step, total, config.optimizer)
    set_rate(learner.optimizer, rate)
    trainable = [parameter for parameter in learner.model.parameters() if parameter.requires_grad]
    limit = config.optimizer.clip or math.inf
    norm = float(torch.nn.utils.clip_grad_norm_(trainable, limit))
    if not math.isfinite(norm):
        raise diverged("the gradient", norm, here)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    learner.average.update_parameters(learner.model)
    here.step += 1
    return {"kind": "step", "epoch": here.epoch, "step": here.step, "lr": rate, "gradient_norm": norm}


def _updates(photos: PhotoSet, config: TrainConfig) -> int:
    return math.ceil(len(epoch_batches(len(photos), config, 0)) / config.accumulate)


def _set_training(model: nn.Module, *, frozen: bool) -> None:
    """Training mode; a frozen backbone keeps its statistics too, or it would not be frozen."""
    model.train(mode=not frozen)
    if frozen:
        model.get_submodule(head_name(model)).train()


def _tensor(batch: NDArray[np.float32], device: torch.device) -> Tensor:
    return torch.from_numpy(batch).to(device)
