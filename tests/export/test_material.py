from __future__ import annotations

import numpy as np

from calibration.int8.quantize import Recipe, prepare
from export.frames import Frames
from export.material import for_fitting
from export.quantize import Judged, worst_first
from tests.simulators.networks import CLASSES, CONVOLUTIONS, images, residual_network


def test_for_fitting_keeps_a_quarter_from_the_ranges() -> None:
    random = np.random.default_rng(3)
    pixels = random.integers(0, 256, (120, 16, 16, 3), np.uint8)
    frames = Frames(np.arange(120), pixels, np.zeros(120, np.int64))
    ranges, compared = for_fitting(frames, random.normal(size=(120, CLASSES)).astype(np.float32), 32)
    assert (len(ranges), len(compared)) == (24, 8)
    assert len({*ranges.tolist(), *compared.tolist()}) == 32


def test_worst_first_looks_at_24_frames_of_those_it_is_given() -> None:
    seen: list[list[int]] = []

    def infer(
        model: bytes, dialect: str, pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        del model, dialect
        seen.append(pixels[:, 0, 0, 0].tolist())
        return np.zeros((len(pixels), CLASSES), np.float32)

    pixels = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 8, 8, 3), np.uint8)
    judged = Judged(pixels, np.zeros((40, CLASSES), np.float32), np.zeros(40, np.int64))
    order = worst_first(prepare(residual_network(), images()), Recipe("cpu"), judged, infer)
    assert sorted(order) == sorted(CONVOLUTIONS)
    assert seen == [list(range(24))] * len(CONVOLUTIONS)
