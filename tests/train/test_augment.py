from __future__ import annotations

import cv2
import numpy as np
import pytest

from train.augment import augment, inside_affine, photo_rng
from train.sections import AugmentConfig

EXTREME = AugmentConfig(geometry=1, rotate_deg=15, shrink=0.4, flip=0.5, blur=0, noise=0, grey=0)


@pytest.mark.parametrize(("width", "height"), [(64, 64), (90, 40)])
def test_inside_affine_keeps_every_corner_in_the_frame(width: int, height: int) -> None:
    corners = np.array([[x, y, 1] for x in (-0.5, width - 0.5) for y in (-0.5, height - 0.5)])
    for index in range(300):
        moved = corners @ inside_affine(width, height, EXTREME, photo_rng(0, 0, str(index))).T
        assert moved.min() >= -0.5 - 1e-6
        assert (moved <= np.array([width, height]) - 0.5 + 1e-6).all()


def test_augment_items_at_the_border_all_survive() -> None:
    # Four marks of the same colour at the very corners: whatever is done, four blobs remain.
    image = np.full((96, 96, 3), 40, np.uint8)
    for x in (2, 82):
        for y in (2, 82):
            image[y : y + 12, x : x + 12] = 220
    config = EXTREME.model_copy(update={"brightness": 0.0, "contrast": 0.0, "colour": 0.0})
    for index in range(200):
        found = augment(image, config, photo_rng(1, 0, str(index)))
        blobs, _ = cv2.connectedComponents((found[..., 0] > 130).astype(np.uint8))
        assert blobs - 1 == 4, index


def test_photo_rng_depends_on_seed_epoch_and_spelling() -> None:
    draws = {photo_rng(*key).random() for key in [(0, 0, "1044"), (0, 0, "01044"), (0, 1, "1044"), (1, 0, "1044")]}
    assert len(draws) == 4
    assert photo_rng(0, 0, "1044").random() in draws


def test_augment_leaves_its_input_alone() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    before = image.copy()
    found = augment(image, AugmentConfig(flip=1, geometry=1, grey=1, blur=1, noise=1), photo_rng(0, 0, "a"))
    assert np.array_equal(image, before)
    assert not np.array_equal(found, before)
    assert found.dtype == np.uint8
    assert found.shape == (32, 32, 3)
    assert found.flags["C_CONTIGUOUS"]


def test_augment_everything_off_changes_nothing() -> None:
    off = AugmentConfig(flip=0, geometry=0, brightness=0, contrast=0, colour=0, grey=0, blur=0, noise=0)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(augment(image, off, photo_rng(0, 0, "a")), image)
