from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from bundle.errors import ConfigError, InputError
from tests.train.data.sources import pairs_source
from train.data.balance import Method, balance, effective_weights, quota, read_sampling, write_sampling
from train.data.importing import import_abid
from train.data.split import split

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

COUNTS = np.array([1] * 10 + [2] * 40 + [3] * 25 + [7] * 3 + [9] * 2, dtype=np.int32)
ROWS = np.arange(len(COUNTS))


def _sizes(rows: NDArray[np.int64], top: int = 6) -> list[int]:
    return [int(size) for size in np.bincount(np.minimum(COUNTS[rows], top), minlength=top + 1)]


def test_balance_undersample_cuts_every_class_to_the_rarest() -> None:
    found = balance(ROWS, COUNTS, "undersample", top=6)
    assert _sizes(found.rows) == [0, 5, 5, 5, 0, 0, 5]
    assert len(np.unique(found.rows)) == 20


def test_balance_oversample_repeats_evenly_and_loses_nothing() -> None:
    found = balance(ROWS, COUNTS, "oversample", top=6)
    assert _sizes(found.rows) == [0, 40, 40, 40, 0, 0, 40]
    assert set(found.rows) == set(ROWS)
    repeats = np.bincount(found.rows)
    assert repeats[:10].tolist() == [4] * 10
    assert set(repeats[50:75].tolist()) == {1, 2}


def test_balance_effective_weighs_rare_classes_more_with_mean_one() -> None:
    found = balance(ROWS, COUNTS, "effective", beta=0.99)
    assert (found.rows == ROWS).all()
    assert found.weights.mean() == pytest.approx(1.0, abs=1e-5)
    first, second, third = (found.weights[count == COUNTS][0] for count in (1, 2, 3))
    assert first > third > second


def test_effective_weights_follow_the_published_formula() -> None:
    # (1 - 0.9) / (1 - 0.9^n) for n = 1, 2: 1 and 0.1 / 0.19, scaled to mean 1.
    raw = np.array([1.0, 0.1 / 0.19])
    assert effective_weights(np.array([1, 2]), 0.9) == pytest.approx(raw / raw.mean())
    assert effective_weights(np.array([5, 500]), 0.0).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("method", ["undersample", "oversample"])
def test_balance_is_decided_by_the_seed(method: Method) -> None:
    one, again, other = (balance(ROWS, COUNTS, method, seed=seed).rows for seed in (1, 1, 2))
    assert (one == again).all()
    assert not np.array_equal(one, other)


def test_balance_bad_options_are_refused() -> None:
    with pytest.raises(InputError, match="no photos"):
        balance(ROWS[:0], COUNTS, "effective")
    with pytest.raises(ConfigError, match="beta"):
        balance(ROWS, COUNTS, "effective", beta=1.0)


def test_quota_names_what_each_class_lacks() -> None:
    assert quota(COUNTS, 20, range(1, 5)) == {1: 10, 4: 20}


def test_sampling_is_bound_to_the_manifest_that_it_was_made_for(tmp_path: Path) -> None:
    source = pairs_source(tmp_path / "source", bins=20)
    dataset = import_abid(source.folder, tmp_path / "set", workers=1).dataset
    with pytest.raises(InputError, match="bintally data balance"):
        read_sampling(dataset)
    sampling = balance(dataset.select(), dataset.counts, "oversample")
    write_sampling(dataset, sampling, {"method": "oversample"})
    again = read_sampling(dataset)
    assert (again.rows == sampling.rows).all()
    assert (again.weights == sampling.weights).all()
    with pytest.raises(InputError, match="another manifest"):
        read_sampling(split(dataset))
