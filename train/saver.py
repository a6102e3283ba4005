# ruff: noqa: TID253 - looks into torch tensors
"""When a checkpoint is written, and what may never be written into one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from bundle.errors import ConfigError, DeliveryError
from train import checkpoint
from train.mirror import RESUMED_FROM

if TYPE_CHECKING:
    from pathlib import Path

    from train.learner import Learner, Position
    from train.loop import Settings
    from train.progress import Progress
    from train.stream import MetricStream


class DivergedError(ConfigError):
    """A run left the numbers; its settings have to change."""


class Saver:
    """Writes the run's checkpoint, at each epoch's end and whenever it has become too old.

    Args:
        learner: What to save.
        stream: Made durable before each checkpoint, which remembers its size.
        path: Where to save.
        settings: Hashes, how often, who writes, and where to mirror.
        progress: Told when the mirror refuses.
    """

    def __init__(
        self, learner: Learner, stream: MetricStream, path: Path, settings: Settings, progress: Progress
    ) -> None:
        self._learner, self._stream, self._path = learner, stream, path
        self._settings, self._progress = settings, progress
        self._saved_at = time.monotonic()

    def save_if_due(self) -> None:
        """Write a checkpoint if the last one is too old.

        Raises:
            DivergedError: The run has diverged.
            InputError: The disk refused.
        """
        if time.monotonic() - self._saved_at >= self._settings.checkpoint_s:
            self.save()

    def require_finite(self) -> None:
        """Refuse to go on with weights or statistics that are infinite or not a number.

        Raises:
            DivergedError: The run has diverged.
        """
        # Normalisation statistics overflow before the loss does: nothing broken may replace a good checkpoint.
        for name, value in self._learner.model.state_dict().items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise diverged(name, "infinite or NaN", self._learner.position)

    def save(self, *, last: bool = False) -> None:
        """Write a checkpoint, on the first rank.

        Args:
            last: No other follows in this process: then a mirror that refuses is an error.

        Raises:
            DivergedError: The run has diverged; the checkpoint on disk stays.
            InputError: The disk refused; likewise.
            DeliveryError: The mirror refused the last one.
        """
        self.require_finite()
        self._saved_at = time.monotonic()
        settings = self._settings
        if not settings.ranks.first:
            return
        self._learner.position.stream_bytes = self._stream.flush()
        checkpoint.save(
            self._path,
            self._learner.state(),
            config_sha256=settings.config_sha256,
            dataset_sha256=settings.dataset_sha256,
        )
        if settings.mirror is None:
            return
        try:
            settings.mirror.push(RESUMED_FROM)
        except DeliveryError as exc:
            if last:
                raise
            self._progress.line(f"the mirror is behind: {exc}")


def diverged(what: str, got: object, here: Position) -> DivergedError:
    """Say that a run has left the numbers.

    Args:
        what: Loss, gradient or the name of a tensor.
        got: Its value.
        here: Where the run stands.

    Returns:
        The error to raise.
    """
    return DivergedError(
        f"{what} is not a number any more in epoch {here.epoch + 1}, batch {here.batch + 1}",
        got=got,
        fix="The last checkpoint is intact. Lower optimizer.lr, or set optimizer.clip.",
    )
