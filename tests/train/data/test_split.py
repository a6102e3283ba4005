from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.errors import ConfigError, InputError
from tests.train.data.sources import jpeg, pairs_source, write_csv
from train.data.audit import audit
from train.data.importing import ImportOptions, import_abid, import_listing
from train.data.layouts import list_csv
from train.data.manifest import Dataset
from train.data.split import assign, deal, plan, split

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    work = tmp_path_factory.mktemp("split")
    return import_abid(pairs_source(work / "source", bins=100).folder, work / "set", workers=1).dataset


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), min_size=30, max_size=300),
    st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_deal_never_tears_a_group_and_keeps_shares(photos: list[tuple[int, int]], seed: int) -> None:
    groups, counts = (np.array(column) for column in zip(*photos, strict=True))
    shares = np.array([0.6, 0.3, 0.1])
    found = deal(groups, counts.astype(np.int32), shares, seed)
    for group in np.unique(groups):
        assert len(np.unique(found[groups == group])) == 1
    largest = np.bincount(groups).max()
    for code, share in enumerate(shares):
        assert abs((found == code).sum() - share * len(groups)) <= 7 * largest


def test_deal_is_even_over_classes_of_single_photos() -> None:
    counts = np.repeat(np.arange(6), 100).astype(np.int32)
    found = deal(np.arange(600), counts, np.array([0.8, 0.1, 0.1]), 3)
    for count in range(6):
        assert np.bincount(found[counts == count]).tolist() == [80, 10, 10]


def test_split_grouped_keeps_pairs_together_and_is_repeatable(dataset: Dataset) -> None:
    first, second = (assign(dataset, plan(seed=5)) for _ in range(2))
    assert (first == second).all()
    assert (assign(dataset, plan(seed=6)) != first).any()
    assert all(len(np.unique(first[dataset.groups == group])) == 1 for group in np.unique(dataset.groups))
    assert np.bincount(first).tolist() == [160, 20, 20]


def test_split_random_tears_pairs(dataset: Dataset) -> None:
    codes = assign(dataset, plan("random"))
    torn = codes[0::2] != codes[1::2]
    assert torn.mean() > 0.2


def test_split_kfold_gives_equal_folds_of_whole_groups(dataset: Dataset) -> None:
    codes = assign(dataset, plan("kfold", folds=4))
    assert np.bincount(codes).tolist() == [50, 50, 50, 50]
    assert (codes[0::2] == codes[1::2]).all()


@pytest.mark.parametrize(
    ("shares", "words"),
    [({"train": 0.5, "val": 0.6}, "add up"), ({}, "add up"), ({"train": 1.5, "val": -0.5}, "positive")],
)
def test_plan_bad_shares_are_refused(shares: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        plan(shares=shares)


def test_plan_one_fold_is_refused() -> None:
    with pytest.raises(ConfigError, match="folds"):
        plan("kfold", folds=1)


def test_split_more_splits_than_groups_names_the_empty_one(tmp_path: Path) -> None:
    dataset = import_abid(pairs_source(tmp_path / "source", bins=1).folder, tmp_path / "set", workers=1).dataset
    with pytest.raises(InputError, match="too small to split: nothing is left for"):
        split(dataset)
    assert Dataset.open(dataset.folder).split_names() == ()


def test_split_without_records_guards_the_edges_of_blocks(tmp_path: Path) -> None:
    (tmp_path / "one.jpg").write_bytes(jpeg(1))
    rows: list[dict[str, object]] = [{"path": "one.jpg", "id": f"{number:05d}", "count": 1} for number in range(4000)]
    listing = list_csv(write_csv(tmp_path / "photos.csv", rows))
    dataset = split(import_listing(listing, tmp_path / "set", ImportOptions(open_photos=False)).dataset)
    codes = dataset.split_codes()
    guards = np.flatnonzero(codes < 0)
    assert 0 < len(guards) < 20
    assert ((guards + 1) % 200 == 0).all()
    assert audit(dataset).leaks == 0
    neighbours_differ = (codes[:-1] != codes[1:]) & (codes[:-1] >= 0) & (codes[1:] >= 0)
    assert not neighbours_differ.any()
