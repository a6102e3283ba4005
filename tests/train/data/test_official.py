from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bundle.errors import InputError
from tests.train.data.sources import AbidSource
from train.data.importing import import_abid
from train.data.manifest import Dataset
from train.data.official import split_official

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    source = AbidSource(tmp_path / "source")
    for identity, count in (("00001", 2), ("00002", 3), ("00003", 1), ("00004", 5), ("2", 4), ("100001", 2)):
        source.add(identity, count)
    return import_abid(source.folder, tmp_path / "set", workers=1).dataset


def _list(path: Path, entries: object) -> Path:
    path.write_text(json.dumps(entries))
    return path


def test_split_official_shifts_the_index_by_one_and_means_padded_names(dataset: Dataset, tmp_path: Path) -> None:
    train = _list(tmp_path / "train.json", [[0, 2], [2, 1], [100_000, 2]])
    val = _list(tmp_path / "val.json", [[1, 3], [700, 3], [3, 4]])
    found = split_official(dataset, train, val)
    splits = dict(zip(found.dataset.ids.to_pylist(), found.dataset.splits.to_pylist(), strict=True))
    assert splits == {"00001": "train", "00002": "val", "00003": "train", "00004": "", "2": "", "100001": "train"}
    assert found.other_count == ("00004",)
    assert found.absent == 1
    assert found.unlisted == 1
    assert Dataset.open(dataset.folder).split_names() == ()


@pytest.mark.parametrize(
    ("train", "val", "words"),
    [
        ([[0, 2]], [[0, 2]], "share 1 photos"),
        ([[0, 2], [0, 2]], [[1, 3]], "lists a photo twice"),
        ([[500, 2]], [[501, 3]], "no photo of"),
        ({"a": 1}, [[1, 3]], "not a list of the counting challenge"),
        ([[0, "2"]], [[1, 3]], "0.1"),
        ([[-1, 2]], [[1, 3]], "greater than or equal to 0"),
        ([], [[1, 3]], "is empty"),
    ],
)
def test_split_official_bad_lists_fail_clearly(
    dataset: Dataset, tmp_path: Path, train: object, val: object, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        split_official(dataset, _list(tmp_path / "train.json", train), _list(tmp_path / "val.json", val))


def test_split_official_missing_list_names_the_file(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json cannot be read"):
        split_official(dataset, tmp_path / "absent.json", tmp_path / "absent.json")
