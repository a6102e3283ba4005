from __future__ import annotations

import numpy as np

from edge_agent.visits.privacy import blur_outside

_REGION = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))


def test_blur_outside_keeps_the_bin_and_hides_the_rest() -> None:
    image = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)
    before = image.copy()
    shown = blur_outside(image, _REGION)
    assert np.array_equal(image, before)
    assert np.array_equal(shown[70:170, 90:230], image[70:170, 90:230])
    outside = np.ones((240, 320), bool)
    outside[55:185, 75:245] = False
    # What is left of the noise outside is the mean of cells of 20 x 20 pixels.
    assert shown[outside].std() < image[outside].std() / 10
    assert len(np.unique(shown[:50], axis=None)) < 60


def test_blur_outside_of_a_small_picture_works() -> None:
    assert blur_outside(np.zeros((2, 3, 3), np.uint8), _REGION).shape == (2, 3, 3)
