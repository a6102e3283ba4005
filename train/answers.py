"""What a counter said about photos, and the file that keeps it (predictions.npz)."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle import durable
from bundle.counter import posterior_from_logits
from bundle.errors import ConfigError, InputError
from bundle.manifest import class_index
from train import metrics

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from bundle.manifest import CountClasses


@dataclass(frozen=True, slots=True)
class Answers:
    """What a counter said about photos.

    Attributes:
        classes: Count classes.
        ids: Photo ids.
        counts: int64 (N,), true counts.
        logits: float32 (N, K); for a bundle the logarithm of its calibrated posterior.
    """

    classes: CountClasses
    ids: list[str]
    counts: NDArray[np.int64]
    logits: NDArray[np.float32]

    def judged(self) -> metrics.Judged:
        """Put the answers beside the truth.

        Returns:
            What `train.metrics` measures.

        Raises:
            InputError: A count that no class covers, or an answer that is not finite.
        """
        found = [class_index(self.classes, int(count)) for count in self.counts]
        truth = np.array([-1 if index is None else index for index in found], dtype=np.int64)
        return metrics.judge(truth, posterior_from_logits(self.logits, 1.0), self.classes)

    def narrowed(self, classes: CountClasses) -> Answers:
        """The same answers, given that the count is one of fewer classes.

        Args:
            classes: Some of the counter's own, by name.

        Returns:
            Answers for the photos with those counts; their softmax is the posterior given those classes.

        Raises:
            ConfigError: The counter does not know one of the classes.
        """
        strange = [name for name in classes if name not in self.classes]
        if strange:
            raise ConfigError(
                "the counter does not answer with these count classes",
                got=" ".join(strange),
                expected=f"some of {' '.join(self.classes)}",
            )
        columns = [self.classes.index(name) for name in classes]
        own = [class_index(self.classes, int(count)) for count in self.counts]
        rows = np.array([row for row, index in enumerate(own) if index in columns], dtype=np.int64)
        return Answers(classes, [self.ids[row] for row in rows], self.counts[rows], self.logits[rows][:, columns])


def write_answers(path: Path, answers: Answers) -> None:
    """Keep the answers, so that every figure can be computed again.

    Args:
        path: Destination: "id", "truth" (counts, not class indices) and "logits".
        answers: What to keep.

    Raises:
        OSError: The disk refused.
    """
    buffer = io.BytesIO()
    ids = np.array(answers.ids, dtype=np.str_)
    np.savez_compressed(buffer, id=ids, truth=answers.counts, logits=answers.logits)
    durable.write_bytes(path, buffer.getvalue())


def read_answers(path: Path, classes: CountClasses) -> Answers:
    """Read back what `write_answers` wrote.

    Args:
        path: The file.
        classes: Count classes of whoever answered.

    Returns:
        The answers.

    Raises:
        InputError: The file is missing or damaged.
    """
    try:
        # From memory: numpy leaves the file open when it is no archive.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as kept:
            return Answers(classes, kept["id"].tolist(), kept["truth"], kept["logits"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as exc:
        raise InputError(
            f"cannot read {path}", got=f"{type(exc).__name__}: {exc}"[:200], fix="Finish the run, or train it again."
        ) from exc
