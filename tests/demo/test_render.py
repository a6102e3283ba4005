"""What the renderer promises: the same picture for the same seed, a true count, and items that can be seen."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest

from bundle.errors import InputError
from demo.render import MAX_COUNT, Layout, lay_out, render_bin, sample_count


def test_render_bin_same_seed_gives_equal_bytes_in_another_process() -> None:
    code = (
        "import hashlib; from demo.render import render_bin;"
        "render_bin(3); print(hashlib.sha256(render_bin(41).image_bgr.tobytes()).hexdigest())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == hashlib.sha256(render_bin(41).image_bgr.tobytes()).hexdigest()


def test_render_bin_does_not_touch_or_read_the_global_generator() -> None:
    np.random.seed(1)  # noqa: NPY002 - the point of the test
    before = render_bin(5).image_bgr
    np.random.seed(2)  # noqa: NPY002
    assert np.array_equal(before, render_bin(5).image_bgr)


def test_render_bin_other_seed_gives_another_picture() -> None:
    assert not np.array_equal(render_bin(1).image_bgr, render_bin(2).image_bgr)


@pytest.mark.parametrize("size_wh", [(490, 340), (245, 170), (372, 520), (1280, 900)])
def test_render_bin_any_size_gives_that_size_in_uint8(size_wh: tuple[int, int]) -> None:
    rendered = render_bin(8, count=3, size_wh=size_wh)
    assert rendered.image_bgr.shape == (size_wh[1], size_wh[0], 3)
    assert rendered.image_bgr.dtype == np.uint8
    assert rendered.count == 3


@pytest.mark.parametrize("count", range(MAX_COUNT + 1))
def test_render_bin_count_is_the_number_of_items_seen_in_the_id_mask(count: int) -> None:
    for seed in range(6):
        layout = lay_out(seed, count=count)
        seen = _pixels_seen(layout)
        assert len(seen) == count
        assert all(pixels > 0 for pixels in seen)
    assert render_bin(0, count=count).count == count


def test_visible_fractions_recomputed_from_outlines_agree_and_keep_the_promise() -> None:
    least = 1.0
    for seed in range(150):
        layout = lay_out(seed)
        told = layout.arrangement.visible
        for pixels, whole, fraction in zip(_pixels_seen(layout), _whole_areas(layout), told, strict=True):
            assert pixels / whole == pytest.approx(fraction, abs=1e-9)
            assert fraction >= 0.25
            least = min(least, fraction)
    assert least < 0.7  # things do hide each other, so the promise is about something


def test_min_visible_given_is_kept() -> None:
    for seed in range(40):
        assert all(item.visible >= 0.8 for item in render_bin(seed, count=6, min_visible=0.8).items)


def test_min_visible_impossible_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="min_visible=1"):
        render_bin(0, count=12, min_visible=1.0)


def test_every_item_changes_the_picture_where_it_is_visible() -> None:
    for seed in range(6):
        full, empty = render_bin(seed, count=3).image_bgr, render_bin(seed, count=0).image_bgr
        ids = _ids(lay_out(seed, count=3))
        difference = cv2.absdiff(full, empty).max(axis=2)
        for number in (1, 2, 3):
            assert difference[ids == number].mean() > difference[ids == 0].mean()


def test_sample_count_over_many_seeds_has_the_stated_distribution() -> None:
    drawn = Counter(sample_count(seed) for seed in range(4000))
    assert set(drawn) == set(range(MAX_COUNT + 1))
    for count in range(6):
        assert 0.12 < drawn[count] / 4000 < 0.16
    assert 0.13 < sum(drawn[count] for count in range(6, MAX_COUNT + 1)) / 4000 < 0.19


@pytest.mark.parametrize(
    ("seed", "count", "size_wh", "min_visible", "named"),
    [
        (-1, None, (490, 340), 0.25, "seed"),
        (0, 13, (490, 340), 0.25, "0 to 12"),
        (0, -1, (490, 340), 0.25, "0 to 12"),
        (0, None, (10, 340), 0.25, "size"),
        (0, None, (490, 340), 1.5, "visible fraction"),
    ],
)
def test_render_bin_argument_out_of_range_is_refused(
    seed: int, count: int | None, size_wh: tuple[int, int], min_visible: float, named: str
) -> None:
    with pytest.raises(InputError, match=named):
        render_bin(seed, count=count, size_wh=size_wh, min_visible=min_visible)


# An independent way to the same numbers: every outline is filled on a wide canvas of its own, and what lies before it
# is subtracted pair by pair; no id mask, no bounding rectangles.
_MARGIN = 80


def _wide_masks(layout: Layout) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
    height, width = layout.stage.frame.shape
    masks = []
    for item in layout.arrangement.silhouettes:
        mask = np.zeros((height + 2 * _MARGIN, width + 2 * _MARGIN), np.uint8)
        cv2.fillPoly(mask, [item.outline + np.int32(_MARGIN)], 1)
        masks.append(mask)
    return masks


def _inside(
    mask: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return mask[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]


def _whole_areas(layout: Layout) -> list[int]:
    return [int(mask.sum()) for mask in _wide_masks(layout)]


def _pixels_seen(layout: Layout) -> list[int]:
    masks = [_inside(mask).astype(bool) for mask in _wide_masks(layout)]
    seen = []
    for number, mask in enumerate(masks):
        free = mask & (layout.stage.frame == 0)
        for later in masks[number + 1 :]:
            free &= ~later
        seen.append(int(free.sum()))
    return seen


def _ids(layout: Layout) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    ids = np.zeros(layout.stage.frame.shape, np.int64)
    for number, mask in enumerate(_wide_masks(layout), start=1):
        ids[_inside(mask) > 0] = number
    ids[layout.stage.frame > 0] = 0
    return ids
