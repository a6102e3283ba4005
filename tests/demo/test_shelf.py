"""What the tour's robot drives along."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.errors import InputError
from bundle.images import read
from demo.render import sample_count
from demo.seeds import tour_seed
from demo.shelf import believed, borrow_shelf, render_shelf

if TYPE_CHECKING:
    from pathlib import Path


def test_render_shelf_gives_photos_truth_and_records_for_the_same_bins(tmp_path: Path) -> None:
    ticks: list[int] = []
    shelf = render_shelf(tmp_path, frames=12, seed=3, tick=lambda: ticks.append(1))
    photos = sorted((tmp_path / "bins").iterdir())
    assert [photo.stem for photo in photos] == list(shelf.truth)
    assert all(read(photo).shape == (340, 490, 3) for photo in photos)
    assert list(shelf.truth.values()) == [sample_count(tour_seed(3, index)) for index in range(12)]
    assert shelf.records is not None
    with shelf.records.open() as handle:
        assert [row["bin_id"] for row in csv.DictReader(handle)] == list(shelf.truth)
    assert len(ticks) == shelf.frames == 12


def test_believed_is_mostly_true_and_never_negative() -> None:
    truth = {str(number): number % 6 for number in range(2000)}
    records = believed(truth, 1)
    wrong = np.mean([records[name] != truth[name] for name in truth])
    assert 0.05 < wrong < 0.14
    assert min(records.values()) >= 0
    assert believed(truth, 1) == records


def test_render_shelf_seed_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="seed"):
        render_shelf(tmp_path, frames=1, seed=10**9)


def test_borrow_shelf_of_a_folder_links_the_first_photos_only(tmp_path: Path) -> None:
    photos, work = tmp_path / "photos", tmp_path / "work"
    photos.mkdir()
    work.mkdir()
    for name in ("c.jpg", "a.jpg", "b.JPG", "notes.txt"):
        (photos / name).write_bytes(name.encode())
    some = borrow_shelf(str(photos), work, 2)
    assert [(work / "bins" / name).read_bytes() for name in ("a.jpg", "b.JPG")] == [b"a.jpg", b"b.JPG"]
    assert (some.frames, some.truth, some.records) == (2, {}, None)
    assert borrow_shelf(str(photos), work, None).source == str(photos)


@pytest.mark.parametrize(
    ("source", "expected"), [("0", 0), ("/dev/video9", "/dev/video9"), ("rtsp://x/y", "rtsp://x/y")]
)
def test_borrow_shelf_of_a_camera_is_handed_on(tmp_path: Path, source: str, expected: int | str) -> None:
    shelf = borrow_shelf(source, tmp_path, 5)
    assert shelf.source == expected
    assert shelf.frames is None


def test_borrow_shelf_of_nothing_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere does not exist"):
        borrow_shelf(str(tmp_path / "nowhere"), tmp_path, None)
    with pytest.raises(InputError, match="holds no photos"):
        borrow_shelf(str(tmp_path), tmp_path, None)
