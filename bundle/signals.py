"""What a visit looks like in a few numbers: the input to drift detection. Pure.

Everything is measured on the picture as the network gets it (after `bundle.preprocess.resize`): what does not show
there cannot cost a count. The answer's own signals (entropy, energy, unsure) come from the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

VIEW_WH = (32, 24)
"""Size of the view: a picture so small that it shows the bin's frame and not the items."""
FRAME_SIGNALS = ("brightness", "contrast", "sharpness", "red", "blue", "shift_x", "shift_y", "zoom")
ANSWER_SIGNALS = ("entropy", "energy", "unsure")
SIGNALS = (*FRAME_SIGNALS, *ANSWER_SIGNALS)


@dataclass(frozen=True, slots=True)
class Look:
    """One frame's numbers.

    Attributes:
        brightness: Mean grey level, 0..255.
        contrast: Standard deviation of the grey levels.
        sharpness: Logarithm of 1 + variance of the Laplacian.
        red: Logarithm of mean red over mean green.
        blue: Logarithm of mean blue over mean green.
        view: float32, (24, 32): the small grey picture, mean 0, standard deviation 1.
    """

    brightness: float
    contrast: float
    sharpness: float
    red: float
    blue: float
    view: NDArray[np.float32]


def look(picture_bgr: NDArray[np.uint8]) -> Look:
    """Measure a frame.

    Args:
        picture_bgr: uint8, (h, w, 3), BGR, at the network's size.

    Returns:
        Its numbers.
    """
    blue, green, red = (channel + 1.0 for channel in cv2.mean(picture_bgr)[:3])
    grey = cv2.cvtColor(picture_bgr, cv2.COLOR_BGR2GRAY)
    mean, deviation = cv2.meanStdDev(grey)
    _, edges = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S, ksize=1))
    small = cv2.resize(grey, VIEW_WH, interpolation=cv2.INTER_AREA).astype(np.float32)
    # A flat picture has no view: the floor of 1 keeps it near zero instead of blowing up its noise.
    view = (small - small.mean()) / max(float(small.std()), 1.0)
    return Look(
        brightness=float(mean[0, 0]),
        contrast=float(deviation[0, 0]),
        sharpness=float(np.log1p(edges[0, 0] ** 2)),
        red=float(np.log(red / green)),
        blue=float(np.log(blue / green)),
        view=view,
    )


def displacement(view: NDArray[np.float32], reference: NDArray[np.float32]) -> tuple[float, float, float]:
    """Estimate how far a view lies from the reference view, by least squares on the reference's slopes.

    Items make one visit's estimate noisy; its mean over visits is what drift detection watches.

    Args:
        view: float32, (24, 32), from `look`.
        reference: float32, (24, 32): mean view of many visits.

    Returns:
        Shift to the right and downwards as shares of the picture's width and height, and growth (0.1 is 10 % larger).
    """
    rows, columns = reference.shape
    slope_y, slope_x = np.gradient(reference.astype(np.float64))
    y, x = np.mgrid[:rows, :columns]
    radial = -((x - (columns - 1) / 2) * slope_x + (y - (rows - 1) / 2) * slope_y)
    basis = np.stack([reference.ravel(), -slope_x.ravel(), -slope_y.ravel(), radial.ravel()], axis=1)
    (_, shift_x, shift_y, zoom), *_ = np.linalg.lstsq(basis, view.ravel().astype(np.float64), rcond=None)
    return float(shift_x) / columns, float(shift_y) / rows, float(zoom)


def frame_signals(looks: Sequence[Look], reference_view: NDArray[np.float32]) -> NDArray[np.float64]:
    """Numbers of one visit's frames.

    Args:
        looks: Of the frames of one visit, at least one.
        reference_view: float32, (24, 32).

    Returns:
        float64, (8,), in the order of FRAME_SIGNALS, averaged over the frames.
    """
    rows = [
        (one.brightness, one.contrast, one.sharpness, one.red, one.blue, *displacement(one.view, reference_view))
        for one in looks
    ]
    return np.asarray(np.mean(rows, axis=0))


def answer_signals(
    logits: NDArray[np.float32], posterior: NDArray[np.float64], *, confident: bool
) -> NDArray[np.float64]:
    """Numbers of one visit's answer.

    Args:
        logits: float32, (N, K), of its frames.
        posterior: float64, (K,), fused and calibrated.
        confident: What the count was called.

    Returns:
        float64, (3,), in the order of ANSWER_SIGNALS.
    """
    entropy = -float(np.sum(posterior * np.log(np.maximum(posterior, 1e-12))))
    wide = logits.astype(np.float64)
    peak = wide.max(axis=1)
    energy = float(np.mean(peak + np.log(np.exp(wide - peak[:, np.newaxis]).sum(axis=1))))
    return np.array([entropy, energy, 0.0 if confident else 1.0])
