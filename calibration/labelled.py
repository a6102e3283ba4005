"""What calibration learns from: a model's outputs on visits whose count a person has confirmed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bundle.counter import posterior_from_logits
from bundle.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Labelled:
    """Outputs of one model on visits whose count is known.

    Attributes:
        logits: float32, (F, K), finite; one row per frame.
        truth: int64, (V,), class indices 0..K-1; one per visit.
        visits: int64, (F,), the visit of each frame, 0..V-1; None when every visit has one frame.
        groups: int64, (V,), visits of one bin share a number and are never split up; None when all are independent.
    """

    logits: NDArray[np.float32]
    truth: NDArray[np.int64]
    visits: NDArray[np.int64] | None = None
    groups: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        """Check the shapes once.

        Raises:
            InputError: The arrays do not belong together.
        """
        frames, classes = self.logits.shape
        count = frames if self.visits is None else len(self.truth)
        usable = frames > 0 and self.truth.shape == (count,) and count > 0
        usable = usable and bool(0 <= self.truth.min() <= self.truth.max() < classes)
        if usable and self.visits is not None:
            usable = self.visits.shape == (frames,) and bool(np.array_equal(np.unique(self.visits), np.arange(count)))
        if not usable or (self.groups is not None and self.groups.shape != (count,)):
            raise InputError(
                "calibration frames are not usable",
                got=f"logits {self.logits.shape}, truth {self.truth.shape}",
                expected="(F, K) logits, a class index below K for every visit, and a visit for every frame",
            )

    def __len__(self) -> int:
        """Number of visits."""
        return len(self.truth)

    def posteriors(self, temperature: float, ordinal: tuple[float, float] | None = None) -> NDArray[np.float64]:
        """What a robot would say of each visit, its frames fused as `bundle.counter.fuse` does.

        Args:
            temperature: Above 0.
            ordinal: Tilt and curvature, or None; see `bundle.counter.posterior_from_logits`.

        Returns:
            float64, (V, K), rows sum to 1.
        """
        frames = posterior_from_logits(self.logits, temperature, ordinal)
        if self.visits is None:
            return frames
        fused = np.zeros((len(self.truth), frames.shape[1]))
        np.add.at(fused, self.visits, frames)
        return np.asarray(fused / np.bincount(self.visits)[:, np.newaxis])

    def take(self, rows: NDArray[np.int64]) -> Labelled:
        """Some of the visits with all their frames.

        Args:
            rows: int64, (M,), positions of visits; a repeated one counts twice.

        Returns:
            Their outputs, in that order.
        """
        groups = None if self.groups is None else self.groups[rows]
        if self.visits is None:
            return Labelled(self.logits[rows], self.truth[rows], None, groups)
        frames = [np.flatnonzero(self.visits == row) for row in rows]
        visits = np.repeat(np.arange(len(rows)), [len(part) for part in frames])
        return Labelled(self.logits[np.concatenate(frames)], self.truth[rows], visits, groups)
