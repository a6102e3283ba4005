"""Visits whose truth is known by construction, as logits: what calibration is tested on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bundle.counter import posterior_from_logits
from calibration.labelled import Labelled

if TYPE_CHECKING:
    from numpy.typing import NDArray


def honest(visits: int, seed: int, *, stretch: float = 1.0, sharpness: float = 3.0, classes: int = 5) -> Labelled:
    """Logits whose softmax, at temperature `stretch`, is the true probability of each class."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, sharpness, (visits, classes)).astype(np.float32)
    return Labelled(logits * np.float32(stretch), _draw(rng, posterior_from_logits(logits, 1.0)))


def ordinal(visits: int, seed: int, *, noise: float = 0.8, stretch: float = 2.0, classes: int = 6) -> Labelled:
    """A counter that sees the count through noise, as a network on bin photos does: its mistakes are near misses."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, visits)
    seen = truth + rng.normal(0, noise, visits)
    distance = np.arange(classes)[np.newaxis] - seen[:, np.newaxis]
    logits = -(distance**2) / (2 * noise**2) + rng.normal(0, 0.3, distance.shape)
    return Labelled((logits * stretch).astype(np.float32), truth.astype(np.int64))


def _draw(rng: np.random.Generator, posterior: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.array([rng.choice(posterior.shape[1], p=row) for row in posterior], dtype=np.int64)
