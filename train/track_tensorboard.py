# ruff: noqa: TID253 - the one file that knows TensorBoard
"""TensorBoard: RUN/tensorboard, written anew from metrics.jsonl whenever a run starts or goes on."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

from torch.utils.tensorboard import SummaryWriter

from train.tracking import scalars

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class TensorBoard:
    """Writes event files.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        # A resumed run has cut its stream; event files cannot be cut, so they are written again.
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def resume(self, records: Iterator[dict[str, Any]]) -> None:
        """Write the kept lines again.

        Args:
            records: The lines of metrics.jsonl that were kept.
        """
        for record in records:
            self.record(record)

    def record(self, record: dict[str, Any]) -> None:
        """Take one line of metrics.jsonl.

        Args:
            record: The line.
        """
        for name, value in scalars(record):
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        """Write everything out."""
        self._writer.close()
