from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest

from bundle.errors import InputError
from tests.train.data.sources import pairs_source
from train.data.columns import LOCATION_NAME, MANIFEST_NAME, SCHEMA
from train.data.importing import import_abid
from train.data.manifest import Dataset
from train.data.split import split

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    source = pairs_source(tmp_path / "source", bins=30)
    return import_abid(source.folder, tmp_path / "set", workers=1).dataset


def test_dataset_numeric_columns_are_views_without_objects(dataset: Dataset) -> None:
    for column, kind in ((dataset.counts, np.int32), (dataset.groups, np.int32), (dataset.blurs, np.float32)):
        assert column.dtype == kind
        assert not column.flags.owndata
        assert not column.flags.writeable


def test_dataset_opened_again_is_the_same(dataset: Dataset) -> None:
    again = Dataset.open(dataset.folder)
    assert again.digest == dataset.digest
    assert again.table.equals(dataset.table)
    assert again.note == dataset.note


def test_dataset_select_by_split_and_counts_gives_ascending_rows(dataset: Dataset) -> None:
    divided = split(dataset)
    train = divided.select(split="train")
    assert (np.diff(train) > 0).all()
    both = divided.select(split=["train", "val"], counts=range(2, 4))
    assert set(divided.counts[both].tolist()) == {2, 3}
    codes = divided.split_codes()
    assert set(np.array(divided.split_names())[codes[both]]) == {"train", "val"}
    assert len(divided.select()) == len(divided)


def test_dataset_select_unknown_split_says_which_exist(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="no split at all"):
        dataset.select(split="train")
    with pytest.raises(InputError, match="test, train, val"):
        split(dataset).select(split="dev")


def test_dataset_split_changes_the_digest_and_keeps_the_history(dataset: Dataset) -> None:
    divided = split(dataset)
    assert divided.digest != dataset.digest
    assert divided.note["import"] == dataset.note["import"]
    assert divided.note["split"]["method"] == "grouped"
    assert Dataset.open(dataset.folder).digest == divided.digest


def test_dataset_preview_writes_nothing(dataset: Dataset) -> None:
    codes = np.zeros(len(dataset), dtype=np.int64)
    planned = dataset.preview(dataset.with_splits(codes, ["train"]), {})
    assert planned.split_names() == ("train",)
    assert Dataset.open(dataset.folder).digest == dataset.digest


def test_dataset_open_elsewhere_fails_with_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bintally data import"):
        Dataset.open(tmp_path)


def test_dataset_open_damaged_manifest_fails(dataset: Dataset) -> None:
    path = dataset.folder / MANIFEST_NAME
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot be read"):
        Dataset.open(dataset.folder)


def test_dataset_open_foreign_parquet_fails(dataset: Dataset) -> None:
    foreign = dataset.table.select(["id"]).replace_schema_metadata(None)
    pq.write_table(foreign, dataset.folder / MANIFEST_NAME)
    with pytest.raises(InputError, match="another format"):
        Dataset.open(dataset.folder)
    pq.write_table(foreign.replace_schema_metadata({b"bintally.format": b"1"}), dataset.folder / MANIFEST_NAME)
    with pytest.raises(InputError, match="other columns"):
        Dataset.open(dataset.folder)


@pytest.mark.parametrize("content", ["", "{}", "[]", '"x"'])
def test_dataset_open_without_location_says_what_is_missing(dataset: Dataset, content: str) -> None:
    (dataset.folder / LOCATION_NAME).write_text(content)
    with pytest.raises(InputError, match="where the photos lie"):
        Dataset.open(dataset.folder)


def test_dataset_location_may_be_edited_when_photos_move(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "source").rename(tmp_path / "elsewhere")
    (dataset.folder / LOCATION_NAME).write_text(json.dumps({"image_root": str(tmp_path / "elsewhere")}))
    moved = Dataset.open(dataset.folder)
    assert moved.path_of(0).exists()
    assert moved.digest == dataset.digest


def test_manifest_columns_are_the_documented_ones(repository: Path) -> None:
    page = (repository / "docs" / "datasets.md").read_text()
    assert [name for name in SCHEMA.names if f"| `{name}` |" not in page] == []
