# ruff: noqa: TID253 - asks torch networks
"""What a network answers, and how good that is: after every epoch, and at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bundle.counter import posterior_from_logits
from train import metrics
from train.batches import plain_batches
from train.heads import head_outputs
from train.loss import count_loss
from train.mean import Mirrored
from train.ranks import Ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from train.config import TrainConfig
    from train.learner import Learner
    from train.photos import PhotoSet

JUDGE_BATCH = 32
"""Photos per forward pass; the same everywhere, so that every process gets the same bits."""
_PROBE_PHOTOS = 256


def predict(
    model: nn.Module, photos: PhotoSet, *, ranks: Ranks | None = None, mirrored: bool = False
) -> NDArray[np.float32]:
    """Logits of every photo, without augmentation.

    Args:
        model: The network; put into eval mode.
        photos: What to look at.
        ranks: Which of several processes this is; each takes its part, and all get every answer.
        mirrored: Look at each photo's mirror image too and give the mean; takes twice as long.

    Returns:
        float32 (N, K), in the order of the photos.

    Raises:
        InputError: A photo cannot be read.
    """
    device = next(model.parameters()).device
    model.eval()
    network = Mirrored(model) if mirrored else model

    def logits(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(network(torch.from_numpy(batch).to(device)).float().cpu().numpy())

    ranks = ranks or Ranks()
    rows = ranks.rows(len(photos), JUDGE_BATCH)
    with torch.inference_mode():
        found = [logits(batch) for batch in plain_batches(photos, rows, JUDGE_BATCH)]
    mine = np.concatenate(found) if found else np.empty((0, head_outputs(model)), np.float32)
    return ranks.gather(rows, mine, len(photos))


def judge_epoch(
    learner: Learner, photos: PhotoSet, probe: PhotoSet, config: TrainConfig, ranks: Ranks
) -> dict[str, Any]:
    """Judge the averaged weights, remember the best, and move the position to the next epoch.

    Args:
        learner: At the end of an epoch.
        photos: To judge with.
        probe: Training photos, judged as they are.
        config: The run's configuration.
        ranks: Which of several processes this is.

    Returns:
        The epoch's record.

    Raises:
        InputError: A photo cannot be read.
    """
    here = learner.position
    judged, loss = _judge(learner, photos, config, ranks)
    record: dict[str, Any] = {
        "kind": "epoch",
        "epoch": here.epoch,
        "step": here.step,
        "train_loss": here.loss_sum / max(1, here.batch),
        "loss": loss,
        # Training photos as they are: the loss while training is inflated by augmentation and dropout.
        "probe_loss": _judge(learner, probe, config, ranks)[1] if len(probe) else None,
        **metrics.brief(judged),
    }
    if record["rmse_posterior_mean"] < here.best:
        here.best, here.best_epoch = record["rmse_posterior_mean"], here.epoch
        if config.select == "best":
            learner.best = {name: value.clone() for name, value in learner.average.module.state_dict().items()}
    here.epoch, here.batch, here.loss_sum = here.epoch + 1, 0, 0.0
    return record


def _judge(learner: Learner, photos: PhotoSet, config: TrainConfig, ranks: Ranks) -> tuple[metrics.Judged, float]:
    """What the averaged weights say on the count classes, and the loss of it."""
    logits = predict(learner.average.module, photos, ranks=ranks)[:, config.readout]
    classes = photos.targets - config.readout.start
    judged = metrics.judge(classes, posterior_from_logits(logits, 1.0), config.counts)
    losses = count_loss(torch.from_numpy(logits), torch.from_numpy(classes), config.loss)
    return judged, float(losses.mean())


def probe_of(photos: PhotoSet, config: TrainConfig) -> PhotoSet:
    """Choose evenly spaced training photos of the count classes.

    Args:
        photos: The training photos.
        config: The run's configuration.

    Returns:
        At most 256 of them.
    """
    classes = photos.targets - config.readout.start
    rows = np.flatnonzero((classes >= 0) & (classes < len(config.counts)))
    return photos.take(rows[:: max(1, len(rows) // _PROBE_PHOTOS)][:_PROBE_PHOTOS])
