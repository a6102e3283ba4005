from __future__ import annotations

import numpy as np
import pytest

from bundle.errors import InputError
from bundle.manifest import Preprocessing
from bundle.preprocess import normalize_batch, preprocess, resize

_RGB = Preprocessing(size_wh=(8, 8), mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))


def _flat(
    blue: int, green: int, red: int, size_wh: tuple[int, int] = (8, 8)
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((size_wh[1], size_wh[0], 3), (blue, green, red), np.uint8)


def test_preprocess_follows_the_formula_in_rgb_order() -> None:
    tensor = preprocess(_flat(51, 102, 204), _RGB)
    expected = [(204 / 255 - 0.1) / 0.5, (102 / 255 - 0.2) / 0.25, (51 / 255 - 0.3) / 0.125]
    assert tensor.dtype == np.float32
    assert tensor.shape == (3, 8, 8)
    np.testing.assert_allclose(tensor[:, 3, 5], expected, rtol=1e-5)


def test_preprocess_keeps_bgr_when_the_bundle_says_so() -> None:
    spec = Preprocessing(size_wh=(8, 8), color="BGR", mean=(0, 0, 0), std=(1, 1, 1))
    np.testing.assert_allclose(preprocess(_flat(51, 102, 204), spec)[:, 0, 0], [0.2, 0.4, 0.8], rtol=1e-6)


def test_preprocess_is_contiguous_and_equal_to_a_batch_of_one() -> None:
    image = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    single = preprocess(image, _RGB)
    assert single.flags.c_contiguous
    np.testing.assert_array_equal(single, normalize_batch(resize(image, _RGB)[np.newaxis], _RGB)[0])


def test_resize_at_the_right_size_returns_the_same_pixels() -> None:
    image = _flat(1, 2, 3)
    assert resize(image, _RGB) is image


def test_resize_squash_fills_the_whole_input() -> None:
    image = np.zeros((20, 40, 3), np.uint8)
    image[:, 20:] = 255
    small = resize(image, _RGB)
    assert (small[:, :4] == 0).all()
    assert (small[:, 4:] == 255).all()


def test_resize_letterbox_keeps_the_aspect_and_pads() -> None:
    spec = Preprocessing(size_wh=(8, 8), resize="letterbox", pad=7)
    small = resize(np.full((20, 40, 3), 200, np.uint8), spec)
    assert (small[2:6] == 200).all()
    assert (small[:2] == 7).all()
    assert (small[6:] == 7).all()


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((8, 8, 3), np.float32)],
    ids=["grey", "alpha", "float"],
)
def test_preprocess_what_is_no_colour_image_is_refused(image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    with pytest.raises(InputError, match="expected uint8"):
        preprocess(image, _RGB)
