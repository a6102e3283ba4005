"""Several runs as one result."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from bundle.errors import ConfigError, InputError
from tests.train.tiny import config, write_source
from train.answers import Answers
from train.cli_evaluate import evaluate
from train.data.importing import import_abid
from train.data.manifest import Dataset
from train.data.split import plan, split
from train.folds import fold_splits
from train.job import train
from train.place import Place
from train.pool import compare_pools, measure_pool, pool
from train.progress import Silent

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = ("1", "2", "3")


def _answers(said: list[int], true: list[int], *, first: int = 0) -> Answers:
    logits = np.full((len(said), 3), -20.0, np.float32)
    logits[np.arange(len(said)), np.array(said) - 1] = 20.0
    return Answers(CLASSES, [f"{first + index:05d}" for index in range(len(said))], np.array(true), logits)


def test_pool_of_folds_counts_every_photo_once() -> None:
    found = measure_pool(pool([_answers([1, 2], [1, 3]), _answers([3, 3, 1], [3, 3, 3], first=2)]))
    assert (found["n"], found["runs"]) == (5, 2)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["within_1"] == pytest.approx(4 / 5)
    assert found["rmse"] == pytest.approx(np.sqrt((1 + 4) / 5))
    assert found["mae"] == pytest.approx(3 / 5)


def test_pool_of_seeds_resamples_photos_and_not_answers() -> None:
    rng = np.random.default_rng(0)
    true = rng.integers(1, 4, 200).tolist()
    said = rng.integers(1, 4, 200).tolist()
    one, five = (measure_pool(pool([_answers(said, true)] * seeds)) for seeds in (1, 5))
    # The same answers five times are no more evidence than once.
    assert five["accuracy_ci"] == pytest.approx(one["accuracy_ci"])
    assert five["n"] == 200


def test_compare_pools_sees_a_small_difference_that_overlapping_intervals_hide() -> None:
    rng = np.random.default_rng(1)
    true = rng.integers(1, 4, 400)
    theirs = np.where(rng.random(400) < 0.5, true, true % 3 + 1)
    ours = np.where(np.arange(400) < 20, true, theirs)
    better, worse = (pool([_answers(said.tolist(), true.tolist())]) for said in (ours, theirs))
    difference = compare_pools(better, worse)
    assert difference["accuracy"] == pytest.approx((ours == true).mean() - (theirs == true).mean())
    assert difference["accuracy_ci"][0] > 0
    assert measure_pool(better)["accuracy_ci"][0] < measure_pool(worse)["accuracy_ci"][1]


def test_compare_pools_of_other_photos_is_refused() -> None:
    with pytest.raises(InputError, match="not judged on the same photos"):
        compare_pools(pool([_answers([1], [1])]), pool([_answers([1], [1], first=7)]))


def test_pool_that_disagrees_about_a_label_is_refused() -> None:
    with pytest.raises(InputError, match="00000"):
        pool([_answers([1], [1]), _answers([1], [2])])


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folded")
    imported = import_abid(write_source(folder / "source", 90, counts=(1, 2, 3)), folder / "dataset", workers=1)
    split(imported.dataset, plan("kfold", folds=3))
    return folder / "dataset"


def test_fold_splits_learn_from_all_other_folds(folded: Path) -> None:
    assert fold_splits(folded, 1) == ("fold0,fold2", "fold1")
    with pytest.raises(ConfigError, match="no fold 3"):
        fold_splits(folded, 3)


def test_select_of_joined_splits_is_their_union(folded: Path) -> None:
    dataset = Dataset.open(folded)
    both = dataset.select(split="fold0,fold2")
    assert both.tolist() == dataset.select(split=["fold0", "fold2"]).tolist()
    assert len(both) + len(dataset.select(split="fold1")) == len(dataset)
    with pytest.raises(InputError, match="no split fold9"):
        dataset.select(split="fold0,fold9")


def test_evaluate_pool_of_folds_judges_every_photo_of_the_dataset(folded: Path, tmp_path: Path) -> None:
    for fold in range(3):
        learned, judged = fold_splits(folded, fold)
        place = Place(dataset=folded, out=tmp_path / f"k{fold}", device="cpu", threads=1)
        train(config(train_split=learned, eval_split=judged, epochs=1), place, progress=Silent())
    runs = [str(tmp_path / f"k{fold}") for fold in range(3)]

    def judge(*flags: str) -> dict[str, object]:
        done = CliRunner().invoke(evaluate, [*runs, "--pool", "--json", *flags], catch_exceptions=False)
        found: dict[str, object] = json.loads(done.stdout)
        return found

    kept = judge()
    assert (kept["n"], kept["runs"]) == (len(Dataset.open(folded)), 3)
    asked = judge("--data", str(folded))
    assert {name: kept[name] for name in ("n", "accuracy", "rmse")} == pytest.approx(
        {name: asked[name] for name in ("n", "accuracy", "rmse")}
    )
    assert judge("--data", str(folded), "--tta")["rmse_posterior_mean"] != asked["rmse_posterior_mean"]
    same = judge(*(word for run in runs for word in ("--against", run)))
    assert same["difference"]["accuracy_ci"] == [0.0, 0.0]  # type: ignore[index]  # a JSON object


def test_evaluate_many_targets_without_pool_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--pool"):
        CliRunner().invoke(evaluate, [str(tmp_path), str(tmp_path)], catch_exceptions=False)


def test_narrowed_answers_are_those_given_that_the_count_is_one_of_the_classes() -> None:
    logits = np.log(np.array([[0.6, 0.3, 0.1], [0.8, 0.1, 0.1], [0.5, 0.2, 0.3]], np.float32))
    narrowed = Answers(("0", "1", "2+"), ["a", "b", "c"], np.array([1, 0, 7]), logits).narrowed(("1", "2+"))
    assert narrowed.ids == ["a", "c"]
    judged = narrowed.judged()
    assert judged.posterior == pytest.approx(np.array([[0.75, 0.25], [0.4, 0.6]]))
    assert judged.answer.tolist() == judged.truth.tolist() == [0, 1]


def test_narrowed_to_a_class_that_the_counter_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not answer with these count classes") as caught:
        _answers([1], [1]).narrowed(("1", "4"))
    assert "4" in str(caught.value)
