# ruff: noqa: TID253 - looks into torch tensors
"""When a checkpoint is written, and what may never be written into one."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from bundle.errors import ConfigError
from train import checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from train.learner import Learner, Position
    from train.stream import MetricStream


class DivergedError(ConfigError):
    """A run left the numbers; its settings have to change."""


class Saver:
    """Writes the run's checkpoint, at each epoch's end and whenever it has become too old.

    Args:
        learner: What to save.
        stream: Made durable before each checkpoint, which remembers its size.
        path: Where to save.
        hashes: `config_sha256` and `dataset_sha256`, as `train.checkpoint.save` takes them.
        every_s: Age at which a checkpoint is too old, seconds.
    """

    def __init__(
        self, learner: Learner, stream: MetricStream, path: Path, hashes: dict[str, str], every_s: float
    ) -> None:
        self._learner, self._stream, self._path = learner, stream, path
        self._hashes, self._every_s = hashes, every_s
        self._saved_at = time.monotonic()

    def save_if_due(self) -> None:
        """Write a checkpoint if the last one is too old.

        Raises:
            DivergedError: The run has diverged.
            InputError: The disk refused.
        """
        if time.monotonic() - self._saved_at >= self._every_s:
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

    def save(self) -> None:
        """Write a checkpoint.

        Raises:
            DivergedError: The run has diverged; the checkpoint on disk stays.
            InputError: The disk refused; likewise.
        """
        self.require_finite()
        self._learner.position.stream_bytes = self._stream.flush()
        checkpoint.save(self._path, self._learner.state(), **self._hashes)
        self._saved_at = time.monotonic()


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
