from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from bundle.errors import InputError
from tests.train.data.sources import AbidSource, jpeg, pairs_source
from train.data.audit import audit, describe, require_clean
from train.data.columns import SCHEMA
from train.data.importing import import_abid
from train.data.split import plan, preview, split

if TYPE_CHECKING:
    from pathlib import Path

    from train.data.manifest import Dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    work = tmp_path_factory.mktemp("audit")
    return import_abid(pairs_source(work / "source", bins=100).folder, work / "set", workers=1).dataset


def _with(dataset: Dataset, codes: list[int]) -> Dataset:
    return dataset.preview(dataset.with_splits(np.array(codes), ["train", "val"]), dataset.note)


def test_audit_grouped_split_passes(dataset: Dataset) -> None:
    found = require_clean(preview(dataset, plan()))
    assert found.leaks == 0
    assert found.pairs == 100
    assert describe(found) == "no leak"


def test_audit_random_split_fails_loudly(dataset: Dataset) -> None:
    leaking = preview(dataset, plan("random"))
    with pytest.raises(InputError, match="pairs of the same bin torn apart") as caught:
        require_clean(leaking)
    assert caught.value.exit_code == 65
    found = audit(leaking)
    assert found.torn_siblings == found.torn_groups > 20
    assert found.leaking_share["val"] > 0.5
    assert len(found.examples) == 5


def test_audit_does_not_trust_the_group_column(dataset: Dataset) -> None:
    alone = pa.array(np.arange(len(dataset)), pa.int32())
    forged = dataset.preview(dataset.table.set_column(6, SCHEMA.field("group"), alone), dataset.note)
    torn = _with(forged, [0, 1] * 100)
    found = audit(torn)
    assert found.torn_groups == 0
    assert found.torn_siblings == 100


def test_audit_identical_files_in_two_splits_leak(tmp_path: Path) -> None:
    source = AbidSource(tmp_path / "source")
    source.add("00001", 1, ["A"], data=jpeg(1))
    source.add("00100", 2, ["B"], data=jpeg(1))
    dataset = import_abid(source.folder, tmp_path / "set", workers=1).dataset
    found = audit(_with(dataset, [0, 1]))
    assert (found.same_file, found.torn_groups) == (1, 1)
    assert found.examples == (("00001", "00100"),)


def test_audit_unassigned_photos_do_not_leak(dataset: Dataset) -> None:
    found = audit(_with(dataset, [0, -1] * 99 + [0, 1]))
    assert found.torn_siblings == 1
    assert found.unassigned == 99


def test_audit_article_known_elsewhere_is_counted_and_no_leak(tmp_path: Path) -> None:
    source = AbidSource(tmp_path / "source")
    source.add("00001", 1, ["A"])
    source.add("00100", 2, ["A"])
    source.add("00200", 2, ["B"])
    dataset = import_abid(source.folder, tmp_path / "set", workers=1).dataset
    found = audit(_with(dataset, [0, 1, 1]))
    assert found.leaks == 0
    assert found.shared_article_share == {"train": 1.0, "val": 0.5}


def test_audit_without_split_says_how_to_split(dataset: Dataset) -> None:
    with pytest.raises(InputError, match="bintally data split"):
        audit(dataset)


def test_audit_real_photos_grouped_passes_and_random_fails(shared: Path, tmp_path: Path) -> None:
    dataset = import_abid(shared / "abid", tmp_path / "set", photos="originals").dataset
    assert len(dataset) == 795
    assert audit(split(dataset)).leaks == 0
    found = audit(preview(dataset, plan("random")))
    assert found.torn_siblings > 50
    assert found.leaking_share["val"] > 0.5
